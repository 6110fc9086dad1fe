"""Read csv and tsv: one row per record. csv has quotes (and line breaks inside them); tsv is split at tabs only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hymt_batch.errors import ConfigError
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.delimited.csv_escape import EscapeParser, get_escape_parser
from hymt_batch.formats.delimited.csv_record import RecordReader, split_cells
from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.delimited.record_scan import RecordScan
from hymt_batch.formats.field_rows import FieldRows, FieldText
from hymt_batch.formats.file_error import FileError
from hymt_batch.formats.language_codes import LanguageCodes
from hymt_batch.formats.long_rows import Fields, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, RowError, Rows, check_reserved, error_document
from hymt_batch.records import Document, Preamble

HEAD_ROWS = 100
"""Number of records at the start of a file without a header that are searched for the number of columns."""


def read_rows(stream: ByteStream, config: ReadOptions, context: ReadContext, dialect: Dialect) -> Rows:
    """Read records from the stream's position; with `context.full` a document's values are its cells by column name.

    Where several columns are texts, each of their cells is a document; see `_read_field_rows`.

    A record with a wrong number of cells keeps its cells: missing cells are empty, and surplus cells are joined into
    the last column.
    """
    input, row, full, fields = stream.input, context.first_row, context.full, context.fields
    delimiter = config.delimiter or dialect.delimiter
    if len(config.text_fields) > 1:
        yield from _read_field_rows(stream, config, context, dialect)
        return
    codes = LanguageCodes(config, context)
    column = _column_index(fields, config.text_fields[0])
    source, target = (None if name is None else _column_index(fields, name) for name in codes.fields)
    records = _record_reader(stream, config, context, dialect, column)
    while True:
        raw, digest, cells, row_error, long = records.read()
        if not raw and row_error is None:
            return
        document = None
        if row_error is None and cells:
            try:
                langs = codes.get((_cell(cells, source), _cell(cells, target))) if any(codes.fields) else (None, None)
                kept_raw = raw if full else b""
                values = dict(zip(fields, cells, strict=True)) if full else None
                document = Document(
                    f"{input.rel}#{row + 1}", row, cells[column], digest, kept_raw, *langs, values=values
                )
            except RowError as error:
                row_error = error
        elif row_error is None:  # a blank line
            document = Document(f"{input.rel}#{row + 1}", row, "", digest, raw if full else b"")
        if document is None and row_error is not None:
            text, values = None, None
            if full and cells:
                text = cells[column] if len(cells) == len(fields) else None
                values = dict(zip(fields, fit_to_columns(cells, len(fields), delimiter), strict=True))
            if long is not None:
                long.parse = _long_row_parser(fields, column, delimiter, config, dialect)
            kept_raw, long = (raw, long) if full else (b"", None)
            document = error_document(
                input, row, digest, row_error, raw=kept_raw, text=text, values=values, long_row=long
            )
        assert document is not None
        yield document, stream.position
        row += 1


def _read_field_rows(stream: ByteStream, config: ReadOptions, context: ReadContext, dialect: Dialect) -> Rows:
    """Read records of which several cells are texts."""
    fields, full, delimiter = context.fields, context.full, config.delimiter or dialect.delimiter
    rows = FieldRows(stream.input, config, context)
    columns = [(name, fields.index(name)) for name in config.text_fields if name in fields]
    languages = [None if name is None else _column_index(fields, name) for name in rows.language_fields]
    first = columns[0][1] if columns else 0
    records = _record_reader(stream, config, context, dialect, first)
    while True:
        raw, digest, cells, error, long = records.read()
        if not raw and error is None:
            return
        if error is not None:
            if long is not None:
                long.parse = _long_row_parser(fields, first, delimiter, config, dialect)
            values = None
            if full and cells:
                values = dict(zip(fields, fit_to_columns(cells, len(fields), delimiter), strict=True))
            yield rows.of_error(digest, error, raw=raw, values=values, long_row=long), stream.position
        elif not cells:  # a blank line
            yield rows.of_blank(digest, raw), stream.position
        else:
            texts = [FieldText(name, cells[column]) for name, column in columns]
            codes = (_cell(cells, languages[0]), _cell(cells, languages[1]))
            values = dict(zip(fields, cells, strict=True)) if full else None
            for document in rows.of_texts(digest, texts, codes, raw=raw, values=values):
                yield document, stream.position


def _record_reader(
    stream: ByteStream, config: ReadOptions, context: ReadContext, dialect: Dialect, column: int
) -> RecordReader:
    """Return the reader of a file's records; `column` is that of the text."""
    delimiter, escape = (config.delimiter or dialect.delimiter).encode(), (config.escape or "").encode()
    needs_scan = context.full or ((dialect.quoted or config.escape) and context.plan_version > 1)
    scan = partial(RecordScan, delimiter, column, dialect.quoted, escape) if needs_scan else None
    return RecordReader(stream, config, context, dialect, len(context.fields), scan)


def _long_row_parser(
    fields: tuple[str, ...], column: int, delimiter: str, config: ReadOptions, dialect: Dialect
) -> Callable[[LongRow], Fields]:
    """Return what parses the fields of a record over the limit."""
    return partial(
        _parse_long_row,
        fields=fields,
        column=column,
        delimiter=delimiter,
        escape_parser=get_escape_parser(delimiter, dialect.quoted, config.escape),
        quoted=dialect.quoted,
    )


def read_head(stream: ByteStream, config: ReadOptions, reserved: tuple[str, ...], dialect: Dialect) -> Preamble:
    """Read the header, and reject one that has a column which the output adds."""
    header, fields = read_header(stream, config, dialect)
    delimiter = config.delimiter or dialect.delimiter
    preamble = Preamble(header=header, fields=fields, delimiter=delimiter, escape=config.escape or "")
    if len(config.text_fields) > 1:
        found = tuple(name for name in config.text_fields if name in fields)
        preamble = replace(preamble, text_fields=config.text_fields, found_fields=found)
    return check_reserved(preamble, stream.input.path, reserved if config.header else ())


def read_header(stream: ByteStream, config: ReadOptions, dialect: Dialect) -> tuple[bytes, tuple[str, ...]]:
    """Read the header record; with source.header=false name the columns of the first record "1", "2", ...

    Returns:
        The header's bytes (b"" without a header) and the column names; () for an empty file.

    Raises:
        ConfigError: The header cannot be read, or has no column that a setting names.
    """
    input = stream.input
    delimiter = config.delimiter or dialect.delimiter
    if not config.header:
        num_fields = _count_columns(stream, config, dialect)
        if num_fields is None:
            return b"", ()
        fields = tuple(str(index + 1) for index in range(num_fields))
        for key, name in _used_columns(config, fields):
            if name not in fields:
                raise ConfigError(
                    f"{key}={name} is not a column number of {input.path}: without a header its {len(fields)} "
                    f"columns are named 1 to {len(fields)}",
                    fix=f"Set {key}=1, or source.header=true.",
                )
        return b"", fields
    raw, _, cells, row_error, _ = RecordReader(stream, config, ReadContext(), dialect, None).read()
    if row_error is not None:
        raise ConfigError(f"The header of {input.path} cannot be read: it {row_error}", fix="Fix the first row.")
    if not raw:
        return b"", ()
    fields = tuple(cells or [""])
    check_columns(input.path, fields, config, *_delimiter_hints(fields, delimiter))
    return raw, fields


def _count_columns(stream: ByteStream, config: ReadOptions, dialect: Dialect) -> int | None:
    """Count the columns of the first record that is not blank; None if the file is empty."""
    delimiter, escape = (config.delimiter or dialect.delimiter).encode(), (config.escape or "").encode()
    scan = partial(RecordScan, delimiter, 0, dialect.quoted, escape)
    records = RecordReader(stream, config, ReadContext(), dialect, None, scan)
    for index in range(HEAD_ROWS):
        raw, _, cells, row_error, long = records.read()
        if not raw and row_error is None:
            return 1 if index else None
        if long is not None and isinstance(long.scan, RecordScan):
            return long.scan.num_cells
        if cells:
            return len(cells)
    return 1


def check_columns(
    path: str, fields: tuple[str, ...], config: ReadOptions, hint: str = "", hint_among_others: str = ""
) -> None:
    """Raise ConfigError if a table has no column that a setting names, or has it twice."""
    for key, name in _used_columns(config, fields):
        if name not in fields:
            shown = list(fields[:20])
            raise FileError(
                f"{path} has no column {name!r}",
                why=f"Its columns are {shown}.",
                fix=f"Set {key} to one of them.{hint}",
            ).among_others(hint_among_others)
        if fields.count(name) > 1:
            raise ConfigError(
                f"{path} has the column {name!r} twice", fix=f"Rename one of them, or set {key} to another."
            )


def _used_columns(config: ReadOptions, fields: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the columns that the settings name; of several text fields those that the table has, or else the first."""
    source, target = config.lang_fields
    texts = [name for name in config.text_fields if name in fields] or config.text_fields[:1]
    named = [*(("text_field", name) for name in texts), ("src_lang_field", source), ("tgt_lang_field", target)]
    return [(f"source.{key}", name) for key, name in named if name]


def _delimiter_hints(fields: tuple[str, ...], delimiter: str) -> tuple[str, str]:
    """Suggest another delimiter for a header that is a single column: for this file alone, and for one of several."""
    if len(fields) == 1:
        for candidate, name in ((";", "';'"), ("\t", "tab"), (",", "','"), ("|", "'|'")):
            if candidate != delimiter and candidate in fields[0]:
                is_comma_in_tsv = (candidate, delimiter) == (",", "\t")  # tsv has no quoting
                setting = "source.format=csv" if is_comma_in_tsv else f"source.delimiter={name}"
                separated = f"If its columns are separated by {name}"
                among_others = f"{separated}, move it elsewhere, and translate it in a job of its own with {setting}."
                return f" {separated}, set {setting}.", among_others
    return "", ""


def _column_index(fields: tuple[str, ...], name: str) -> int:
    return fields.index(name) if name in fields else 0  # if there are no fields, the file is empty


def _cell(cells: list[str], column: int | None) -> str | None:
    return None if column is None else cells[column]


def fit_to_columns(cells: list[str], num_columns: int, delimiter: str) -> list[str]:
    """Pad the cells to the number of columns, or join surplus cells into the last column."""
    if len(cells) > num_columns:
        return [*cells[: num_columns - 1], delimiter.join(cells[num_columns - 1 :])]
    return cells + [""] * (num_columns - len(cells))


def _parse_long_row(
    row: LongRow, fields: tuple[str, ...], column: int, delimiter: str, escape_parser: EscapeParser | None, quoted: bool
) -> Fields:
    """Parse the fields of a record over the limit; fields that are too long themselves are empty."""
    assert isinstance(row.scan, RecordScan)
    cells: list[str] = []
    for raw in row.read_spans(row.scan.spans(row.size)):
        cells.append(
            "" if raw is None else split_cells(raw.decode("utf-8", "replace"), delimiter, escape_parser, quoted)[0]
        )
    text = cells[column] if len(cells) == len(fields) and not row.scan.is_open else None
    return dict(zip(fields, fit_to_columns(cells, len(fields), delimiter), strict=True)), text
