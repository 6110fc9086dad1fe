"""jsonl output: the user's objects, byte for byte, with two fields added.

If the input is jsonl, the new fields go before the closing brace and nothing else in the line changes. A row that is
not a valid object keeps the pairs before its first error. A row that already has one of the two fields stays as it is,
so that no key occurs twice. Invalid UTF-8 becomes U+FFFD, so that the file can be read. Blank lines stay as they are. A
row over the byte limit is copied from the input in pieces. For input of other formats, each row is an object of the
input's columns in order, or of the single field `text`; see `arrow_json.to_json_values` for parquet values that JSON
does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.joined_row import JoinedRow, metadata, translation_value
from hymt_batch.formats.jsonl.json_scan import scan_json_object
from hymt_batch.formats.output_stream import open_output
from hymt_batch.formats.row_values import (
    BLANK_FLAG,
    decode_utf8,
    dump_json,
    repair_utf8,
)
from hymt_batch.formats.text_encoding import BOM
from hymt_batch.records import ERROR_STATUSES, Document, Row, Status, line_ending

_JSON_WHITESPACE = b" \t\r\n"


class JsonlWriter:
    """Writes one object per row."""

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        self._stream = open_output(spec, file)
        self._preamble = spec.preamble
        self._names = spec.added
        self._keys = tuple(map(dump_json, spec.added))
        self._on_error = spec.on_error
        self._fields = spec.new_field_reader()
        self._comma = b", "  # before an added field
        self._same_format = spec.keeps_bytes
        if self._same_format:
            self._stream.write(spec.preamble.bom)

    def write(self, document: Document, row: Row) -> None:
        if self._same_format and document.long_row is not None:
            for piece in self._long_row_chunks(document, row):
                self._stream.write(piece)
            return
        self._stream.write(self._splice(document, row) if self._same_format else self._convert(document, row))

    def close(self) -> None:
        self._stream.close()

    def _added_pairs(self, document: Document, row: Row) -> bytes:
        text = dump_json(translation_value(document, row, self._on_error))
        meta = dump_json(metadata(document, row))
        return f"{self._keys[0]}: {text}".encode() + self._comma + f"{self._keys[1]}: {meta}".encode()

    def _splice(self, document: Document, row: Row) -> bytes:
        raw, values = document.raw, document.values
        if BLANK_FLAG in row.flags and raw.isspace():
            return raw
        if (
            document.status is Status.OK
            and isinstance(values, dict)
            and not any(name in values for name in self._names)
        ):
            inside = raw.rstrip(_JSON_WHITESPACE)[:-1]  # up to the closing brace
            body = inside.rstrip(_JSON_WHITESPACE)
            comma = b"" if body.lstrip(_JSON_WHITESPACE) == b"{" else self._comma
            return body + comma + self._added_pairs(document, row) + raw[len(body) :]
        raw = raw.removeprefix(BOM)  # a BOM inside a file, from files that were concatenated
        scan = scan_json_object(raw, names=self._names)
        body, tail = raw[: scan.pairs_end], raw[scan.pairs_end :] if scan.is_complete else b"}" + line_ending(raw)
        if not scan.present_names.isdisjoint(self._names):
            return b"".join(repair_utf8([body + tail]))
        comma = self._comma if scan.num_pairs else b""
        return b"".join([*repair_utf8([body or b"{"]), comma, self._added_pairs(document, row), tail])

    def _long_row_chunks(self, document: Document, row: Row) -> Iterator[bytes]:
        """Do what `_splice` does for a row over the byte limit, in pieces."""
        long_row, end = document.long_row, line_ending(document.raw)
        scan = long_row.scan
        has_added_field = not scan.present_names.isdisjoint(self._names)
        yield from repair_utf8(long_row.pieces(0, scan.pairs_end)) if scan.pairs_end else [b"{"]
        if not has_added_field:
            yield f"{', ' if scan.num_pairs else ''}{self._keys[0]}: ".encode()
            yield from self._long_text_chunks(document, row)
            yield f", {self._keys[1]}: {dump_json(metadata(document, row))}".encode()
        yield from long_row.pieces(scan.pairs_end) if scan.is_complete else [b"}"]
        yield end

    def _long_text_chunks(self, document: Document, row: Row) -> Iterator[bytes]:
        """Yield the translation of a row over the byte limit, as JSON."""
        long_row = document.long_row
        if isinstance(row, JoinedRow):
            yield dump_json(translation_value(document, row, self._on_error)).encode()
        elif row.status not in ERROR_STATUSES or self._on_error != "source":
            yield dump_json(row.text if row.status not in ERROR_STATUSES else "").encode()
        elif long_row.scan.is_complete and long_row.scan.text_span:
            yield from repair_utf8(long_row.pieces(*long_row.scan.text_span, purpose="text"))
        else:
            yield b'"'
            yield from (dump_json(text)[1:-1].encode() for text in decode_utf8(long_row.pieces(purpose="text")))
            yield b'"'

    def _convert(self, document: Document, row: Row) -> bytes:
        fields = self._fields.read(document)
        body = dump_json(fields or {})[:-1]
        comma = ", " if fields else ""
        return f"{body}{comma}".encode() + self._added_pairs(document, row) + b"}" + self._preamble.newline
