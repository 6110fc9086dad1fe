"""csv and tsv output: the user's records, byte for byte, with two columns added.

If the input has the same format, the new columns go before the record's line ending and nothing else in the record
changes. A malformed record, or one with the wrong number of fields, is rewritten with the right number, so that every
reader sees one record per row: see `record_repair`. Invalid UTF-8 becomes U+FFFD. Blank lines stay as they are. If the
input has no header, the output has none. A record over the byte limit is copied from the input in pieces.
If the input has another format, all columns are written: see `fields.py`. A value that is not text is
written as JSON, and null as an empty field.

csv quotes cells that need it, so cells may hold line breaks. tsv has no quoting: tabs and line breaks in a translation,
and in converted fields, become spaces; one warning per file counts the converted fields that changed. With
source.escape, columns added to the input's own format are escaped as the input is. A translation that begins like a
spreadsheet formula (`=`, `+`, `-`, `@`) is written unchanged, because it is data: import the column as text. Where rows
have several text fields, the translation is a JSON object, as the metadata are.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.delimited.record_repair import repair_record
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.joined_row import JoinedRow, metadata, translation_value
from hymt_batch.formats.output_stream import open_output
from hymt_batch.formats.row_values import (
    BLANK_FLAG,
    decode_utf8,
    dump_json,
    repair_utf8,
    to_cell,
    to_one_line,
)
from hymt_batch.records import ERROR_STATUSES, Document, Row, Status, line_ending

log = logging.getLogger(__name__)


def delimiter_of(spec: OutputSpec, default: str) -> str:
    """Return the delimiter of the output; only an output of the input's own format keeps the input's."""
    return (spec.keeps_bytes and spec.preamble.delimiter) or default


class DelimitedWriter:
    """Writes one record per row.

    Args:
        spec: The output.
        file: Receives the bytes.
        dialect: csv or tsv.
    """

    def __init__(self, spec: OutputSpec, file: BinaryIO, dialect: Dialect) -> None:
        self._stream = open_output(spec, file)
        self._preamble = preamble = spec.preamble
        self._on_error = spec.on_error
        self._same_format = spec.keeps_bytes
        self._is_csv = dialect.quoted
        self._delimiter = delimiter_of(spec, dialect.delimiter)
        self._escape = preamble.escape if self._same_format else ""
        self._needs_quoting = re.compile(f'["\r\n{re.escape(self._delimiter + self._escape)}]')
        self._valid_record = _valid_record_pattern(self._delimiter, self._escape)
        self._rel = spec.input.rel
        self._fields, self._columns = spec.new_field_reader(), spec.columns
        self._num_values = len({column.field for column in spec.columns})  # columns of the same name share one value
        self._num_flattened = 0  # fields in which a tab or a line break became a space
        added = self._encode(spec.added)
        if self._same_format:
            header, end = _split_line_ending(preamble.header)
            self._stream.write(preamble.bom + (self._join(header, added) + end if preamble.header else b""))
        elif spec.has_column_names:
            names = [self._encode([column.name for column in spec.columns])] if spec.columns else []
            self._stream.write(self._join(*names, added) + preamble.newline)

    def write(self, document: Document, row: Row) -> None:
        if self._same_format and document.long_row is not None:
            for piece in self._long_row_chunks(document, row):
                self._stream.write(piece)
            return
        if self._same_format and BLANK_FLAG in row.flags and document.raw.isspace() and document.values is None:
            self._stream.write(document.raw)
            return
        end = line_ending(document.raw) if self._same_format else self._preamble.newline
        self._stream.write(self._join(*(self._splice if self._same_format else self._convert)(document, row)) + end)

    def close(self) -> None:
        self._stream.close()
        if self._num_flattened:
            log.warning(
                "%s: tabs and line breaks in %d fields became spaces, since tsv cannot hold them. Set write.format=csv"
                " or write.format=jsonl to keep them.",
                self._rel,
                self._num_flattened,
            )

    def _splice(self, document: Document, row: Row) -> tuple[bytes, ...]:
        """Return the user's fields (original, re-encoded or empty) and the added ones."""
        return self._original_cells(document), self._translation_cell(document, row), self._meta_cell(document, row)

    def _original_cells(self, document: Document) -> bytes:
        if document.status in (Status.BAD_ROW, Status.BAD_ENCODING):
            return "".join(self._repair(decode_utf8([_split_line_ending(document.raw)[0]]))).encode()
        values, width = self._fields.read(document), len(self._columns)
        if values is None or len(values) != self._num_values:
            return self._encode([""] * width)
        body, _ = _split_line_ending(document.raw)
        if self._escape and (len(body) - len(body.rstrip(self._escape.encode()))) % 2:
            body += self._escape.encode()  # a trailing escape would escape the added delimiter
        # readers would not see the added columns after a lone CR outside quotes, or after an open quote
        if not self._is_csv or (b'"' not in body and b"\r" not in body):
            return body
        if self._valid_record.fullmatch(body.decode("utf-8", "surrogateescape")):
            return body
        return self._encode(
            [to_cell(value) or "" for value in values.values()] if len(values) == width else [""] * width
        )

    def _convert(self, document: Document, row: Row) -> Iterator[bytes]:
        """Yield the cells of all columns; a column that the row lacks is empty."""
        values = self._fields.read(document) or {}
        texts = [to_cell(values.get(column.field)) or "" for column in self._columns]
        if not self._is_csv:
            self._num_flattened += sum(self._flatten(text) != text for text in texts)
        if texts:
            yield self._encode(texts)
        yield self._translation_cell(document, row)
        yield self._meta_cell(document, row)

    def _translation_cell(self, document: Document, row: Row) -> bytes:
        value = translation_value(document, row, self._on_error)
        return self._encode([value]) if isinstance(value, str) else self._json_cell(value)

    def _repair(self, pieces: Iterable[str], width: int = 0) -> Iterator[str]:
        return repair_record(
            pieces, self._delimiter, width or len(self._columns), is_csv=self._is_csv, escape=self._escape
        )

    def _long_row_chunks(self, document: Document, row: Row) -> Iterator[bytes]:
        """Yield a record over the byte limit in pieces."""
        long_row, delimiter = document.long_row, self._delimiter.encode()
        if long_row.scan.num_cells == len(self._columns) and (
            long_row.scan.is_well_formed or not (self._is_csv or self._escape)
        ):
            yield from repair_utf8(long_row.pieces())
        else:
            yield from (text.encode() for text in self._repair(decode_utf8(long_row.pieces())))
        yield delimiter
        if isinstance(row, JoinedRow):
            yield self._translation_cell(document, row)
        elif row.status in ERROR_STATUSES and self._on_error == "source":
            yield from (text.encode() for text in self._long_text_chunks(document))
        else:
            yield self._encode(["" if row.status in ERROR_STATUSES else row.text])
        yield delimiter + self._meta_cell(document, row) + line_ending(document.raw)

    def _long_text_chunks(self, document: Document) -> Iterator[str]:
        """Yield the text of a record over the byte limit as one cell; if its text is unknown, the whole record."""
        long_row = document.long_row
        is_well_formed = long_row.scan.num_cells == len(self._columns) and not long_row.scan.is_open
        span = long_row.scan.cell_span(long_row.size) if is_well_formed else None
        if span is not None:
            pieces = decode_utf8(long_row.pieces(*span, purpose="text"))
            yield from self._repair(pieces, 1) if self._is_csv else map(to_one_line, pieces)
        elif self._is_csv:
            yield '"'
            yield from (self._escape_quoted(text) for text in decode_utf8(long_row.pieces(purpose="text")))
            yield '"'
        else:
            yield from (self._escape_unquoted(text) for text in decode_utf8(long_row.pieces(purpose="text")))

    def _meta_cell(self, document: Document, row: Row) -> bytes:
        return self._json_cell(metadata(document, row))

    def _json_cell(self, value: dict[str, Any]) -> bytes:
        text = dump_json(value, compact=True)
        if self._is_csv:
            return self._encode([text])
        # format.check_output ensures that the delimiter occurs only in strings of this JSON, where it can be escaped
        text = text.replace(self._delimiter, f"\\u{ord(self._delimiter):04x}")
        return (text.replace(self._escape, self._escape * 2) if self._escape else text).encode()

    def _encode(self, cells: Sequence[str]) -> bytes:
        if self._is_csv:
            encoded_cells = [
                f'"{self._escape_quoted(text)}"' if self._needs_quoting.search(text) else text for text in cells
            ]
        else:
            encoded_cells = [self._escape_unquoted(text) for text in cells]
        return self._delimiter.join(encoded_cells).encode("utf-8", "replace")

    def _escape_quoted(self, text: str) -> str:
        """Escape text for use within quotes."""
        if self._escape:
            text = text.replace(self._escape, self._escape * 2)
        return text.replace('"', (self._escape or '"') + '"')

    def _escape_unquoted(self, text: str) -> str:
        """Escape text for use without quotes."""
        return self._flatten(text.replace(self._escape, self._escape * 2) if self._escape else text)

    def _flatten(self, text: str) -> str:
        return to_one_line(text).replace(self._delimiter, " ")

    def _join(self, *cells: bytes) -> bytes:
        return self._delimiter.encode().join(cells)


def _split_line_ending(raw: bytes) -> tuple[bytes, bytes]:
    """Split a record into its body and its line ending."""
    end = line_ending(raw)
    return raw[: len(raw) - len(end)], end


def _valid_record_pattern(delimiter: str, escape: str) -> re.Pattern[str]:
    """Match a csv record without an open quote; as in Python's csv, a quote counts only at the start of a field."""
    delimiter_pattern, escape = re.escape(delimiter), re.escape(escape)
    pair = rf"|{escape}(?:\r\n|[\s\S])" if escape else ""
    tail = rf"(?:[^{delimiter_pattern}{escape}\r\n]{pair})*+"
    field = rf'(?:"(?:[^"{escape}]|""{pair})*+"{tail}|(?!"){tail})'
    return re.compile(rf"{field}(?:{delimiter_pattern}{field})*+")
