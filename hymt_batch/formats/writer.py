"""Output formats: one writer for each pair of input and output format.

A writer turns (document, row) pairs, in row order, into the bytes of one file, and writes exactly one row per pair. It
is independent of where rows come from and how the file is published: the caller opens a temporary file and renames it.

    input \\ output   text   jsonl              csv, tsv             parquet
    text             text   text               text                 text
    jsonl            -      object, spliced    fields of all rows   fields of all rows, typed
    csv, tsv         -      columns            columns (same: raw)  columns, as strings
    parquet          -      columns            columns              columns, types kept

The table shows the columns taken over from the input: `text` is one column of that name, `-` none. Every output but
text also has `write.translation_field` and `write.meta_field`. Values that an output format cannot hold become text:
see `arrow_json.to_json_values`, `row_values.to_cell` and `columns`. An output of the input's own format keeps the
user's bytes; a conversion is UTF-8 without BOM, with the line ending of the input's first line.
"""

from __future__ import annotations

from collections import Counter
from typing import BinaryIO, Protocol

from hymt_batch.errors import ConfigError
from hymt_batch.formats.columns import Column, ReadDocuments, output_columns
from hymt_batch.formats.compressed_stream import CompressedStream, NonClosingFile, compression_of
from hymt_batch.formats.delimited.writer import DELIMITERS, DelimitedWriter, delimiter_of
from hymt_batch.formats.jsonl.writer import JsonlWriter
from hymt_batch.formats.options import WriteOptions
from hymt_batch.formats.parquet.writer import ParquetWriter, check_schema, check_values, extend_schema
from hymt_batch.formats.row_values import BLANK_FLAG, FieldReader, output_text, to_one_line
from hymt_batch.records import ERROR_STATUSES, Document, Input, Preamble, Row, line_ending

# the JSON of the meta column has these characters outside strings or in escapes
_AMBIGUOUS_TSV_DELIMITERS = frozenset('{}[]:,"\\ 0123456789abcdefABCDEFu')


class Writer(Protocol):
    """The interface of all formats. After a failure a writer is discarded without close and writes nothing more."""

    def write(self, document: Document, row: Row) -> None:
        """Write one row.

        Args:
            document: From the second pass over the source, with its raw bytes and values.
            row: The committed row.
        """

    def close(self) -> None:
        """Flush the buffers and write the end of the format. The caller's file stays open."""


class TextWriter:
    """Writes one line per row, with the row's own line ending where the input is text."""

    def __init__(self, input: Input, preamble: Preamble, stream: CompressedStream, *, on_error: str) -> None:
        self._stream = stream
        self._on_error = on_error
        self._newline = preamble.newline
        self._same_format = input.format == "text"
        if self._same_format:
            stream.write(preamble.bom)

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


def open_writer(
    input: Input,
    out_format: str,
    preamble: Preamble,
    config: WriteOptions,
    file: BinaryIO,
    documents: ReadDocuments = tuple,
) -> Writer:
    """Open the writer of one output file.

    Args:
        input: The input file; except for parquet, the extension of `out_rel` (.gz .zst .xz .bz2) sets the compression.
        out_format: text, jsonl, csv, tsv or parquet; not "input".
        preamble: The part of the input before its first row; for parquet, the schema.
        config: How translations are stored.
        file: Open for writing bytes, at its start. Only its `write` is used; it is never closed here.
        documents: Starts a pass over the rows; called where jsonl becomes columns.

    Raises:
        ConfigError: See `check`.
    """
    columns = _checked_columns(input, out_format, preamble, config, documents)
    on_error = str(config.on_error.value)
    added = {"translation_field": config.translation_field, "meta_field": config.meta_field, "on_error": on_error}
    if out_format == "parquet":
        rows = config.row_group_rows
        return ParquetWriter(input, preamble, NonClosingFile(file), columns=columns, row_group_rows=rows, **added)
    stream = CompressedStream(file, compression_of(input.out_rel))
    if out_format == "text":
        return TextWriter(input, preamble, stream, on_error=on_error)
    if out_format == "jsonl":
        return JsonlWriter(input, preamble, stream, **added)
    return DelimitedWriter(input, out_format, preamble, stream, columns=columns, **added)


def check(
    input: Input, out_format: str, preamble: Preamble, config: WriteOptions, documents: ReadDocuments = tuple
) -> None:
    """Reject an output that cannot be written, before the job starts.

    Reads all rows where jsonl becomes columns, may read all rows of a saved dataset that becomes parquet, and otherwise
    reads at most the first row. A jsonl row that already has one of the added fields is found only when it
    is written: see `jsonl`.

    Raises:
        ConfigError: An added name is taken, several columns have the same name, the fields are too many to be columns,
            the delimiter cannot be distinguished from text in tsv, or the output cannot store a column's type.
    """
    _checked_columns(input, out_format, preamble, config, documents)
    if input.dataset and out_format == "parquet":
        check_values(input.rel, documents)
    if input.format == "parquet" and out_format != "text":
        first = next(iter(documents()), None)  # reading one row shows whether every column can be read
        if first is not None and input.format != out_format:
            FieldReader(input.format).read(first)


def _checked_columns(
    input: Input, out_format: str, preamble: Preamble, config: WriteOptions, documents: ReadDocuments
) -> list[Column]:
    """Check the output and return the columns that it takes over from its input."""
    if out_format == "text":
        return []
    added = {"write.translation_field": config.translation_field, "write.meta_field": config.meta_field}
    same_format = input.format == out_format
    columns = output_columns(input, out_format, preamble, documents, tuple(added.values()))
    names = [column.name for column in columns]
    for key, name in added.items():
        if name in names:
            raise ConfigError(
                f"{input.rel} already has a field {name!r}. Its fields are {names[:20]}. "
                f"Set {key} to a name that is not among them."
            )
    written_names = (
        [to_one_line(name).replace(DELIMITERS["tsv"], " ") for name in names] if out_format == "tsv" else names
    )
    duplicates = sorted(name for name, count in Counter(written_names).items() if count > 1)
    if duplicates and not same_format:
        raise ConfigError(
            f"{input.rel} has more than one column {duplicates[0]!r}: {out_format} output can keep only one of them. "
            "Set write.format=input."
        )
    if out_format in DELIMITERS:
        _check_delimiter(input, out_format, delimiter_of(input, out_format, preamble), added)
    if out_format == "parquet":
        check_schema(input.rel, extend_schema(preamble.schema if same_format else None, columns, *added.values()))
    return columns


def _check_delimiter(input: Input, out_format: str, delimiter: str, added: dict[str, str]) -> None:
    if out_format == "csv":
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(
                f"{input.rel} is read with source.delimiter={delimiter!r}, which csv cannot use: it must be one"
                " character, but not a quote or a line break. Set source.delimiter=',' or the character between two"
                " fields."
            )
        return
    if len(delimiter) != 1 or delimiter in _AMBIGUOUS_TSV_DELIMITERS or to_one_line(delimiter) != delimiter:
        raise ConfigError(
            f"{input.rel} is read as tsv with source.delimiter={delimiter!r}. tsv has no quoting, and this delimiter"
            f" also occurs in translations or in the added column {added['write.meta_field']!r}, which is JSON. Set"
            " source.format=csv, or write.format=jsonl."
        )
    for key, name in added.items():
        if delimiter in name or to_one_line(name) != name:
            raise ConfigError(
                f"{key}={name!r} contains a delimiter or a line break, which a tsv header cannot quote. "
                f"Set {key} to a name without them."
            )
