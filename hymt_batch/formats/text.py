"""Plain text: one row per line, split only at line feeds.

Lone carriage returns, U+2028, form feeds and NUL belong to the row (RELIABILITY.md, faults 53 to 57).
"""

from __future__ import annotations

from functools import partial
from typing import BinaryIO

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.fields import TEXT_ONLY
from hymt_batch.formats.format import Addressing, Format, Kind, OutputSpec
from hymt_batch.formats.line_count import count_rows
from hymt_batch.formats.line_input import LineInput, read_no_head
from hymt_batch.formats.long_rows import Fields, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.output_stream import open_output
from hymt_batch.formats.row_reader import (
    ReadContext,
    RowError,
    Rows,
    error_document,
    not_utf8_message,
    read_line,
    too_long_message,
)
from hymt_batch.formats.row_values import BLANK_FLAG, output_text, to_one_line
from hymt_batch.records import ERROR_STATUSES, Document, Row, Status, line_ending


def read_rows(stream: ByteStream, config: ReadOptions, context: ReadContext) -> Rows:
    """Read rows from the stream's position; a document's text has no line ending, its raw bytes do."""
    input, row, full, limit = stream.input, context.first_row, context.full, config.max_row_bytes
    prefix = f"{input.rel}#"
    while True:
        raw, digest, long = read_line(stream, limit, context)
        if not raw and long is None:
            return
        if long is not None:
            error = RowError(too_long_message(limit), Status.TOO_LONG)
            long.parse = _parse_long_row
            document = error_document(input, row, digest, error, raw=raw, long_row=long if full else None)
        else:
            content = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw.endswith(b"\n") else raw
            try:
                text = content.decode()
            except UnicodeDecodeError as decode_error:
                error = RowError(not_utf8_message(decode_error), Status.BAD_ENCODING)
                shown = content.decode("utf-8", "replace") if full else None
                document = error_document(input, row, digest, error, raw=raw if full else b"", text=shown)
            else:
                document = Document(f"{prefix}{row + 1}", row, text, digest, raw if full else b"")
        yield document, stream.position
        row += 1


def _parse_long_row(row: LongRow) -> Fields:
    """Return the only field of a row over the limit, and its text."""
    (raw,) = row.read_spans([(0, row.size)])
    text = None if raw is None else raw.decode("utf-8", "replace")
    return {"text": text}, text


class TextWriter:
    """Writes one line per row, with the row's own line ending where the input is text."""

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        self._stream = open_output(spec, file)
        self._on_error = spec.on_error
        self._newline = spec.preamble.newline
        self._same_format = spec.keeps_bytes
        if self._same_format:
            self._stream.write(spec.preamble.bom)

    def write(self, document: Document, row: Row) -> None:
        end = line_ending(document.raw) if self._same_format else self._newline
        copies = BLANK_FLAG in row.flags or (row.status in ERROR_STATUSES and self._on_error == "source")
        if self._same_format and copies and document.long_row is not None:
            for piece in document.long_row.pieces():
                self._stream.write(piece)
            self._stream.write(end)
            return
        if self._same_format and copies:
            body = document.raw[: len(document.raw) - len(end)]
        else:
            body = to_one_line(output_text(document, row, self._on_error)).encode("utf-8", "replace")
        # an empty last line needs a line ending to be a line
        self._stream.write(body + (end or (b"" if body else self._newline)))

    def close(self) -> None:
        self._stream.close()


FORMAT = Format(
    name="text",
    about="one text per line",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".txt",
    input_extensions=(".txt", ".text"),
    one_line=True,
    has_fields=False,
    source_settings=("encoding", "document"),
    open_input=partial(LineInput, read_rows=read_rows, read_head=read_no_head),
    open_writer=TextWriter,
    count_rows=count_rows,
    fields=TEXT_ONLY,
    as_document="document",
)
