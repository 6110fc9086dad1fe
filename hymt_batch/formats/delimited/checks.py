"""What csv and tsv reject before a job starts."""

from __future__ import annotations

from collections.abc import Iterable

from hymt_batch.errors import ConfigError
from hymt_batch.formats.delimited.csv_escape import ESCAPE_HINT
from hymt_batch.formats.delimited.dialect import CSV as CSV_DIALECT
from hymt_batch.formats.delimited.dialect import TSV as TSV_DIALECT
from hymt_batch.formats.delimited.writer import delimiter_of
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_values import to_one_line
from hymt_batch.records import Document, Input

# the JSON of the meta column has these characters outside strings or in escapes
_AMBIGUOUS_TSV_DELIMITERS = frozenset('{}[]:,"\\ 0123456789abcdefABCDEFu')


def check_csv(spec: OutputSpec) -> None:
    """Reject a delimiter that csv cannot have (ConfigError)."""
    delimiter = delimiter_of(spec, CSV_DIALECT.delimiter)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(
            f"{spec.input.rel} is read with source.delimiter={delimiter!r}, which csv cannot use: it must be one "
            "character, but not a quote or a line break",
            fix="Set source.delimiter=',' or the character between two fields.",
        )


def check_tsv(spec: OutputSpec) -> None:
    """Reject a delimiter or names of added fields that a tsv file cannot hold (ConfigError)."""
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


def check_escapes(input: Input, options: ReadOptions, documents: Iterable[Document]) -> None:
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
