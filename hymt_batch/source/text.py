"""Plain text: one row a line, split on line feeds alone.

Lone carriage returns, U+2028, form feeds and NUL belong to the row (reference: reliability.md, faults 53 to 57).
"""

from __future__ import annotations

from hymt_batch.records import Document, Status
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.longrow import Fields, LongRow
from hymt_batch.source.rows import Context, RowError, Rows, failed, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig


def rows(stream: ByteStream, config: SourceConfig, context: Context) -> Rows:
    """Read rows from the stream's position; the document's text has no line ending, its raw form does."""
    input, row, full, limit = stream.input, context.row, context.full, config.max_row_bytes
    prefix = f"{input.rel}#"
    while True:
        raw, digest, long = read_line(stream, limit, context)
        if not raw and long is None:
            return
        if long is not None:
            error = RowError(too_long(limit), Status.TOO_LONG)
            long.parse = _fields
            document = failed(input, row, digest, error, raw=raw, long=long if full else None)
        else:
            content = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw.endswith(b"\n") else raw
            try:
                text = content.decode()
            except UnicodeDecodeError as why:
                error = RowError(not_utf8(why), Status.BAD_ENCODING)
                shown = content.decode("utf-8", "replace") if full else None
                document = failed(input, row, digest, error, raw=raw if full else b"", text=shown)
            else:
                document = Document(f"{prefix}{row + 1}", row, text, digest, raw if full else b"")
        yield document, stream.position
        row += 1


def _fields(row: LongRow) -> Fields:
    """The one field of a row that is not held."""
    (raw,) = row.held([(0, row.size)])
    text = None if raw is None else raw.decode("utf-8", "replace")
    return {"text": text}, text
