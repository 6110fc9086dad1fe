"""The record of the format jsonl."""

from __future__ import annotations

from functools import partial

from hymt_batch.formats.fields import DocumentFields
from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.jsonl.columns import collect_columns
from hymt_batch.formats.jsonl.head import check_head, fits
from hymt_batch.formats.jsonl.reader import read_head, read_rows
from hymt_batch.formats.jsonl.writer import JsonlWriter
from hymt_batch.formats.line_count import count_rows
from hymt_batch.formats.line_input import LineInput

FORMAT = Format(
    name="jsonl",
    about="one JSON object per line; the field source.text_field",
    kind=Kind.ROWS,
    addressing=Addressing.BYTE_OFFSET,
    extension=".jsonl",
    input_extensions=(".jsonl", ".ndjson"),
    check_head=check_head,
    fits=fits,
    source_settings=("encoding",),
    escapes_characters=True,
    open_input=partial(LineInput, read_rows=read_rows, read_head=read_head),
    open_writer=JsonlWriter,
    count_rows=count_rows,
    fields=DocumentFields(collect_columns, precede_rows=False),
)
