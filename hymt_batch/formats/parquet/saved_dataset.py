"""Read datasets saved with `save_to_disk` in bounded memory; a split is a folder of arrow files.

`save_to_disk` flattens a dataset's indices, so the arrow files in the order of state.json are the rows in order.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from hymt_batch.formats.parquet.saved_split import STATE_FILE
from hymt_batch.formats.parquet.table import BATCH_ROWS, Table, top_column


class SavedTable(Table):
    """One saved split."""

    kind = "a saved dataset"

    def open(self) -> None:
        import pyarrow as pa

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

    def read_batches(self, row: int, columns: list[str] | None) -> Generator[Any, None, None]:
        import pyarrow as pa

        names = None if columns is None else list(dict.fromkeys(top_column(self.schema, name) for name in columns))
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


def _saved_schema(folder: Path) -> Any:
    """Return the Arrow schema of a saved split from its features; a split without rows has no arrow file to read."""
    import datasets

    return datasets.DatasetInfo.from_directory(str(folder)).features.arrow_schema
