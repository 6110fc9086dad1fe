"""The fields of a table's rows, as values that JSON can hold."""

from __future__ import annotations

from typing import Any

from hymt_batch.formats.fields import Column, FieldReader, ReadDocuments
from hymt_batch.formats.parquet import arrow_json
from hymt_batch.records import Document, Input, Preamble


class TableFieldReader(FieldReader):
    """Reads the fields of documents whose values are (record batch, index)."""

    WINDOW_ROWS = 64  # rows converted to Python objects at a time

    def __init__(self) -> None:
        self._batch: Any = None
        self._first_index = 0
        self._rows: list[dict[str, Any]] = []

    def read_values(self, document: Document) -> dict[str, Any] | None:
        if document.values is None:
            return None
        batch, index = document.values
        if batch is not self._batch or not 0 <= index - self._first_index < len(self._rows):
            self._batch, self._first_index = batch, index
            window = batch.slice(index, self.WINDOW_ROWS)
            columns = [arrow_json.to_json_values(column) for column in window.columns]
            self._rows = [dict(zip(window.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]
        row: dict[str, Any] = self._rows[index - self._first_index]
        return row


def table_columns(input: Input, preamble: Preamble, documents: ReadDocuments, added: tuple[str, str]) -> list[Column]:
    """Return the columns of a table, in order; parquet output takes their types from the schema."""
    return [Column(name) for name in preamble.schema.names]
