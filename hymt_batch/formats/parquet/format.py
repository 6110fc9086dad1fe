"""The records of the table formats: parquet files, and saved datasets, whose outputs are parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymt_batch.formats.fields import DocumentFields, ReadDocuments
from hymt_batch.formats.format import Addressing, Format, Kind, OpenInput, OutputSpec
from hymt_batch.formats.parquet.fields import TableFieldReader, table_columns
from hymt_batch.formats.parquet.reader import TableInput
from hymt_batch.formats.parquet.saved_dataset import SavedTable, is_saved_split
from hymt_batch.formats.parquet.schema import check_schema, check_values
from hymt_batch.formats.parquet.table import ParquetTable
from hymt_batch.formats.parquet.writer import ParquetWriter
from hymt_batch.records import Input


def _open_parquet(input: Input) -> OpenInput:
    return TableInput(ParquetTable(input))


def _open_saved_split(input: Input) -> OpenInput:
    return TableInput(SavedTable(input))


def _count_rows(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return {int(file.metadata.num_rows)}


def _check_first_row(spec: OutputSpec, documents: ReadDocuments) -> None:
    first = next(iter(documents()), None)  # reading one row shows whether every column can be read
    if first is not None and not spec.keeps_bytes:
        spec.new_field_reader().read(first)


def _check_saved_rows(spec: OutputSpec, documents: ReadDocuments) -> None:
    if spec.keeps_bytes:
        check_values(spec.input.rel, documents)
    _check_first_row(spec, documents)


_FIELDS = DocumentFields(table_columns, TableFieldReader)

PARQUET = Format(
    name="parquet",
    about="Apache Parquet; the column source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.ROW_NUMBER,
    extension=".parquet",
    input_extensions=(".parquet",),
    magic=b"PAR1",
    compressible=False,
    open_input=_open_parquet,
    open_writer=ParquetWriter,
    count_rows=_count_rows,
    fields=_FIELDS,
    check_output=check_schema,
    check_rows=_check_first_row,
)

SAVED_DATASET = Format(
    name="arrow",
    about="a folder that datasets saved with save_to_disk; the column source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.ROW_NUMBER,
    extension=".parquet",
    compressible=False,
    open_input=_open_saved_split,
    open_writer=ParquetWriter,
    count_rows=_count_rows,
    fields=_FIELDS,
    check_rows=_check_saved_rows,
    is_folder=is_saved_split,
    written_as="parquet",
)
