"""The columns that an output takes over from its input: their names and types.

csv, tsv and parquet name their fields before the first row. jsonl does not, and its rows may have different fields.
When jsonl becomes columns, an extra pass over all rows collects the fields: once before translation starts, and again
when the file is assembled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.row_values import escape_surrogates, to_cell
from hymt_batch.records import Document, Input, Preamble

MAX_COLUMNS = 1000  # limit for jsonl input; with more, the keys are probably data, not field names
SOURCE_PREFIX = "source."
_MAX_EXACT_INT = 1 << 53  # a double holds every integer up to this one exactly
_INT64 = 1 << 63

ReadDocuments = Callable[[], Iterable[Document]]
"""Starts a new pass over the rows of an input; the rows have their parsed fields."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the input that becomes a column of the output."""

    field: str
    type: str = "string"  # string, bool, int64 or double; used only by parquet output
    prefix: str = ""  # SOURCE_PREFIX where the output adds a column of the same name

    @property
    def name(self) -> str:
        return self.prefix + escape_surrogates(self.field)

    def convert(self, value: Any) -> Any:
        """Convert a value to the column's type; None if it does not fit (the input changed while it was read)."""
        if self.type == "string":
            return to_cell(value)
        return value if value is not None and _KINDS_BY_TYPE[self.type] >= {_value_kind(value)} else None


_KINDS_BY_TYPE = {
    "bool": frozenset({"bool"}),
    "int64": frozenset({"int", "long"}),
    "double": frozenset({"int", "double"}),
}


def output_columns(
    input: Input, out_format: str, preamble: Preamble, documents: ReadDocuments, added: tuple[str, ...]
) -> list[Column]:
    """Return the columns that an output takes over from its input, in order; none from jsonl to jsonl or text.

    Args:
        documents: Starts a pass over the rows; called only for jsonl input, to collect its fields.
        added: Names of the added columns. A jsonl row that already has one of them gets the status `bad_row` when it is
            written, and its own value goes into a column named SOURCE_PREFIX plus the name.

    Raises:
        ConfigError: The jsonl rows have more than MAX_COLUMNS different fields.
    """
    if input.format == "text":
        return [Column("text")]
    if input.format == "parquet":
        return [Column(name) for name in preamble.schema.names]
    if input.format != "jsonl":
        return [Column(name) for name in preamble.fields]
    return [] if out_format in ("text", "jsonl") else _jsonl_columns(input, documents(), added)


def _jsonl_columns(input: Input, documents: Iterable[Document], added: tuple[str, ...]) -> list[Column]:
    """Collect every field of the rows, in order of appearance, with the narrowest type that holds all its values."""
    kinds: dict[str, set[str]] = {}
    for document in documents:
        values = document.long_row.fields()[0] if document.long_row is not None else document.values
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            field_kinds = kinds.get(name)
            if field_kinds is None:
                field_kinds = kinds[name] = set()
                if len(kinds) > MAX_COLUMNS:
                    raise ConfigError(
                        f"{input.rel}: the rows up to {document.row_index + 1} have more than {MAX_COLUMNS} "
                        "different fields,"
                        " too many to be columns. Set write.format=jsonl, which keeps the fields of each row."
                    )
            if value is not None:
                field_kinds.add(_value_kind(value))
    return [
        Column(name, _narrowest_type(field_kinds), SOURCE_PREFIX if name in added else "")
        for name, field_kinds in kinds.items()
    ]


def _value_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _MAX_EXACT_INT else "long" if -_INT64 <= value < _INT64 else "text"
    return "double" if isinstance(value, float) else "text"


def _narrowest_type(kinds: set[str]) -> str:
    return next((name for name, type_kinds in _KINDS_BY_TYPE.items() if kinds and kinds <= type_kinds), "string")
