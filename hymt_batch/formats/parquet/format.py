"""The records of the table formats: parquet files, and saved datasets, whose outputs are parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.fields import DocumentFields, ReadDocuments
from hymt_batch.formats.format import Addressing, Format, Kind, OutputSpec
from hymt_batch.formats.parquet.saved_split import is_saved_split

_SCHEMA = "hymt_batch.formats.parquet.schema"


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
        Deferred(_SCHEMA, "check_values")(spec.input.rel, documents)
    _check_first_row(spec, documents)


_FIELDS = DocumentFields(
    Deferred("hymt_batch.formats.parquet.fields", "table_columns"),
    Deferred("hymt_batch.formats.parquet.fields", "TableFieldReader"),
)
_WRITER = Deferred("hymt_batch.formats.parquet.writer", "ParquetWriter")

PARQUET = Format(
    name="parquet",
    about="Apache Parquet; the column source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.ROW_NUMBER,
    extension=".parquet",
    input_extensions=(".parquet",),
    magic=b"PAR1",
    compressible=False,
    open_input=Deferred("hymt_batch.formats.parquet.open_input", "open_parquet"),
    open_writer=_WRITER,
    count_rows=_count_rows,
    fields=_FIELDS,
    check_output=Deferred(_SCHEMA, "check_schema"),
    check_rows=_check_first_row,
)

SAVED_DATASET = Format(
    name="arrow",
    about="a folder that datasets saved with save_to_disk; the column source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.ROW_NUMBER,
    extension=".parquet",
    compressible=False,
    open_input=Deferred("hymt_batch.formats.parquet.open_input", "open_saved_split"),
    open_writer=_WRITER,
    count_rows=_count_rows,
    fields=_FIELDS,
    check_rows=_check_saved_rows,
    is_folder=is_saved_split,
    written_as="parquet",
)
