"""Read the record batches of a parquet file in bounded memory, from any row on.

Measured: streaming parquet through `datasets` hangs the process at exit unless it is read to its end
(apache/arrow#45214); `pyarrow.parquet.ParquetFile` with a path instead of a file object does not hang.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from hymt_batch.errors import HymtError, PreflightError, disk_read_error, first_line, is_transient
from hymt_batch.formats.bytestream import READ_ERRORS
from hymt_batch.records import Input

BATCH_ROWS = 1024
BATCH_BYTES = 8 << 20
PAGE_BYTES = 1 << 20  # column chunks are read in pieces of this size, so that a row group of any size fits in memory


class Table:
    """One table: its schema, its number of rows, and its batches from any row on. A subclass reads one kind of file.

    Raises:
        PreflightError: The file cannot be opened or read; the message names it.
        StoppedError: The disk fails.
    """

    kind = "a table"

    def __init__(self, input: Input) -> None:
        self.input = input
        self.schema: Any
        self.num_rows: int
        try:
            self.open()
        except (*READ_ERRORS, NotImplementedError, KeyError, TypeError, AttributeError) as error:
            raise self._read_error(error) from error

    def batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        """Yield record batches starting at a row.

        Args:
            row: Index of the first row.
            columns: Column names, dotted for fields of a struct; None reads all columns.
        """
        batches = self.read_batches(row, columns)
        try:
            while (batch := next(batches, None)) is not None:
                yield batch
        except (*READ_ERRORS, NotImplementedError) as error:
            raise self._read_error(error) from error
        finally:
            batches.close()

    def open(self) -> None:
        """Read the schema and the number of rows."""
        raise NotImplementedError

    def read_batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        """Do what `batches` does, with the errors of the library."""
        raise NotImplementedError

    def _read_error(self, error: BaseException) -> HymtError:
        if isinstance(error, OSError) and is_transient(error):
            return disk_read_error(self.input.path, error)
        if isinstance(error, OSError) and error.errno is not None:
            why = error.strerror or str(error)
            return PreflightError(f"{self.input.path} cannot be read", why=why, fix="Make it readable.")
        cause = first_line(error)
        return PreflightError(
            f"{self.input.path} cannot be read as {self.kind} ({cause})",
            why="It may be truncated or damaged.",
            fix="Create it again, then run again.",
        )


class ParquetTable(Table):
    """A parquet file."""

    kind = "a parquet file"

    def open(self) -> None:
        from pyarrow import parquet

        with parquet.ParquetFile(self.input.path) as file:
            self.schema, self.num_rows = file.schema_arrow, file.metadata.num_rows

    def read_batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
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

        tops = None if columns is None else {top_column(self.schema, name) for name in columns}
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


def top_column(schema: Any, name: str) -> str:
    """Return the top-level column that contains a (dotted) name."""
    return name if name in schema.names else name.split(".")[0]


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
