"""The records of the formats with JSON objects as rows: on lines (jsonl), or in an array or over lines (json_rows)."""

from __future__ import annotations

from functools import partial

from hymt_batch.formats.fields import DocumentFields
from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.jsonl.columns import collect_columns
from hymt_batch.formats.jsonl.head import check_lines, check_rows, fits_lines, fits_rows
from hymt_batch.formats.jsonl.reader import read_head, read_rows
from hymt_batch.formats.jsonl.row_array import RowArrayInput, RowArrayWriter, count_elements
from hymt_batch.formats.jsonl.writer import JsonlWriter
from hymt_batch.formats.line_count import count_rows
from hymt_batch.formats.line_input import LineInput

LINES = Format(
    name="jsonl",
    about="one JSON object per line; the field source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".jsonl",
    input_extensions=(".jsonl", ".ndjson"),
    check_head=check_lines,
    fits=fits_lines,
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=partial(LineInput, read_rows=read_rows, read_head=read_head),
    open_writer=JsonlWriter,
    count_rows=count_rows,
    fields=DocumentFields(collect_columns, precede_rows=False),
)

ROWS = Format(
    name="json_rows",
    about="JSON objects in an array or over several lines; the field source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".json",
    check_head=check_rows,
    fits=fits_rows,
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=RowArrayInput,
    open_writer=RowArrayWriter,
    count_rows=count_elements,
    fields=DocumentFields(collect_columns, precede_rows=False),
)
