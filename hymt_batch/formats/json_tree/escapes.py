r"""Write a text into a JSON string with the escapes that the file uses.

A file that writes its letters beyond ASCII as `\uXXXX` alone stays ASCII; any other file gets them in UTF-8. A file
that escapes the solidus, or characters such as `<` and `&` as HTML needs them, has them escaped in translations too.
"""

from __future__ import annotations

import json
import re

from hymt_batch.formats.row_values import encodable

_HEX_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*+\\u([0-9a-fA-F]{4})")
_MUST_ESCAPE = '"\\\\\x00-\x1f'
_NOT_ASCII = "\x7f-\U0010ffff"
_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
_NO_LINE_BREAK_FOR_JAVASCRIPT = "\u2028\u2029"


class Escapes:
    """The escapes of one file.

    Args:
        data: The file.
    """

    def __init__(self, data: bytes) -> None:
        escaped = {match.decode() for match in _HEX_ESCAPE.findall(data)} if b"\\u" in data else set()
        self._is_upper = any(digits != digits.lower() for digits in escaped)
        characters = {chr(int(digits, 16)) for digits in escaped}
        is_ascii = data.isascii() and any(character > "\x9f" for character in characters)
        printable = {character for character in characters if " " < character < "\x7f" and not character.isalnum()}
        self._solidus = "/" if b"\\/" in data else ""
        classes = _MUST_ESCAPE + self._solidus + "".join(re.escape(character) for character in sorted(printable))
        classes += _NOT_ASCII if is_ascii else _NO_LINE_BREAK_FOR_JAVASCRIPT
        self._must_escape = re.compile(f"[{classes}]")
        self._by_character = dict(_SHORT)
        if self._solidus and "/" not in printable:
            self._by_character["/"] = "\\/"
        for character in printable & {'"'}:
            self._by_character.pop(character)

    def escape(self, text: str) -> bytes:
        """Return a text as it stands between the quotes; half of a surrogate pair becomes U+FFFD."""
        return self._must_escape.sub(self._escaped, encodable(text)).encode()

    def _escaped(self, match: re.Match[str]) -> str:
        character = match[0]
        if (short := self._by_character.get(character)) is not None:
            return short
        escaped = json.dumps(character)[1:-1]
        if not escaped.startswith("\\u"):  # a printable character that the file escapes
            escaped = f"\\u{ord(character):04x}"
        return "\\u" + escaped[2:].upper().replace("\\U", "\\u") if self._is_upper else escaped
