"""Find the byte spans of the fields of one JSON object in one forward pass, without holding it in memory.

For rows that no parser can read: too long, cut off, or nested too deep. Offsets are bytes from the start of the row.
Independent of files, statuses and settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from hymt_batch.formats.long_rows import MAX_SPANS

MAX_STACK = 1 << 20  # maximum nesting; a row nested deeper is treated as invalid JSON
MAX_TOKEN_BYTES = 1 << 16  # bytes of a number or a name; a longer number is invalid, a longer name ignored

_SPACE = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+"
_SCALAR = re.compile(rb"(?:" + _NUMBER + rb"|true|false|null|NaN|-?Infinity)")
_WORD = re.compile(rb"[-+.0-9A-Za-z]*+")
# matches many plain items of an array at once: a row may hold millions
_ITEMS = re.compile(rb'(?:[ \t\r\n]*+(?:"[^"\\\x00-\x1f]*+"|' + _SCALAR.pattern + rb")[ \t\r\n]*+,)++")
_ESCAPE_BYTES = 6


class JsonScan:
    """Scan the name-value pairs of one JSON object.

    NaN and Infinity count as values. Bytes that are not UTF-8 count as characters of a string.

    Args:
        text_field: The field whose value's span is needed.
        names: Further field names whose presence is recorded.
    """

    def __init__(self, text_field: str = "", names: Iterable[str] = ()) -> None:
        self.pairs_end = (
            0  # offset after the last complete pair, or after the opening brace; 0: the row is not an object
        )
        self.num_pairs = 0
        self.is_complete = False  # one object, followed by white space only
        self.present_names: set[str] = set()  # which of `names` and `text_field` exist
        self.spans: dict[str, tuple[int, int]] = {}  # name -> span of its value, for the first MAX_SPANS names
        self._text_field, self._wanted_names = text_field, frozenset((*names, text_field))
        self._text_spans: list[tuple[int, int]] = []  # spans of the text field's values; (0, 0) if not a string
        self._offset, self._pending = 0, b""  # number of scanned bytes, and the incomplete token after them
        self._state = "object"
        self._stack = bytearray()
        self._key, self._in_key = bytearray(), False
        self._name: str | None = None
        self._string_start = 0  # offset of the string being read
        self._value_start = 0  # offset of the value of the pair being read

    @property
    def text_span(self) -> tuple[int, int] | None:
        """Span of the text field's JSON string, quotes included; None unless there is exactly one."""
        return self._text_spans[0] if len(self._text_spans) == 1 and self._text_spans[0][1] else None

    @property
    def has_failed(self) -> bool:
        """Whether what was scanned is not the start of an object."""
        return self._state == "failed"

    def feed(self, piece: bytes, final: bool = False) -> None:
        """Scan the next bytes of the row."""
        if self._state == "failed":
            return
        data, at = self._pending + piece, 0
        while self._state != "failed":
            if self._state == "string":
                after = self._scan_string(data, at, final)
            else:
                after = self._scan_token(data, _SPACE.match(data, at).end(), final)  # type: ignore[union-attr]
            if after < 0:  # more bytes are needed to continue from here
                at = -after - 1
                break
            at = after
        self._offset, self._pending = self._offset + at, data[at:]
        if len(self._pending) > MAX_TOKEN_BYTES:
            self._state = "failed"

    def finish(self) -> None:
        """Mark the end of the row."""
        self.feed(b"", final=True)
        self.is_complete = self._state == "end" and not self._pending

    def _fail(self, at: int) -> int:
        self._state = "failed"
        return at

    def _scan_string(self, data: bytes, at: int, final: bool) -> int:
        stop = _STRING.match(data, at).end()  # type: ignore[union-attr]
        if self._in_key and len(self._key) <= MAX_TOKEN_BYTES:
            self._key += data[at:stop]
        if stop == len(data):
            return -stop - 1
        if data[stop : stop + 1] == b'"':
            return self._end_string(stop + 1)
        if data[stop : stop + 1] == b"\\" and len(data) - stop < _ESCAPE_BYTES and not final:
            return -stop - 1
        return self._fail(stop)

    def _end_string(self, at: int) -> int:
        """Handle the end of a string: a name or a value."""
        if self._state == "string" and self._in_key:
            self._in_key, self._state = False, "colon"
            if len(self._stack) == 1:
                self._name = _unescape(bytes(self._key))
                self.present_names |= {self._name} & self._wanted_names
            self._key = bytearray()
            return at
        return self._end_value(at, (self._string_start, self._offset + at))

    def _end_value(self, at: int, span: tuple[int, int] = (0, 0)) -> int:
        """Handle the end of a value."""
        if not self._stack:
            self._state = "end"
            return at
        self._state = "comma"
        if len(self._stack) == 1:
            self.pairs_end = self._offset + at
            self.num_pairs += 1
            if self._name is not None and (len(self.spans) < MAX_SPANS or self._name in self.spans):
                self.spans[self._name] = (self._value_start, self._offset + at)
            if self._name == self._text_field:
                self._text_spans.append(span)
        return at

    def _scan_token(self, data: bytes, at: int, final: bool) -> int:
        """Scan one token, from its first byte after white space."""
        if at == len(data):
            return -at - 1
        byte, state = data[at : at + 1], self._state
        if state == "value" and len(self._stack) == 1:
            self._value_start = self._offset + at
        if state == "end":
            return self._fail(at)
        if state == "object" and byte != b"{":
            return self._fail(at)
        if byte in b"{[" and state in ("object", "value", "item"):
            self._stack += byte
            self._state = "name" if byte == b"{" else "item"
            if state == "object":
                self.pairs_end = self._offset + at + 1
            return at + 1 if len(self._stack) <= MAX_STACK else self._fail(at)
        if byte in b"}]" and self._can_close(byte, state):
            self._stack.pop()
            return self._end_value(at + 1)
        if byte == b"," and state == "comma":
            self._state = "next name" if self._stack[-1:] == b"{" else "value"
            return at + 1
        if byte == b":" and state == "colon":
            self._state = "value"
            return at + 1
        if state in ("name", "next name"):
            if byte != b'"':
                return self._fail(at)
            self._state, self._in_key = "string", True
            return at + 1
        if state not in ("value", "item"):
            return self._fail(at)
        if self._stack[-1:] == b"[" and (many := _ITEMS.match(data, at)):
            self._state = "value"
            return many.end()
        if byte == b'"':
            self._state, self._string_start = "string", self._offset + at
            return at + 1
        stop = _WORD.match(data, at).end()  # type: ignore[union-attr]
        if stop == len(data) and not final:
            return -at - 1  # the token may continue
        return self._end_value(stop) if _SCALAR.fullmatch(data, at, stop) else self._fail(at)

    def _can_close(self, byte: bytes, state: str) -> bool:
        opened = self._stack[-1:]
        if byte == b"}":
            return opened == b"{" and state in ("name", "comma")
        return opened == b"[" and state in ("item", "comma")


def _unescape(key: bytes) -> str:
    text = key.decode("utf-8", "replace")
    return str(json.loads(f'"{text}"')) if "\\" in text else text


def scan_json_object(raw: bytes, text_field: str = "", names: Iterable[str] = ()) -> JsonScan:
    """Scan a whole row at once."""
    scan = JsonScan(text_field, names)
    scan.feed(raw)
    scan.finish()
    return scan
