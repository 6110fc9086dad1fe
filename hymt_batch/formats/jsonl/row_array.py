"""Read and write rows that are the elements of an array, or objects over several lines, in the shape that they have.

The file is read as a stream, from any row on. What is between two rows stays as it is. In an object over several lines,
the added fields are on lines of their own, indented like the first one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from hymt_batch.formats.compressed_stream import open_published
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.jsonl.elements import Elements
from hymt_batch.formats.jsonl.reader import read_head, read_rows
from hymt_batch.formats.jsonl.writer import JsonlWriter
from hymt_batch.formats.line_input import LineInput
from hymt_batch.formats.long_rows import LongRow, RowScan
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, Rows
from hymt_batch.formats.text_encoding import BOM, UTF8
from hymt_batch.records import Document, Input, Preamble, Row

log = logging.getLogger(__name__)

_INDENT = re.compile(rb'\{([ \t]*\r?\n[ \t\r\n]*)"')


class _ElementStream:
    """Reads elements as rows; has what `read_rows` asks of a stream."""

    def __init__(self, input: Input, read: Callable[[int], bytes], position: int) -> None:
        self.input, self.elements, self.gap = input, Elements(read, position), b""

    @property
    def position(self) -> int:
        return self.elements.position

    def read_row(
        self, max_bytes: int, context: ReadContext, scan: Callable[[], RowScan] | None = None
    ) -> tuple[bytes, bytes, LongRow | None]:
        """Read one element and the gap after it, in bounded memory; see `row_reader.read_line`."""
        elements, hasher, digest = self.elements, context.hasher, context.digest.copy()
        row: LongRow | None = None
        start, size, pieces = elements.position, 0, list[bytes]()
        if elements.begin():
            while piece := elements.read_piece():
                size += len(piece)
                if hasher is not None:
                    hasher.add(piece)
                if row is not None:
                    row.feed(piece)
                    continue
                digest.update(piece)
                pieces.append(piece)
                if size > max_bytes:
                    row = LongRow(context.rereader, start, b"".join(pieces), scan() if scan else None, digest)
                    pieces.clear()
        if row is not None:
            row.end_at(start + size)
        self.gap = elements.read_gap()
        if hasher is not None:
            hasher.add(self.gap)
        return b"".join(pieces), digest.digest(), row


class RowArrayInput(LineInput):
    """See `format.OpenInput`. What precedes the first row is its header."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, read_rows=read_rows, read_head=_read_head)
        self._rows_stream: _ElementStream | None = None

    def rows(self, options: ReadOptions, context: ReadContext, cursor: int) -> Rows:
        self._stream.seek(cursor)
        stream = self._rows_stream = _ElementStream(self.input, self._stream.read, cursor)
        end = context.header  # the last bytes that belong to no row
        for document, position in read_rows(stream, options, context, read_row=_ElementStream.read_row):
            end = stream.gap
            yield replace(document, raw=document.raw + stream.gap) if context.full else document, position
        if context.full and b"[" in context.header and b"]" not in end:
            log.warning("%s ends without the ] of its array: it may be cut off, and lack rows", self.input.path)

    def at_end(self, next_row: int) -> bool:
        return self._stream.at_end() if self._rows_stream is None else self._rows_stream.elements.at_end()

    def hash_bytes(self, start: int, end: int, header: bytes) -> str | None:
        self._rows_stream = None  # the file is at another row now
        return super().hash_bytes(start, end, header)


def _read_head(stream: Any, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
    """Read what precedes the first row, and check the first rows; see `reader.read_head`."""
    rows = _ElementStream(stream.input, stream.read, stream.position)
    header = rows.elements.read_header()
    return replace(read_head(rows, options, reserved, read_row=_ElementStream.read_row), header=header)


class RowArrayWriter(JsonlWriter):
    """Writes the input's text with two more fields in each object, or an array of one object a line."""

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        super().__init__(spec, file)
        self._is_array = not self._same_format or b"[" in spec.preamble.header
        self._held = spec.preamble.header if self._same_format else b"["  # what precedes the next row

    def write(self, document: Document, row: Row) -> None:
        if not self._same_format:
            newline = self._preamble.newline
            self._stream.write(self._held + newline + self._convert(document, row).removesuffix(newline))
            self._held = b","
            return
        end = 0 if document.long_row is not None else _element_end(document.raw)
        self._stream.write(self._held)
        indent = _INDENT.match(document.raw)
        self._comma = b"," + indent[1] if indent else b", "
        super().write(replace(document, raw=document.raw[:end]), row)
        self._held = document.raw[end:]

    def close(self) -> None:
        newline = self._preamble.newline
        if not self._same_format:
            self._stream.write(b"[]" + newline if self._held == b"[" else newline + b"]" + newline)
        elif self._is_array and b"]" not in self._held:  # source.limit, or the file ends here
            is_pretty = b"\n" in self._held
            self._stream.write(newline + b"]" + newline if is_pretty else b"]")
        else:
            self._stream.write(self._held)
        super().close()


def _element_end(raw: bytes) -> int:
    """Return where the element ends with which these bytes begin."""
    elements = Elements(partial(_read_once, [raw]))
    elements.begin()
    while elements.read_piece():
        pass
    return elements.position


def _read_once(blocks: list[bytes], size: int) -> bytes:
    return blocks.pop() if blocks else b""


def count_elements(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
    """Count the rows of a published file; see `Format.count_rows`."""
    with open_published(path, source_settings.get("encoding", UTF8)) as stream:
        start = stream.read(len(BOM))
        blocks = [b"" if start == BOM else start]
        elements = Elements(lambda size: (blocks.pop() if blocks else b"") or stream.read(size))
        elements.read_header()
        num_rows = 0
        while elements.begin():
            while elements.read_piece():
                pass
            elements.read_gap()
            num_rows += 1
    return {num_rows}
