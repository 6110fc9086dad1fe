"""Output formats: one writer for each pair of input and output format, and the lines of the errors file.

A writer turns (document, row) pairs, in row order, into the bytes of one file, and gives exactly one row for each pair.
It does not know where rows come from, nor how the file becomes final: the caller opens a temporary file and publishes
it.

    input \\ output   text   jsonl              csv, tsv             parquet
    text             text   text               text                 text
    jsonl            -      object, spliced    fields of all rows   fields of all rows, typed
    csv, tsv         -      columns            columns (same: raw)  columns, as strings
    parquet          -      columns            columns              columns, types kept

`text` is one column of that name, `-` none; every output but text also has `write.translation_field` and
`write.meta_field`. What an output cannot hold is text there: see `arrow.values`, `cell.cell` and `columns`. An output
of the input's own format keeps the user's bytes; a conversion is UTF-8 without BOM, with the line ending of the input's
first line.
"""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO, Protocol

from hymt_batch.errors import ConfigError
from hymt_batch.records import ERROR_STATUSES, Document, Input, Preamble, Row, line_ending
from hymt_batch.write.columns import Column, ReadDocuments, output_columns
from hymt_batch.write.compressed_stream import CompressedStream, NonClosingFile, compression_of
from hymt_batch.write.delimited import DELIMITERS, DelimitedWriter, delimiter_of
from hymt_batch.write.jsonl import JsonlWriter
from hymt_batch.write.parquet import ParquetWriter, check_schema, check_values, extend_schema
from hymt_batch.write.row_values import BLANK_FLAG, FieldReader, dump_json, output_text, to_one_line

if TYPE_CHECKING:
    from hymt_batch.write.settings import WriteConfig

# in the JSON of the meta column these can stand outside strings, or are part of an escape
_AMBIGUOUS_TSV_DELIMITERS = frozenset('{}[]:,"\\ 0123456789abcdefABCDEFu')


MAX_RAW_BYTES = 4096
# controls, marks of direction, and what else is not seen: a terminal or a viewer might act on it
_INVISIBLE = re.compile("[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


class Writer(Protocol):
    """What every format offers. After a failure a writer is dropped without close; it writes nothing more then."""

    def write(self, document: Document, row: Row) -> None:
        """Write one row; the document comes from the second pass over the source, with its raw bytes and values."""

    def close(self) -> None:
        """Write what is left and the format's end. The caller's file stays open."""


class TextWriter:
    """One line a row, with the row's own line ending where the input is text."""

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
        # an empty last line without a line ending would be no line at all
        self._stream.write(body + (end or (b"" if body else self._newline)))

    def close(self) -> None:
        self._stream.close()


def open_writer(
    input: Input,
    out_format: str,
    preamble: Preamble,
    config: WriteConfig,
    file: BinaryIO,
    documents: ReadDocuments = tuple,
) -> Writer:
    """Open the writer of one output file.

    Args:
        input: The input file; the extension of `out_rel` names the compression (.gz .zst .xz .bz2), but for parquet.
        out_format: text, jsonl, csv, tsv or parquet; not "input".
        preamble: What stands before the input's first row; of parquet, its schema.
        config: How translations are stored.
        file: Opened for writing bytes, at its start. It needs `write` alone, and is never closed here.
        documents: A fresh pass over the rows; read where jsonl becomes columns.

    Raises:
        ConfigError: See `check`.
    """
    taken = _checked_columns(input, out_format, preamble, config, documents)
    on_error = str(config.on_error.value)
    added = {"translation_field": config.translation_field, "meta_field": config.meta_field, "on_error": on_error}
    if out_format == "parquet":
        rows = config.row_group_rows
        return ParquetWriter(input, preamble, NonClosingFile(file), columns=taken, row_group_rows=rows, **added)
    sink = CompressedStream(file, compression_of(input.out_rel))
    if out_format == "text":
        return TextWriter(input, preamble, sink, on_error=on_error)
    if out_format == "jsonl":
        return JsonlWriter(input, preamble, sink, **added)
    return DelimitedWriter(input, out_format, preamble, sink, columns=taken, **added)


def check(
    input: Input, out_format: str, preamble: Preamble, config: WriteConfig, documents: ReadDocuments = tuple
) -> None:
    """Refuse an output that could not be written: for before the job starts.

    All rows are read where jsonl becomes columns, else the first at most. Whether a jsonl row has one of the added
    fields is seen row by row: see `jsonl`.

    Raises:
        ConfigError: Taken names, columns of one name, too many fields to be columns, a delimiter that tsv cannot keep
            apart from text, or a column type that the output cannot store.
    """
    _checked_columns(input, out_format, preamble, config, documents)
    if input.dataset and out_format == "parquet":
        check_values(input.rel, documents)
    if input.format == "parquet" and out_format != "text":
        first = next(iter(documents()), None)  # its batch shows whether every column can be read
        if first is not None and input.format != out_format:
            FieldReader(input.format).read(first)


def _checked_columns(
    input: Input, out_format: str, preamble: Preamble, config: WriteConfig, documents: ReadDocuments
) -> list[Column]:
    """The columns that the output takes over from its input."""
    if out_format == "text":
        return []
    added = {"write.translation_field": config.translation_field, "write.meta_field": config.meta_field}
    keeps = input.format == out_format
    taken = output_columns(input, out_format, preamble, documents, tuple(added.values()))
    names = [column.name for column in taken]
    for key, name in added.items():
        if name in names:
            raise ConfigError(
                f"{input.rel} already has a field {name!r}. Its fields are {names[:20]}. "
                f"Set {key} to a name that is not among them."
            )
    shown = [to_one_line(name).replace(DELIMITERS["tsv"], " ") for name in names] if out_format == "tsv" else names
    twice = sorted(name for name, count in Counter(shown).items() if count > 1)
    if twice and not keeps:
        raise ConfigError(
            f"{input.rel} has more than one column {twice[0]!r}: {out_format} output could keep only one of them. "
            "Set write.format=input."
        )
    if out_format in DELIMITERS:
        _check_delimiter(input, out_format, delimiter_of(input, out_format, preamble), added)
    if out_format == "parquet":
        check_schema(input.rel, extend_schema(preamble.schema if keeps else None, taken, *added.values()))
    return taken


def error_line(document: Document, row: Row, raw: bool = True) -> bytes:
    """Line of the errors file for a row whose status is not ok: where and why.

    Args:
        document: The row.
        row: What became of it.
        raw: Where it has no translation, add it as it came: `raw`, at most RAW_BYTES in the file, with bytes that are
            no UTF-8 as \\xHH and everything that is not printed as an escape of JSON; `raw_cut` where it is longer.
    """
    message = row.message or document.message
    status = row.status.value
    line = {
        "id": document.id,
        "row": document.row_index + 1,
        "status": status,
        "message": message,
        "flags": list(row.flags),
    }
    if not raw or row.status not in ERROR_STATUSES:
        return dump_json(line).encode() + b"\n"
    shown, is_cut = _raw_json(document)
    cut = ', "raw_cut": true' if is_cut else ""
    return f'{dump_json(line)[:-1]}, "raw": {shown}{cut}}}\n'.encode()


def _raw_json(document: Document) -> tuple[str, bool]:
    """A row as it came, as a JSON string of at most RAW_BYTES; and whether it is longer."""
    if document.long_row is not None:
        found, is_cut = document.long_row.head, document.long_row.size > len(document.long_row.head)
    else:
        found, is_cut = document.raw[: len(document.raw) - len(line_ending(document.raw))], False
    is_cut = is_cut or len(found) > MAX_RAW_BYTES
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    text = decoder.decode(found[:MAX_RAW_BYTES], final=not is_cut)  # a character that is cut in two is left out
    shown = _escape_invisible(text)
    if len(shown.encode()) <= MAX_RAW_BYTES:
        return shown, is_cut
    fits = (
        bisect_right(range(len(text) + 1), MAX_RAW_BYTES, key=lambda size: len(_escape_invisible(text[:size]).encode()))
        - 1
    )
    return _escape_invisible(text[:fits]), True


def _escape_invisible(text: str) -> str:
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", dump_json(text))


def _check_delimiter(input: Input, out_format: str, delimiter: str, added: dict[str, str]) -> None:
    if out_format == "csv":
        if len(delimiter) != 1 or delimiter in '"\r\n':
            raise ConfigError(
                f"{input.rel} is read with source.delimiter={delimiter!r}, which csv cannot use: it must be one"
                " character, no quote and no line break. Set source.delimiter=',', or the character between two fields."
            )
        return
    if len(delimiter) != 1 or delimiter in _AMBIGUOUS_TSV_DELIMITERS or to_one_line(delimiter) != delimiter:
        raise ConfigError(
            f"{input.rel} is read as tsv with source.delimiter={delimiter!r}. tsv has no quoting, and this delimiter"
            f" also stands in translations or in the added column {added['write.meta_field']!r}, which is JSON. Set"
            " source.format=csv, or write.format=jsonl."
        )
    for key, name in added.items():
        if delimiter in name or to_one_line(name) != name:
            raise ConfigError(
                f"{key}={name!r} holds a delimiter or a line break, which a tsv header cannot quote. "
                f"Set {key} to a name without."
            )
