"""Open the inputs of the table formats."""

from __future__ import annotations

from hymt_batch.formats.parquet.reader import TableInput
from hymt_batch.formats.parquet.saved_dataset import SavedTable
from hymt_batch.formats.parquet.table import ParquetTable
from hymt_batch.records import Input


def open_parquet(input: Input) -> TableInput:
    return TableInput(ParquetTable(input))


def open_saved_split(input: Input) -> TableInput:
    return TableInput(SavedTable(input))
