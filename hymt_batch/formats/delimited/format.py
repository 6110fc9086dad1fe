"""The records of the formats csv and tsv."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hymt_batch.formats.deferred import Deferred
from hymt_batch.formats.delimited.dialect import CSV as CSV_DIALECT
from hymt_batch.formats.delimited.dialect import TSV as TSV_DIALECT
from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.fields import DocumentFields
from hymt_batch.formats.format import Addressing, Format, Kind
from hymt_batch.formats.line_input import LineInput
from hymt_batch.formats.row_values import to_one_line

_CHECKS = "hymt_batch.formats.delimited.checks"
_READER = "hymt_batch.formats.delimited.reader"


def _tsv_name(name: str) -> str:
    return to_one_line(name).replace(TSV_DIALECT.delimiter, " ")


def _delimited(dialect: Dialect) -> Format:
    """Return what csv and tsv have in common."""
    return Format(
        name=dialect.name,
        about=dialect.about,
        kind=Kind.ROWS,
        addressing=Addressing.BYTE_OFFSET,
        extension=f".{dialect.name}",
        input_extensions=(f".{dialect.name}",),
        one_line=not dialect.quoted,
        open_input=partial(
            LineInput,
            read_rows=partial(Deferred(_READER, "read_rows"), dialect=dialect),
            read_head=partial(Deferred(_READER, "read_head"), dialect=dialect),
        ),
        open_writer=partial(Deferred("hymt_batch.formats.delimited.writer", "DelimitedWriter"), dialect=dialect),
        count_rows=partial(Deferred("hymt_batch.formats.delimited.count", "count_rows"), dialect=dialect),
        fields=DocumentFields(has_names=lambda preamble: bool(preamble.header)),
        source_settings=("encoding", "header", "delimiter", "escape"),
    )


CSV = replace(
    _delimited(CSV_DIALECT),
    check_output=Deferred(_CHECKS, "check_csv"),
    check_first_rows=Deferred(_CHECKS, "check_escapes"),
)
TSV = replace(_delimited(TSV_DIALECT), check_output=Deferred(_CHECKS, "check_tsv"), column_name=_tsv_name)
