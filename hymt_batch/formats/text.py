"""Read plain text: one row per line, split only at line feeds.

Lone carriage returns, U+2028, form feeds and NUL belong to the row (RELIABILITY.md, faults 53 to 57).
"""

from __future__ import annotations

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.long_rows import Fields, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import (
    ReadContext,
    RowError,
    Rows,
    error_document,
    not_utf8_message,
    read_line,
    too_long_message,
)
from hymt_batch.records import Document, Status


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
