"""Read the rows of a table: a parquet file or a saved dataset. The cursor is the row index."""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.field_rows import FieldRows, FieldText
from hymt_batch.formats.language_codes import LanguageCodes
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.parquet.table import Table, top_column
from hymt_batch.formats.row_reader import (
    ReadContext,
    RowError,
    Rows,
    check_reserved,
    error_document,
    not_utf8_message,
    too_long_message,
)
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.records import Document, Preamble, Status


class TableInput:
    """An open table; see `format.OpenInput`."""

    def __init__(self, table: Table) -> None:
        self.input, self._table = table.input, table

    @property
    def num_rows(self) -> int:
        return self._table.num_rows

    def read_start(self, size: int) -> bytes:
        return b""

    def read_preamble(self, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
        check_columns(self._table, options)
        schema, texts = self._table.schema, options.text_fields
        preamble = Preamble(fields=tuple(schema.names), schema=schema)
        if len(texts) > 1:
            preamble = replace(preamble, text_fields=texts, found_fields=present_fields(schema, options))
        return check_reserved(preamble, self.input.path, reserved)

    def rows(self, options: ReadOptions, context: ReadContext, cursor: int) -> Rows:
        read = read_rows if len(options.text_fields) == 1 else _read_field_rows
        return read(self._table, options, context, cursor)

    def at_end(self, next_row: int) -> bool:
        return next_row >= self.num_rows

    def hash_bytes(self, start: int, end: int, header: bytes) -> str | None:
        return None  # a shard's hash is that of the digests of its rows

    def close(self) -> None:
        """Do nothing: a table is open only while a batch is read."""


def check_columns(table: Table, config: ReadOptions) -> None:
    """Reject a table whose columns do not fit the settings.

    Raises:
        ConfigError: A column that a setting names is missing, exists twice or is not text.
    """
    import pyarrow as pa

    path, schema = table.input.path, table.schema
    source, target = config.lang_fields
    texts = [field.name for field in schema if _is_text_type(field.type, pa)]
    fields = present_fields(schema, config) or config.text_fields[:1]
    named = [*(("text_field", name) for name in fields), ("src_lang_field", source), ("tgt_lang_field", target)]
    for key, name in named:
        if not name:
            continue
        if schema.names.count(name) > 1:
            raise ConfigError(
                f"{path} has the column {name!r} twice", fix=f"Rename one, or set source.{key} to another."
            )
        arrow_type = _column_type(schema, name)
        why, fix = f"Its text columns are {texts[:20]}.", f"Set source.{key} to one of them."
        if arrow_type is None and TextFields([name]).has_wildcards:
            raise _wildcard_error(path, f"source.{key}={name}")
        if arrow_type is None:
            raise ConfigError(f"{path} has no column {name!r}", why=why, fix=fix)
        if not _is_text_type(arrow_type, pa):
            raise ConfigError(f"Column {name!r} of {path} is {arrow_type}, not text", why=why, fix=fix)


def _wildcard_error(path: str, setting: str) -> ConfigError:
    new = f"{path}.jsonl"
    script = f"import datasets; datasets.Dataset.from_parquet({json.dumps(path)}).to_json({json.dumps(new)})"
    return ConfigError(
        f"{setting} names elements of lists, which are not read from tables such as {path}",
        fix=f"Set {shlex.quote(f'source.path={new}')} after this command. Command: python -c {shlex.quote(script)}",
    )


def present_fields(schema: Any, config: ReadOptions) -> tuple[str, ...]:
    """Return the text fields that are among the columns of a table."""
    return tuple(name for name in config.text_fields if top_column(schema, name) in schema.names)


def read_rows(table: Table, config: ReadOptions, context: ReadContext, row: int) -> Rows:
    """Read rows from a row on.

    A row's digest covers its text and language columns. With `context.full` a document's values are
    `(record_batch, index)`, and the batch has every column.
    """
    input, limit = table.input, config.max_row_bytes
    codes = LanguageCodes(config, context)
    (text_field,) = config.text_fields
    fields = [text_field, *(name for name in codes.fields if name)]
    prefix = f"{input.rel}#"
    for cells, digest, values in _read_cells(table, context, fields, row):
        content = cells[0]
        try:
            if content is not None and len(content) > limit:
                raise RowError(too_long_message(limit), Status.TOO_LONG)
            text = "" if content is None else _decode(content, text_field)  # null means no text
            langs = _row_languages(codes, cells)
            document = Document(f"{prefix}{row + 1}", row, text, digest, b"", *langs, values=values)
        except RowError as error:
            raw, shown = (content or b"", _decode_lossy(content)) if context.full else (b"", None)
            document = error_document(input, row, digest, error, raw=raw, text=shown, values=values)
        row += 1
        yield document, row


def _read_field_rows(table: Table, config: ReadOptions, context: ReadContext, row: int) -> Rows:
    """Read rows of which several columns are texts; a cell that is null is no text."""
    rows = FieldRows(table.input, config, context)
    texts = present_fields(table.schema, config)
    fields = [*texts, *(name for name in rows.language_fields if name)]
    for cells, digest, values in _read_cells(table, context, fields, row):
        found = [
            _field_text(cell, name, config.max_row_bytes)
            for name, cell in zip(texts, cells, strict=False)
            if cell is not None
        ]
        error: RowError | None = None
        languages: tuple[str | None, str | None] = (None, None)
        try:
            languages = _language_values(rows.language_fields, cells[len(texts) :])
        except RowError as language_error:
            error = language_error
        row += 1
        for document in rows.of_texts(digest, found, languages, error=error, values=values):
            yield document, row


def _read_cells(
    table: Table, context: ReadContext, fields: Sequence[str], row: int
) -> Iterator[tuple[tuple[bytes | None, ...], bytes, Any]]:
    """Yield the cells of each row from a row on, one for each of the fields, with its digest and its values."""
    column_names = None if context.full else list(dict.fromkeys(fields))
    for batch in table.batches(row, column_names):
        columns = [_column_bytes(batch, name) for name in fields]
        for index, cells in enumerate(zip(*columns, strict=True)):
            digest = blake2b(_canonical(cells), digest_size=8).digest()
            if context.hasher is not None:
                context.hasher.add_digest(digest, sum(map(len, filter(None, cells))))
            yield cells, digest, (batch, index) if context.full else None


def _field_text(cell: bytes, name: str, limit: int) -> FieldText:
    try:
        if len(cell) > limit:
            raise RowError(too_long_message(limit), Status.TOO_LONG)
        return FieldText(name, _decode(cell, name))
    except RowError as error:
        return FieldText(name, _decode_lossy(cell), error)


def _row_languages(codes: LanguageCodes, cells: tuple[bytes | None, ...]) -> tuple[str | None, str | None]:
    if len(cells) == 1:
        return None, None
    return codes.get(_language_values(codes.fields, cells[1:]))


def _language_values(
    fields: tuple[str | None, str | None], cells: tuple[bytes | None, ...]
) -> tuple[str | None, str | None]:
    language_cells = iter(cells)
    named = [(name, next(language_cells) if name else None) for name in fields]
    source, target = (None if cell is None else _decode(cell, str(name)) for name, cell in named)
    return source, target


def _decode(cell: bytes, column: str) -> str:
    try:
        return cell.decode()
    except UnicodeDecodeError as error:
        raise RowError(not_utf8_message(error, f"column {column!r}"), Status.BAD_ENCODING) from None


def _decode_lossy(content: bytes | None) -> str:
    return "" if content is None else content.decode("utf-8", "replace")


def _canonical(cells: tuple[bytes | None, ...]) -> bytes:
    """Encode the cells as bytes, so that different cells never have equal encodings."""
    return b"".join(b"\0" if cell is None else b"\1" + struct.pack("<Q", len(cell)) + cell for cell in cells)


def _column_type(schema: Any, name: str) -> Any:
    """Return the Arrow type of a (dotted) name; None if it is missing."""
    top = top_column(schema, name)
    if schema.names.count(top) != 1:
        return None
    arrow_type = schema.field(top).type
    for part in [] if top == name else name.split(".")[1:]:
        if not hasattr(arrow_type, "get_field_index") or arrow_type.get_field_index(part) < 0:
            return None
        arrow_type = arrow_type.field(part).type
    return arrow_type


def _is_text_type(arrow_type: Any, pa: Any) -> bool:
    if isinstance(arrow_type, pa.BaseExtensionType):
        arrow_type = arrow_type.storage_type
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
    return any(getattr(pa.types, f"is_{name}")(arrow_type) for name in names)


def _column_bytes(batch: Any, name: str) -> list[bytes | None]:
    """Return a text column of any Arrow type as bytes, because a string column may contain invalid UTF-8."""
    import pyarrow as pa
    from pyarrow import compute

    top = top_column(batch.schema, name)
    column = batch.column(top)
    for part in [] if top == name else name.split(".")[1:]:
        column = compute.struct_field(column, [part])
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        dictionary = column.dictionary
        if dictionary.type in (
            pa.string_view(),
            pa.binary_view(),
        ):  # pyarrow cannot select values of these types by index
            dictionary = dictionary.cast(pa.large_binary())
        column = dictionary.take(column.indices)
    if pa.types.is_null(column.type):
        return [None] * len(column)
    views = (pa.string_view(), pa.binary_view(), pa.large_string(), pa.large_binary())
    cells: list[bytes | None] = column.cast(pa.large_binary() if column.type in views else pa.binary()).to_pylist()
    return cells
