"""The records of the formats with JSON objects as rows: on lines (jsonl), or in an array or over lines (json_rows)."""

from __future__ import annotations

from functools import partial

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.fields import DocumentFields
from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.line_count import count_rows
from hymt_batch.formats.line_input import LineInput

_HEAD = "hymt_batch.formats.jsonl.head"
_READER = "hymt_batch.formats.jsonl.reader"
_ROW_ARRAY = "hymt_batch.formats.jsonl.row_array"
_FIELDS = DocumentFields(Deferred("hymt_batch.formats.jsonl.columns", "collect_columns"), precede_rows=False)

LINES = Format(
    name="jsonl",
    about="one JSON object per line; the field source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".jsonl",
    input_extensions=(".jsonl", ".ndjson"),
    check_head=Deferred(_HEAD, "check_lines"),
    fits=Deferred(_HEAD, "fits_lines"),
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=partial(LineInput, read_rows=Deferred(_READER, "read_rows"), read_head=Deferred(_READER, "read_head")),
    open_writer=Deferred("hymt_batch.formats.jsonl.writer", "JsonlWriter"),
    count_rows=count_rows,
    fields=_FIELDS,
)

ROWS = Format(
    name="json_rows",
    about="JSON objects in an array or over several lines; the field source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".json",
    check_head=Deferred(_HEAD, "check_rows"),
    fits=Deferred(_HEAD, "fits_rows"),
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=Deferred(_ROW_ARRAY, "RowArrayInput"),
    open_writer=Deferred(_ROW_ARRAY, "RowArrayWriter"),
    count_rows=Deferred(_ROW_ARRAY, "count_elements"),
    fields=_FIELDS,
)
