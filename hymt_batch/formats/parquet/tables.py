"""Read parquet files and datasets saved with `save_to_disk` in bounded memory; the cursor is the row index.

Measured: streaming parquet through `datasets` hangs the process at exit unless it is read to its end
(apache/arrow#45214); `pyarrow.parquet.ParquetFile` with a path instead of a file object does not hang.
`save_to_disk` flattens a dataset's indices, so the arrow files in the order of state.json are the rows in order.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Generator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hymt_batch.errors import ConfigError, HymtError, PreflightError, disk_read_error, is_transient
from hymt_batch.formats.bytestream import READ_ERRORS
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import (
    LanguageCodes,
    ReadContext,
    RowError,
    Rows,
    error_document,
    not_utf8_message,
    too_long_message,
)
from hymt_batch.records import Document, Input, Status

BATCH_ROWS = 1024
BATCH_BYTES = 8 << 20
PAGE_BYTES = 1 << 20  # column chunks are read in pieces of this size, so that a row group of any size fits in memory
STATE_FILE = "state.json"


class Table:
    """One parquet file or saved split: its schema, its number of rows, and its batches from any row on.

    Raises:
        PreflightError: The file cannot be opened or read; the message names it.
        StoppedError: The disk fails.
    """

    def __init__(self, input: Input) -> None:
        self.input = input
        self.schema: Any
        self.num_rows: int
        try:
            self._open()
        except (*READ_ERRORS, NotImplementedError, KeyError, TypeError, AttributeError) as error:
            raise self._read_error(error) from error

    def batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        """Yield record batches starting at a row.

        Args:
            row: Index of the first row.
            columns: Column names, dotted for fields of a struct; None reads all columns.
        """
        read = self._saved_batches if self.input.dataset else self._parquet_batches
        batches = read(row, columns)
        try:
            while (batch := next(batches, None)) is not None:
                yield batch
        except (*READ_ERRORS, NotImplementedError) as error:
            raise self._read_error(error) from error
        finally:
            batches.close()

    def _open(self) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        if not self.input.dataset:
            with parquet.ParquetFile(self.input.path) as file:
                self.schema, self.num_rows = file.schema_arrow, file.metadata.num_rows
            return
        folder = Path(self.input.path)
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        if state.get("_indices_data_files"):
            raise ValueError("it has an indices file, which only old versions of datasets write")
        self._files = [str(folder / entry["filename"]) for entry in state["_data_files"]]
        self._file_num_rows = []
        for path in self._files:
            with pa.memory_map(path) as data, pa.ipc.open_stream(data) as batches:
                self.schema = batches.schema
                self._file_num_rows.append(sum(batch.num_rows for batch in batches))
        self.num_rows = sum(self._file_num_rows)
        if not self._files:
            self.schema = _saved_schema(folder)

    def _parquet_batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        from pyarrow import parquet

        with parquet.ParquetFile(
            self.input.path, buffer_size=PAGE_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            for group in range(file.metadata.num_row_groups):
                group_metadata = file.metadata.row_group(group)
                if row >= group_metadata.num_rows:
                    row -= group_metadata.num_rows
                    continue
                size = max(
                    1, min(BATCH_ROWS, BATCH_BYTES * group_metadata.num_rows // max(1, group_metadata.total_byte_size))
                )
                size = max(
                    1, min(size, BATCH_BYTES // max(1, self._dictionary_row_bytes(file.metadata, group, columns)))
                )
                for batch in file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False):
                    if row < batch.num_rows:
                        yield batch.slice(row)
                    row = max(0, row - batch.num_rows)

    def _dictionary_row_bytes(self, metadata: Any, group: int, columns: list[str] | None) -> int:
        """Return the size in bytes of a row with the longest value of each dictionary; any row may have this size.

        A dictionary value is stored once per file. Measured: 2,000 rows with the same text of 1 MB take 47 KB in the
        file, but took 3 GB of memory in batches of 1024 rows.
        """
        from pyarrow import parquet

        tops = None if columns is None else {_top_column(self.schema, name) for name in columns}
        group_metadata = metadata.row_group(group)
        chunks = [
            group_metadata.column(index)
            for index in range(group_metadata.num_columns)
            if metadata.schema.column(index).logical_type.type != "DECIMAL"  # arrow cannot read these as dictionaries
        ]
        names = [
            chunk.path_in_schema
            for chunk in chunks
            if chunk.physical_type == "BYTE_ARRAY"
            and chunk.has_dictionary_page
            and chunk.total_uncompressed_size > BATCH_BYTES // BATCH_ROWS
            and (tops is None or chunk.path_in_schema in tops or chunk.path_in_schema.split(".")[0] in tops)
        ]
        if not names:
            return 0
        with parquet.ParquetFile(self.input.path, read_dictionary=names, page_checksum_verification=True) as file:
            first = next(file.iter_batches(1, row_groups=[group], columns=names, use_threads=False), None)
            return 0 if first is None else sum(_longest_value_bytes(column) for column in first.columns)

    def _saved_batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        import pyarrow as pa

        names = None if columns is None else list(dict.fromkeys(_top_column(self.schema, name) for name in columns))
        for path, num_rows in zip(self._files, self._file_num_rows, strict=True):
            if row >= num_rows:
                row -= num_rows
                continue
            with pa.memory_map(path) as data, pa.ipc.open_stream(data) as batches:
                for batch in batches:
                    for start in range(min(row, batch.num_rows), batch.num_rows, BATCH_ROWS):
                        piece = batch.slice(start, BATCH_ROWS)
                        yield piece if names is None else piece.select(names)
                    row = max(0, row - batch.num_rows)

    def _read_error(self, error: BaseException) -> HymtError:
        if isinstance(error, OSError) and is_transient(error):
            return disk_read_error(self.input.path, error)
        if isinstance(error, OSError) and error.errno is not None:
            return PreflightError(f"{self.input.path} cannot be read: {error.strerror or error}. Make it readable.")
        kind = "a saved dataset" if self.input.dataset else "a parquet file"
        return PreflightError(
            f"{self.input.path} cannot be read as {kind} ({str(error).splitlines()[0] if str(error) else error!r})."
            " It may be truncated or damaged: create it again, then run again."
        )


def _saved_schema(folder: Path) -> Any:
    """Return the Arrow schema of a saved split from its features; a split without rows has no arrow file to read."""
    import datasets

    return datasets.DatasetInfo.from_directory(str(folder)).features.arrow_schema


def is_saved_split(folder: str) -> bool:
    """Return whether a folder is one split saved by `datasets.save_to_disk`."""
    return all(os.path.isfile(os.path.join(folder, name)) for name in (STATE_FILE, "dataset_info.json"))


def check_columns(table: Table, config: ReadOptions) -> None:
    """Reject a table whose columns do not fit the settings.

    Raises:
        ConfigError: A column that a setting names is missing, exists twice or is not text.
    """
    import pyarrow as pa

    path, schema = table.input.path, table.schema
    source, target = config.lang_fields
    texts = [field.name for field in schema if _is_text_type(field.type, pa)]
    for key, name in (("text_field", config.text_field), ("src_lang_field", source), ("tgt_lang_field", target)):
        if not name:
            continue
        if schema.names.count(name) > 1:
            raise ConfigError(f"{path} has the column {name!r} twice. Rename one, or set source.{key} to another.")
        arrow_type = _column_type(schema, name)
        fix = f"Its text columns are {texts[:20]}. Set source.{key} to one of them."
        if arrow_type is None:
            raise ConfigError(f"{path} has no column {name!r}. {fix}")
        if not _is_text_type(arrow_type, pa):
            raise ConfigError(f"Column {name!r} of {path} is {arrow_type}, not text. {fix}")


def read_rows(table: Table, config: ReadOptions, context: ReadContext) -> Rows:
    """Read rows from `context.first_row` on.

    A row's digest covers its text and language columns. With `context.full` a document's values are
    `(record_batch, index)`, and the batch has every column.
    """
    input, row, limit = table.input, context.first_row, config.max_row_bytes
    codes = LanguageCodes(config)
    fields = [config.text_field, *(name for name in codes.fields if name)]
    column_names = None if context.full else list(dict.fromkeys(fields))
    prefix = f"{input.rel}#"
    for batch in table.batches(row, column_names):
        columns = [_column_bytes(batch, name) for name in fields]
        for index, cells in enumerate(zip(*columns, strict=True)):
            digest = blake2b(_canonical(cells), digest_size=8).digest()
            if context.hasher is not None:
                context.hasher.add_digest(digest, sum(map(len, filter(None, cells))))
            values = (batch, index) if context.full else None
            content = cells[0]
            try:
                if content is not None and len(content) > limit:
                    raise RowError(too_long_message(limit), Status.TOO_LONG)
                text = "" if content is None else _decode(content, config.text_field)  # null means no text
                langs = _row_languages(codes, cells)
                document = Document(f"{prefix}{row + 1}", row, text, digest, b"", *langs, values=values)
            except RowError as error:
                raw, shown = (content or b"", _decode_lossy(content)) if context.full else (b"", None)
                document = error_document(input, row, digest, error, raw=raw, text=shown, values=values)
            row += 1
            yield document, row


def _row_languages(codes: LanguageCodes, cells: tuple[bytes | None, ...]) -> tuple[str | None, str | None]:
    if len(cells) == 1:
        return None, None
    language_cells = iter(cells[1:])
    named = [(name, next(language_cells) if name else None) for name in codes.fields]
    source, target = (None if cell is None else _decode(cell, str(name)) for name, cell in named)
    return codes.get((source, target))


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


def _top_column(schema: Any, name: str) -> str:
    """Return the top-level column that contains a (dotted) name."""
    return name if name in schema.names else name.split(".")[0]


def _column_type(schema: Any, name: str) -> Any:
    """Return the Arrow type of a (dotted) name; None if it is missing."""
    top = _top_column(schema, name)
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


def _longest_value_bytes(column: Any) -> int:
    """Return the bytes of the longest dictionary value of a column; the sum over the fields of a nested column."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        return int(compute.max(compute.binary_length(column.dictionary)).as_py() or 0)
    if pa.types.is_struct(column.type):
        return sum(_longest_value_bytes(column.field(index)) for index in range(column.type.num_fields))
    if pa.types.is_map(column.type):
        return _longest_value_bytes(column.keys) + _longest_value_bytes(column.items)
    return _longest_value_bytes(column.values) if hasattr(column, "values") else 0


def _column_bytes(batch: Any, name: str) -> list[bytes | None]:
    """Return a text column of any Arrow type as bytes, because a string column may contain invalid UTF-8."""
    import pyarrow as pa
    from pyarrow import compute

    top = _top_column(batch.schema, name)
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
