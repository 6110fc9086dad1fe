"""Find the places of a Markdown file: the inline text of paragraphs, headings, table cells and so on.

Source: CommonMark 0.31.2, with tables, footnotes, strikethrough, task lists, alerts, math and heading attributes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from hymt_batch.formats.markdown import gaps
from hymt_batch.formats.markdown.inline import MAX_QUOTES, tokenize
from hymt_batch.formats.markdown.parser import INLINE_EVENTS, INLINE_TAGS, Event, find_references, read_events
from hymt_batch.formats.markdown.pieces import divide, plain_piece
from hymt_batch.formats.markdown.writing import PARAGRAPHS, Surroundings
from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.spliced import Place, PlaceOptions, count_line_breaks
from hymt_batch.formats.text_encoding import BOM
from hymt_batch.records import Status

_INLINE = INLINE_EVENTS | {"SoftBreak", "HardBreak", "TaskListMarker"}
_LONE_CR = re.compile(rb"\r(?!\n)")
_NO_CHARACTER = "\x1a"
_UNDERLINE = re.compile(rb"[\r\n][ \t>]*(=+|-+)[ \t]*[\r\n]*\Z")


@dataclass(slots=True)
class _Block:
    """The innermost open block, and what is open around it."""

    kind: str = ""
    start: int = 0
    end: int = 0
    num_quotes: int = 0
    in_item: bool = False
    is_text: bool = True  # False for code and HTML

    def inner(self, kind: str, start: int, end: int) -> _Block:
        """Return a block inside of this one."""
        num_quotes = self.num_quotes + (kind == "BlockQuote")
        is_text = self.is_text and kind not in ("CodeBlock", "HtmlBlock")
        return _Block(kind, start, end, num_quotes, self.in_item or kind == "Item", is_text)


@dataclass(slots=True)
class _Run:
    """The inline events of one block."""

    block: _Block
    events: list[Event]


class MarkdownFile:
    """A file, parsed; see `spliced.ParsedFile`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        # as the parser sees it, with the same offsets: only UTF-8, and no lone \r, which ends a line
        self._bytes = _LONE_CR.sub(b"\n", data) if b"\r" in data else data
        self._is_utf8 = _encoding_error(data) is None
        if not self._is_utf8:
            self._bytes = _marked(self._bytes).encode()
        self._start = gaps.front_matter_end(data, len(BOM) if data.startswith(BOM) else 0)

    @cached_property
    def _body(self) -> str:
        return self._bytes[self._start :].decode()

    @cached_property
    def _references(self) -> frozenset[str]:
        return find_references(self._body)

    def _has_reference(self, label: str) -> bool:
        return label in self._references

    def places(self, options: PlaceOptions) -> Iterator[Place]:
        regions = self._regions()
        names = _Names(self._data)
        for run in _runs(read_events(self._body, self._start)):
            first = run.events[0][1]
            region = bisect_right(regions, (first, len(self._data))) - 1 if regions else -1
            if region < 0 or first >= regions[region][1]:
                yield from self._places_of(run, names)

    def encode(self, place: Place, text: str) -> bytes:
        written = None if text == place.text else place.context.write(text)
        if written is None:
            return self._data[place.start : place.end]
        encoded: bytes = place.context.encode(written)
        return encoded

    def _places_of(self, run: _Run, names: _Names) -> Iterator[Place]:
        block = run.block
        if block.num_quotes > MAX_QUOTES:
            return
        opening, closing = self._frame(block)
        pieces = plain_piece(self._bytes, run.events)
        if pieces is None:
            tokens = tokenize(self._bytes, run.events, block.num_quotes)
            pieces = divide(self._data, tokens, in_paragraph=opening in PARAGRAPHS and not closing)
        for piece in pieces:
            start, end = piece.start, piece.end
            if not self._is_utf8 and (error := _encoding_error(self._data[start:end])):
                yield Place(start, end, names.of(start), None, error)
            else:
                surroundings = Surroundings(piece, opening, closing, self._has_reference)
                yield Place(start, end, names.of(start), piece.text, codes=piece.codes, context=surroundings)

    def _frame(self, block: _Block) -> tuple[str, str]:
        """Return what opens and closes a block of this kind, for a fragment that has it alone."""
        if block.kind == "Heading":
            raw = self._bytes[block.start : block.end]
            if raw.lstrip(b" \t").startswith(b"#"):
                return "# ", ""
            underline = _UNDERLINE.search(raw)
            return "", f"\n{underline[1].decode() if underline else '==='}"
        if block.kind == "TableCell":
            return "| ", " |\n|---|"
        return ("- " if block.in_item else "> " if block.num_quotes else ""), ""

    def _regions(self) -> list[tuple[int, int]]:
        """Return the ranges that are no text although the parser takes them for paragraphs."""
        if not gaps.may_have_regions(self._data):
            return []
        code = [
            (start, end)
            for event, start, end in read_events(self._body, self._start)
            if isinstance(event, dict) and ("Code" in event or "CodeBlock" in str(event.get("Start")))
        ]
        return gaps.find_regions(self._bytes, self._start, code)


class _Names:
    """Names places by their lines, in order: `12`, and `12[2]` for the second place of a line."""

    def __init__(self, data: bytes) -> None:
        self._data, self._counted_to, self._line, self._index = data, 0, 1, 0
        self._has_returns = b"\r" in data

    def of(self, start: int) -> str:
        """Return the name of the place that begins here, after the last one."""
        count = count_line_breaks if self._has_returns else _count_line_feeds
        if num_lines := count(self._data, self._counted_to, start):
            self._line, self._index = self._line + num_lines, 0
        self._counted_to, self._index = start, self._index + 1
        return str(self._line) if self._index == 1 else f"{self._line}[{self._index}]"


def _count_line_feeds(data: bytes, start: int, end: int) -> int:
    return data.count(b"\n", start, end)


def _runs(events: Iterable[Event]) -> Iterator[_Run]:
    """Yield the inline events between the starts and ends of blocks."""
    block = _Block()
    around: list[_Block] = []
    inline: list[Event] = []
    for event in events:
        value = event[0]
        (name,) = (value,) if isinstance(value, str) else value
        tag = ""
        if name in _INLINE:
            if block.is_text:
                inline.append(event)
            continue
        if name == "Start" or name == "End":
            tag = value[name]
            (tag,) = (tag,) if isinstance(tag, str) else tag
            if tag in INLINE_TAGS:
                if block.is_text:
                    inline.append(event)
                continue
        if inline:
            yield _Run(block, inline)
            inline = []
        if name == "Start":
            around.append(block)
            block = block.inner(tag, event[1], event[2])
        elif name == "End":
            block = around.pop()
    if inline:
        yield _Run(block, inline)


def _marked(data: bytes) -> str:
    """Decode bytes that are not all UTF-8, with one character for each byte that is not."""
    return "".join(
        _NO_CHARACTER if "\udc80" <= character <= "\udcff" else character
        for character in data.decode("utf-8", "surrogateescape")
    )


def _encoding_error(data: bytes) -> RowError | None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return RowError(not_utf8_message(error, "text"), Status.BAD_ENCODING)
    return None
