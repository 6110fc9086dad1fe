"""Plain text: one row a line, split on line feeds alone.

Lone carriage returns, U+2028, form feeds and NUL belong to the row (reference: reliability.md, faults 53 to 57).
"""

from __future__ import annotations

from hymt_batch.records import Document
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.rows import Context, Rows, failed, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig


def rows(stream: ByteStream, config: SourceConfig, context: Context) -> Rows:
    """Read rows from the stream's position; the document's text has no line ending, its raw form does."""
    input, row, full, limit = stream.input, context.row, context.full, config.max_row_bytes
    prefix = f"{input.rel}#"
    while True:
        raw, digest, long = read_line(stream, limit, context)
        if not raw and not long:
            return
        if long:
            document = failed(input, row, digest, too_long(input, row, limit), raw=raw, long=True)
        else:
            content = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw.endswith(b"\n") else raw
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                document = failed(input, row, digest, not_utf8(input, row, error), raw=raw)
            else:
                document = Document(f"{prefix}{row + 1}", row, text, digest, raw if full else b"")
        yield document, stream.position
        row += 1
