r"""A plain text file as one document: its paragraphs are places, and their lines, which are wrapped, are one text.

A blank line ends a paragraph, and so does a line without letters and digits. A new one begins with the marker of a list
item, at another number of `>`, and at a line that is indented deeper than others of its block, as the first lines of
paragraphs in books are. Cells between tabs or three spaces are places of their own. All these rules look at the start
of a line or at its kind, so that a translation, which is wrapped anew, has the same paragraphs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.spliced import Place, PlaceOptions, spliced_format
from hymt_batch.formats.text_encoding import BOM
from hymt_batch.formats.unspaced import UNSPACED, count_columns, space_between
from hymt_batch.records import Document, Status

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\n|\r|\Z)")
_PREFIX = re.compile(rb"((?:[ \t]*>)*+)[ \t\x0b\x0c]*+")
_MARKER = re.compile(r"(?:[-*+•‣◦–—·]|\(?\d{1,3}[.)]|\(?[a-z]\))[ \t]+(?=\S)")
_CELL_GAP = re.compile(rb"[ \t]*\t[ \t]*| {3,}")
_WORDS = re.compile(
    rf"[{UNSPACED}][\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e、。，．！？；：）」』】》〉’”…]*|[^ {UNSPACED}]+"
)
_OPENING = frozenset("（「『【《〈‘“")
_HYPHEN = re.compile(r"[^\W\d_]-\Z|--\Z")
_SPACE = re.compile(r"[ \t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_NO_TEXT = re.compile("[\0\ufeff]")
NO_BREAK_SPACE = "\xa0"
TAB_COLUMNS = 8


@dataclass(slots=True)
class _Line:
    """A line of a block."""

    start: int  # after quote marks and indentation
    end: int  # after the last character that is no white space
    quotes: bytes  # marks of quoted mail, without what follows them
    indent: int  # columns before the text, quote marks left out
    raw_start: int  # of the line
    text: str | None  # None: not UTF-8
    num_quotes: int  # marks of quoted mail
    has_cell_gap: bool  # there may be cells in it
    marker: int = 0  # length of the marker of a list item, in bytes


@dataclass(slots=True)
class _Shape:
    """How the lines of a paragraph are written."""

    first_prefix: bytes = b""  # of the first line: quote marks, indentation, the marker of a list item
    newline: bytes = b""  # "" where the paragraph has one line
    prefix: bytes = b""  # of every line but the first
    first_columns: int = 0  # before the text in the first line
    columns: int = 0  # before the text in the other lines
    width: int = 0  # columns of the longest line
    is_item: bool = False
    last: tuple[str, bytes | None] | None = None  # the last translation, and how it is written


class DocumentFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        data = self._data
        block: list[_Line] = []
        first_number = 1
        for number, match in enumerate(_LINE.finditer(data, len(BOM) if data.startswith(BOM) else 0), 1):
            start = match.start()
            if start == len(data):
                break
            line = _read_line(match[1], start)
            if block and (line is None or line.num_quotes != block[-1].num_quotes):
                yield from self._places_of(block, first_number)
                block = []
            if line is not None:
                first_number = first_number if block else number
                block.append(line)
        yield from self._places_of(block, first_number)

    def encode(self, place: Place, text: str) -> bytes:
        written = None if text == place.text else _write(place.context, text)
        return self._data[place.start : place.end] if written is None else written

    def _places_of(self, block: Sequence[_Line], first_number: int) -> Iterator[Place]:
        """Yield the places of lines without a blank one between them."""
        paragraph: list[_Line] = []
        begins = _paragraph_starts(block)
        for index, line in enumerate(block):
            cells = self._cells(line)
            if paragraph and (begins[index] or cells):
                yield self._paragraph(paragraph, first_number + index - len(paragraph))
                paragraph = []
            if not cells:
                paragraph.append(line)
                continue
            for cell, (start, end) in enumerate(cells, 1):
                name = str(first_number + index) if cell == 1 else f"{first_number + index}[{cell}]"
                yield Place(start, end, name, self._data[start:end].decode(), context=_Shape())
        if paragraph:
            yield self._paragraph(paragraph, first_number + len(block) - len(paragraph))

    def _cells(self, line: _Line) -> list[tuple[int, int]]:
        """Return the cells of a line that have a text; [] if it is no row of cells."""
        start = line.start + line.marker
        if line.text is None or not line.has_cell_gap or not _CELL_GAP.search(self._data, start, line.end):
            return []
        gaps = [match.span() for match in _CELL_GAP.finditer(self._data, start, line.end)]
        edges = [start, *(edge for gap in gaps for edge in gap), line.end]
        cells = [(edges[index], edges[index + 1]) for index in range(0, len(edges), 2)]
        return [cell for cell in cells if _has_text(self._data[cell[0] : cell[1]].decode())]

    def _paragraph(self, lines: Sequence[_Line], number: int) -> Place:
        first, last = lines[0], lines[-1]
        start = first.start + first.marker
        parts = ["" if first.text is None else first.text[_marker_length(first.text) :]]
        for line in lines[1:]:
            parts += [_joint(parts[-1], line.text or ""), line.text or ""]
        if any(line.text is None for line in lines):
            return Place(start, last.end, str(number), None, _encoding_error(self._data[start : last.end]))
        first_columns = first.indent + len(first.quotes) + first.marker
        shape = _Shape(self._data[first.raw_start : start], first_columns=first_columns, is_item=first.marker > 0)
        if len(lines) > 1:
            inner = min(lines[1:], key=lambda line: line.indent)
            line_end = _LINE.match(self._data, first.raw_start)
            assert line_end is not None
            shape.newline, shape.prefix = line_end[2], self._data[inner.raw_start : inner.start]
            shape.columns = inner.indent + len(inner.quotes)
            shape.width = max(line.indent + len(line.quotes) + count_columns(line.text or "") for line in lines)
        return Place(start, last.end, str(number), "".join(parts), context=shape)


def _read_line(content: bytes, start: int) -> _Line | None:
    """Return a line; None for one without letters and digits, which is no text."""
    if content[:1].isalnum():
        prefix, quotes, indent = 0, b"", 0
    else:
        match = _PREFIX.match(content)
        assert match is not None
        prefix, quotes = match.end(), match[1]
        indent = len(content[match.end(1) : prefix].expandtabs(TAB_COLUMNS))
    body = content[prefix:].rstrip()
    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and not _has_text(text):
        return None
    has_cell_gap = b"\t" in body or b"   " in body
    end = start + prefix + len(body)
    line = _Line(start + prefix, end, quotes, indent, start, text, quotes.count(b">") if quotes else 0, has_cell_gap)
    if text and (marker := _marker_length(text)):
        line.marker = len(text[:marker].encode())
    return line


def _paragraph_starts(block: Sequence[_Line]) -> list[bool]:
    """Return for each line whether a paragraph begins with it."""
    if not any(line.indent or line.marker for line in block):
        return [index == 0 for index in range(len(block))]
    base = min((line.indent for line in block), default=0)
    # a first line before others that are all indented: a hanging indent, as in bibliographies
    hangs = len(block) > 1 and all(line.indent > base for line in block[1:]) and block[0].indent == base
    starts: list[bool] = []
    item_indent: int | None = None  # of the list item that the line is in
    for index, line in enumerate(block):
        is_deeper = line.indent > base and not hangs and (item_indent is None or line.indent <= item_indent)
        starts.append(index == 0 or line.marker > 0 or is_deeper)
        if starts[-1]:
            item_indent = line.indent if line.marker else None
    return starts


def _marker_length(text: str) -> int:
    match = _MARKER.match(text)
    return match.end() if match else 0


def _has_text(text: str) -> bool:
    return text[:1].isalnum() or any(map(str.isalnum, text))


def _joint(before: str, after: str) -> str:
    """Return what joins two lines; nothing after a hyphen, which a word has with or without the line break."""
    if before[-1:] == "-" and _HYPHEN.search(before[-2:]) and after[:1].isalpha():
        return ""
    return space_between(before, after)


def _encoding_error(data: bytes) -> RowError:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return RowError(not_utf8_message(error, "paragraph"), Status.BAD_ENCODING)
    raise AssertionError("only for bytes that are not UTF-8")


def _write(shape: _Shape, translation: str) -> bytes | None:
    """Return the bytes of a paragraph; None if they would not be read as one paragraph."""
    if shape.last is None or shape.last[0] != translation:
        shape.last = translation, _lay_out(shape, translation)
    return shape.last[1]


def _lay_out(shape: _Shape, translation: str) -> bytes | None:
    if translation.isascii() and translation.isprintable():
        text = " ".join(translation.split())
    else:
        text = _SPACE.sub(" ", _NO_TEXT.sub("", translation)).strip(" ")
    if not shape.is_item:
        text = _without_marker(text)
        if _marker_length(f"{text} x") > len(text):  # before other cells, it would be the marker of a list item
            return None
    if not shape.newline:
        return text.encode() if _is_one_place([text], shape) else None
    for width in (shape.width, max(shape.columns, shape.first_columns) + count_columns(text) * 2 // 3):
        lines = _wrap(text, width - shape.first_columns, width - shape.columns)
        if len(lines) > 1 and _is_one_place(lines, shape):
            return (shape.newline + shape.prefix).join(line.encode() for line in lines)
    return None


def _without_marker(text: str) -> str:
    """Return a text that begins no list item, although it begins like one: with `- `, or with the dash of a speaker."""
    marker = text[: _marker_length(text)]
    return f"{marker.rstrip()}{NO_BREAK_SPACE}{text[len(marker) :]}" if marker else text


def _is_one_place(lines: Sequence[str], shape: _Shape) -> bool:
    """Return whether the lines of a paragraph, or the text of a cell, are read as one place again."""
    if all(line[:1].isalpha() and not _MARKER.match(line) for line in lines):
        return True  # nothing but the start of a line decides
    written = (b"\n" + shape.prefix).join(line.encode() for line in lines)
    parsed = list(DocumentFile(shape.first_prefix + written).places(PlaceOptions()))
    start = len(shape.first_prefix)
    return len(parsed) == 1 and (parsed[0].start, parsed[0].end) == (start, start + len(written))


def _wrap(text: str, first_width: int, width: int) -> list[str]:
    """Divide a text into lines of at most this many columns, where its words allow it."""
    if text.isascii():
        return _wrap_words(text, first_width, width)
    lines: list[str] = []
    limit, columns, line_start, at = first_width, 0, 0, 0
    for match in _WORDS.finditer(text):
        start, end = match.span()
        word_columns = count_columns(match[0])
        if columns + start - at + word_columns > limit and start > line_start and _may_break(text, at, start):
            lines.append(text[line_start:at])
            limit, columns, line_start = width, word_columns, start
        else:
            columns += start - at + word_columns
        at = end
    return [*lines, text[line_start:]]


def _wrap_words(text: str, first_width: int, width: int) -> list[str]:
    """Do what `_wrap` does for a text whose words have one space between them, line by line."""
    lines: list[str] = []
    limit, line_start = first_width, 0
    while len(text) - line_start > limit:
        at = text.rfind(" ", line_start, max(line_start, line_start + limit + 1))
        at = at if at >= 0 else text.find(" ", line_start)
        while at >= 0 and not _may_break(text, at, at + 1):
            at = text.find(" ", at + 1)
        if at < 0:
            break
        lines.append(text[line_start:at])
        limit, line_start = width, at + 1
    return [*lines, text[line_start:]]


def _may_break(text: str, before: int, after: int) -> bool:
    """Return whether a line can end at one offset of a text, and the next one begin at another."""
    if text[after] == ">" or text[before - 1] in _OPENING or _MARKER.match(f"{text[after : after + 8]} x"):
        return False
    return after > before or space_between(text[before - 1], text[after]) == ""


def _can_hold(document: Document, text: str) -> bool:
    return text == document.text or _write(document.values.place.context, text) is not None


FORMAT = spliced_format(
    DocumentFile,
    name="document",
    about="a text file as one document, with source.document=true; the paragraphs",
    extension=".txt",
    source_settings=("encoding", "document"),
    can_hold=_can_hold,
)
