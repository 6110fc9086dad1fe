"""parquet output: the input's record batches, schema, metadata and codec, with two columns added.

`translation` is a string ("" for an error row, as in jsonl); `hymt` is a struct of id, status and flags; see
`added_columns.py` for rows with several text fields. The features that `datasets` stores in the schema's metadata are
extended, so that images, labels and other types load as before. From text, csv and tsv the columns are strings. From
JSON rows they are bool, int64, double or string, whichever holds all values of a field; values of no such type
(objects, lists, fields of mixed types) become JSON text.
A row group ends after `row_group_rows` rows or about ROW_GROUP_BYTES; at most one is held in memory. The same input and
the same version of pyarrow give the same bytes.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from hymt_batch.formats.compressed_stream import NonClosingFile
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.parquet.added_columns import AddedColumns
from hymt_batch.formats.parquet.schema import extend_schema
from hymt_batch.records import Document, Row

ROW_GROUP_BYTES = 128 << 20
_RUN_CHARS = 16 << 20  # characters held as Python objects before they are converted to columns
_CELL_CHARS = 16  # overhead of a Python object, counted as this many characters per value
_CODECS = {"UNCOMPRESSED": "none", "SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4": "lz4"}


class ParquetWriter:
    """Writes the input's record batches, or batches built from its rows, each with two columns added.

    Args:
        spec: The output; its columns are not used for an input of the same format, which has a schema.
        file: Receives the bytes.
    """

    def __init__(self, spec: OutputSpec, file: BinaryIO) -> None:
        self._input = spec.input
        self._preamble = spec.preamble
        self._file = NonClosingFile(file)
        self._names, self._added = spec.added, AddedColumns(spec.preamble.text_fields)
        self._on_error = spec.on_error
        self._row_group_rows = spec.options.row_group_rows
        self._same_format = spec.keeps_bytes
        self._fields, self._columns = spec.new_field_reader(), spec.columns
        self._writer: Any = None
        self._schema: Any = None
        # the current run: consecutive rows of one batch
        self._batch: Any = None
        self._run_start = 0
        self._cells: list[list[Any]] = [[] for _ in spec.columns]
        self._texts: list[Any] = []
        self._metas: list[dict[str, Any]] = []
        self._chars = 0
        # the current row group: finished runs
        self._runs: list[Any] = []
        self._num_rows = 0
        self._num_bytes = 0

    def write(self, document: Document, row: Row) -> None:
        if self._same_format:
            batch, index = document.values
            if batch is not self._batch or index != self._run_start + len(self._texts):
                self._flush_run()
                self._batch, self._run_start = batch, index
        translation, metadata = self._added.values(document, row, self._on_error)
        if not self._same_format:
            values = self._fields.read(document) or {}
            for column, cells in zip(self._columns, self._cells, strict=True):
                value = column.convert(values.get(column.field))
                cells.append(value)
                self._chars += len(value) + _CELL_CHARS if isinstance(value, str) else _CELL_CHARS
        self._texts.append(translation)
        self._metas.append(metadata)
        self._chars += len(translation if isinstance(translation, str) else str(translation))
        if self._num_rows + len(self._texts) >= self._row_group_rows:
            self._flush_run()
            self._flush_row_group()
        elif self._chars >= _RUN_CHARS:
            self._flush_run()

    def close(self) -> None:
        """Write the last row group and the footer; a file without rows is valid too."""
        self._flush_run()
        self._flush_row_group()
        if self._writer is None:
            self._open_writer()
        self._writer.close()

    def _flush_run(self) -> None:
        import pyarrow as pa

        if not self._texts:
            return
        if self._same_format:
            batch = self._batch.slice(self._run_start, len(self._texts))
            columns = list(batch.columns)
        else:
            columns = [
                pa.array(cells, pa.type_for_alias(column.type))
                for column, cells in zip(self._columns, self._cells, strict=True)
            ]
        if self._writer is None:
            self._open_writer()
        columns += [
            pa.array(self._texts, self._schema.field(len(columns)).type),
            pa.array(self._metas, self._schema.field(len(columns) + 1).type),
        ]
        run = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._runs.append(run)
        self._num_rows += run.num_rows
        self._num_bytes += run.nbytes
        self._cells = [[] for _ in self._columns]
        self._texts, self._metas, self._chars = [], [], 0
        if self._num_bytes >= ROW_GROUP_BYTES:
            self._flush_row_group()

    def _flush_row_group(self) -> None:
        import pyarrow as pa

        if self._runs:
            self._writer.write_table(pa.Table.from_batches(self._runs, self._schema), row_group_size=self._num_rows)
            self._runs, self._num_rows, self._num_bytes = [], 0, 0

    def _open_writer(self) -> None:
        import pyarrow.parquet as pq

        schema = None
        if self._same_format:
            schema = self._preamble.schema if self._batch is None else self._batch.schema
        self._schema = extend_schema(schema, self._columns, *self._names, added=self._added)
        self._writer = pq.ParquetWriter(self._file, self._schema, compression=self._codec())

    def _codec(self) -> str:
        """Return the name of the input's compression codec; zstd if the input has none."""
        import pyarrow.parquet as pq

        if not self._same_format or self._input.dataset:
            return "zstd"
        with pq.ParquetFile(self._input.path) as file:
            if not file.metadata.num_row_groups or not file.metadata.num_columns:
                return "zstd"
            return _CODECS.get(file.metadata.row_group(0).column(0).compression, "zstd")

    def __del__(self) -> None:
        # after a failure `close` is not called: pyarrow must not write its footer to the closed file
        file = getattr(self, "_file", None)
        if file is not None:
            file.abandoned = True
