r"""Read the strings of an entry, and write a text as strings: escapes, the line breaks of gettext, and its width.

Source: The GNU gettext manual, "The Format of PO Files" and "msgcat Invocation" (79 columns).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hymt_batch.formats.po.tokenizer import Span
from hymt_batch.formats.unspaced import count_columns

MAX_COLUMNS = 79
"""Width of a line that gettext breaks, with its quotes."""

_NUMERIC = re.compile(rb"\\[0-7x]")
_BYTE_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]+)|([\s\S]))")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]+)|([\s\S]))")
_NAMED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a"}
_NAMED_BYTES = {name.encode(): value.encode() for name, value in _NAMED.items()}
_ESCAPED = {value: f"\\{name}" for name, value in _NAMED.items()} | {"\\": "\\\\", '"': '\\"', "\0": ""}
_MUST_ESCAPE = re.compile(r'[\0\a\b\t\n\v\f\r"\\]')
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WORD = re.compile(r"\S+\s*|\s+")
_WIDE = "\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_WIDE_UNIT = re.compile(f"[{_WIDE}][、。〉》」』】〕！），．：；？］｝ー”’]*\\s*|[^{_WIDE}]+")


@dataclass(frozen=True, slots=True)
class Charset:
    """How the bytes of a catalogue are decoded."""

    codec: str
    can_hold_backslash: bool = False  # the second byte of a character can be a backslash


def read(data: bytes, strings: Sequence[Span], charset: Charset) -> str:
    """Return the text of strings.

    Raises:
        UnicodeDecodeError: Its bytes are not in the charset.
    """
    raw = [data[start + 1 : end - 1] for start, end in strings]
    joined = raw[0] if len(raw) == 1 else b"".join(raw)
    if b"\\" not in joined:
        return joined.decode(charset.codec)
    if charset.can_hold_backslash:  # so that numbers are characters, not bytes
        return "".join(_ESCAPE.sub(_unescape, piece.decode(charset.codec)) for piece in raw)
    if _NUMERIC.search(joined):
        return b"".join(_BYTE_ESCAPE.sub(_unescape_bytes, piece) for piece in raw).decode(charset.codec)
    return _ESCAPE.sub(_unescape, joined.decode(charset.codec))


def _unescape(match: re.Match[str]) -> str:
    octal, digits, character = match.groups()
    if character is not None:
        return _NAMED.get(character, character)
    return chr(int(octal, 8) & 0xFF) if octal else chr(int(digits[-2:], 16))


def _unescape_bytes(match: re.Match[bytes]) -> bytes:
    octal, digits, character = match.groups()
    if character is not None:
        return _NAMED_BYTES.get(character, character)
    return bytes([int(octal, 8) & 0xFF if octal else int(digits[-2:], 16)])


def escape(text: str) -> str:
    """Return a text with the escapes of a string; NUL, which would end it for gettext, is dropped."""
    return _MUST_ESCAPE.sub(lambda match: _ESCAPED[match[0]], text)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the strings of a text stand in their lines."""

    is_single: bool = True  # one string, whatever its length is
    is_wrapped: bool = True  # lines are broken at MAX_COLUMNS, too, not only at line breaks of the text
    newline: str = "\n"
    indent: str = ""  # white space before a string on a line of its own


def find_layout(data: bytes, strings: Sequence[Span], newline: str) -> Layout:
    """Return the layout of the strings of an entry."""
    if len(strings) < 2:
        return Layout(newline=newline)
    is_wrapped = all(end - start <= MAX_COLUMNS + 1 for start, end in strings if b" " in data[start:end].rstrip())
    gap = data[strings[0][1] : strings[1][0]]
    indent = gap[gap.rfind(b"\n") + 1 :].decode("latin-1") if b"\n" in gap else ""
    return Layout(False, is_wrapped, newline, indent)


def write(text: str, keyword: str, layout: Layout) -> str:
    """Return a text as strings, the first of which follows the keyword on its line.

    Args:
        text: The text.
        keyword: What precedes the first string on its line, such as `msgstr[0] `.
        layout: How the source is written.
    """
    if layout.is_single:
        return f'"{escape(text)}"'
    pieces = [piece for line in _LINE.findall(text) for piece in _wrap(line, layout)] or [""]
    if len(pieces) == 1 and (not layout.is_wrapped or count_columns(pieces[0]) + 2 + len(keyword) <= MAX_COLUMNS):
        return f'"{pieces[0]}"'
    gap = layout.newline + layout.indent
    return f'""{gap}' + gap.join(f'"{piece}"' for piece in pieces)


def _wrap(line: str, layout: Layout) -> list[str]:
    """Return the escaped pieces of a line of a text, each at most MAX_COLUMNS wide where it can be broken."""
    escaped, room = escape(line), MAX_COLUMNS - 2 - len(layout.indent)
    if not layout.is_wrapped or count_columns(escaped) <= room:
        return [escaped]
    pieces, piece, width = [], "", 0
    for unit in _units(line):
        unit = escape(unit)
        columns = count_columns(unit)
        if piece and width + columns > room:
            pieces.append(piece)
            piece, width = "", 0
        piece, width = piece + unit, width + columns
    return [*pieces, piece]


def _units(line: str) -> list[str]:
    """Divide a line where it may be broken: after white space, and after characters of a script without spaces."""
    if line.isascii():
        return _WORD.findall(line)
    return [unit for word in _WORD.findall(line) for unit in _WIDE_UNIT.findall(word)]
