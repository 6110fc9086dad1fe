"""The records of the formats csv and tsv."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from hymt_batch.errors import ConfigError
from hymt_batch.formats.delimited.count import count_rows
from hymt_batch.formats.delimited.csv_escape import ESCAPE_HINT
from hymt_batch.formats.delimited.dialect import CSV as CSV_DIALECT
from hymt_batch.formats.delimited.dialect import TSV as TSV_DIALECT
from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.delimited.reader import read_head, read_rows
from hymt_batch.formats.delimited.writer import DelimitedWriter, delimiter_of
from hymt_batch.formats.fields import DocumentFields
from hymt_batch.formats.format import Addressing, Format, Kind, OutputSpec
from hymt_batch.formats.line_input import LineInput
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_values import to_one_line
from hymt_batch.records import Document, Input

# the JSON of the meta column has these characters outside strings or in escapes
_AMBIGUOUS_TSV_DELIMITERS = frozenset('{}[]:,"\\ 0123456789abcdefABCDEFu')


def _check_csv(spec: OutputSpec) -> None:
    delimiter = delimiter_of(spec, CSV_DIALECT.delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(
            f"{spec.input.rel} is read with source.delimiter={delimiter!r}, which csv cannot use: it must be one "
            "character, but not a quote or a line break",
            fix="Set source.delimiter=',' or the character between two fields.",
        )


def _check_tsv(spec: OutputSpec) -> None:
    delimiter = delimiter_of(spec, TSV_DIALECT.delimiter)
    added = {"write.translation_field": spec.added[0], "write.meta_field": spec.added[1]}
    if len(delimiter) != 1 or delimiter in _AMBIGUOUS_TSV_DELIMITERS or to_one_line(delimiter) != delimiter:
        raise ConfigError(
            f"{spec.input.rel} is read as tsv with source.delimiter={delimiter!r}. tsv has no quoting, and this "
            f"delimiter also occurs in translations or in the added column {added['write.meta_field']!r}, which is "
            "JSON",
            fix="Set source.format=csv, or write.format=jsonl.",
        )
    for key, name in added.items():
        if delimiter in name or to_one_line(name) != name:
            raise ConfigError(
                f"{key}={name!r} contains a delimiter or a line break, which a tsv header cannot quote",
                fix=f"Set {key} to a name without them.",
            )


def _check_escapes(input: Input, options: ReadOptions, documents: Iterable[Document]) -> None:
    """Reject a csv file whose first rows need source.escape: at least half of them, and at least three."""
    if options.escape is not None:
        return
    flagged = [document.needs_escape for document in documents]
    if sum(flagged) >= max(3, len(flagged) / 2):
        raise ConfigError(
            f"{input.path}: {sum(flagged)} of the first {len(flagged)} rows have quotes after backslashes inside "
            "quoted fields",
            why="so the end of these fields is ambiguous",
            fix=ESCAPE_HINT,
        )


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
            LineInput, read_rows=partial(read_rows, dialect=dialect), read_head=partial(read_head, dialect=dialect)
        ),
        open_writer=partial(DelimitedWriter, dialect=dialect),
        count_rows=partial(count_rows, dialect=dialect),
        fields=DocumentFields(has_names=lambda preamble: bool(preamble.header)),
        source_settings=("encoding", "header", "delimiter", "escape"),
    )


CSV = replace(_delimited(CSV_DIALECT), check_output=_check_csv, check_first_rows=_check_escapes)
TSV = replace(_delimited(TSV_DIALECT), check_output=_check_tsv, column_name=_tsv_name)
