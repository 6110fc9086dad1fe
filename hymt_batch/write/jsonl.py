"""jsonl output: the user's objects, byte for byte, with two fields more.

From jsonl, the new fields are put before the closing brace and nothing else of the line changes. A row that is no
object keeps the pairs before its fault. One that already has one of the two fields stays as it came: they would be
there twice. Bytes that are no UTF-8 become U+FFFD, so that the file can be read. Blank lines stay as they are. A row
over the byte limit is copied from the input in pieces.
From other formats, each row is an object of the input's columns in order, or of the one field `text`; see
`arrow.values` for parquet values that JSON does not know.
"""

from __future__ import annotations

from collections.abc import Iterator

from hymt_batch.records import ERROR_STATUSES, Document, Input, Preamble, Row, Status, ending
from hymt_batch.scan import json_object
from hymt_batch.write.cell import BLANK, Fields, decoded, dumps, mended, meta, translation
from hymt_batch.write.sink import Sink

_WHITE = b" \t\r\n"  # white space of JSON


class JsonlWriter:
    """One object a row."""

    def __init__(
        self,
        input: Input,
        preamble: Preamble,
        sink: Sink,
        *,
        translation_field: str,
        meta_field: str,
        on_error: str,
    ) -> None:
        self._sink = sink
        self._preamble = preamble
        self._names = (translation_field, meta_field)
        self._keys = (dumps(translation_field), dumps(meta_field))
        self._on_error = on_error
        self._fields = Fields(input.format)
        self._splices = input.format == "jsonl"
        if self._splices:
            sink.write(preamble.bom)

    def write(self, document: Document, row: Row) -> None:
        if self._splices and document.long is not None:
            for piece in self._long(document, row):
                self._sink.write(piece)
            return
        self._sink.write(self._spliced(document, row) if self._splices else self._converted(document, row))

    def close(self) -> None:
        self._sink.close()

    def _added(self, document: Document, row: Row) -> bytes:
        text = dumps(translation(document, row, self._on_error))
        return f"{self._keys[0]}: {text}, {self._keys[1]}: {dumps(meta(document, row))}".encode()

    def _spliced(self, document: Document, row: Row) -> bytes:
        raw, values = document.raw, document.values
        if BLANK in row.flags and raw.isspace():
            return raw
        if (
            document.status is Status.OK
            and isinstance(values, dict)
            and not any(name in values for name in self._names)
        ):
            inside = raw.rstrip(_WHITE)[:-1]  # up to the closing brace
            body = inside.rstrip(_WHITE)
            comma = b"" if body.lstrip(_WHITE) == b"{" else b", "
            return body + comma + self._added(document, row) + raw[len(body) :]
        raw = raw.removeprefix(b"\xef\xbb\xbf")  # in the midst of a file, where files were put together
        scan = json_object(raw, names=self._names)
        body, tail = raw[: scan.end], raw[scan.end :] if scan.whole else b"}" + ending(raw)
        if not scan.names.isdisjoint(self._names):
            return b"".join(mended([body + tail]))
        comma = b", " if scan.num_pairs else b""
        return b"".join([*mended([body or b"{"]), comma, self._added(document, row), tail])

    def _long(self, document: Document, row: Row) -> Iterator[bytes]:
        """`_spliced` of a row that is not held."""
        long, end = document.long, ending(document.raw)
        scan = long.scan
        has_ours = not scan.names.isdisjoint(self._names)
        yield from mended(long.pieces(0, scan.end)) if scan.end else [b"{"]
        if not has_ours:
            yield f"{', ' if scan.num_pairs else ''}{self._keys[0]}: ".encode()
            yield from self._long_text(document, row)
            yield f", {self._keys[1]}: {dumps(meta(document, row))}".encode()
        yield from long.pieces(scan.end) if scan.whole else [b"}"]
        yield end

    def _long_text(self, document: Document, row: Row) -> Iterator[bytes]:
        """The translation of a row that is not held, as JSON."""
        long = document.long
        if row.status not in ERROR_STATUSES or self._on_error != "source":
            yield dumps(row.text if row.status not in ERROR_STATUSES else "").encode()
        elif long.scan.whole and long.scan.text:
            yield from mended(long.pieces(*long.scan.text, purpose="text"))
        else:
            yield b'"'
            yield from (dumps(text)[1:-1].encode() for text in decoded(long.pieces(purpose="text")))
            yield b'"'

    def _converted(self, document: Document, row: Row) -> bytes:
        fields = self._fields.of(document)
        body = dumps(fields or {})[:-1]
        comma = ", " if fields else ""
        return f"{body}{comma}".encode() + self._added(document, row) + b"}" + self._preamble.newline
