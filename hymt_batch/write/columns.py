"""The columns of an output: which fields of the input stand in it, under which names and of which types.

csv, tsv and tables name their fields before the first row. jsonl does not, and its rows may differ: where they become
columns, all rows are read once for their fields, before anything is translated and again when the file is assembled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.records import Document, Input, Preamble
from hymt_batch.write.row_values import escape_surrogates, to_cell

MAX_COLUMNS = 1000  # of jsonl rows; more are data in the place of names
SOURCE_PREFIX = "source."
_MAX_EXACT_INT = 1 << 53  # integers up to here are doubles too
_INT64 = 1 << 63

ReadDocuments = Callable[[], Iterable[Document]]
"""A fresh pass over an input's rows, with their fields."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the input as a column of the output."""

    field: str
    type: str = "string"  # string, bool, int64 or double; of parquet, the others are text
    prefix: str = ""  # TAKEN, where the output adds a column of the field's own name

    @property
    def name(self) -> str:
        return self.prefix + escape_surrogates(self.field)

    def convert(self, value: Any) -> Any:
        """The value as the type holds it; None too for what cannot be there: the input changes while it is read."""
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
    """Columns that an output takes over from its input, in order; those of a jsonl or text output are not asked for.

    Args:
        documents: Read for the fields of jsonl rows alone.
        added: Names of the added columns; a row of jsonl that has one of them is `bad_row` when it is written, and its
            own value stands in a column of the name behind TAKEN.

    Raises:
        ConfigError: The rows have more than MAX_COLUMNS different fields.
    """
    if input.format == "text":
        return [Column("text")]
    if input.format == "parquet":
        return [Column(name) for name in preamble.schema.names]
    if input.format != "jsonl":
        return [Column(name) for name in preamble.fields]
    return [] if out_format in ("text", "jsonl") else _jsonl_columns(input, documents(), added)


def _jsonl_columns(input: Input, documents: Iterable[Document], added: tuple[str, ...]) -> list[Column]:
    """Every field of the rows, in the order in which they appear, with the narrowest type that holds its values."""
    kinds: dict[str, set[str]] = {}
    for document in documents:
        values = document.long_row.fields()[0] if document.long_row is not None else document.values
        if not isinstance(values, dict):
            continue
        for name, value in values.items():
            found = kinds.get(name)
            if found is None:
                found = kinds[name] = set()
                if len(kinds) > MAX_COLUMNS:
                    raise ConfigError(
                        f"{input.rel}: the rows up to {document.row_index + 1} have more than {MAX_COLUMNS} "
                        "different fields,"
                        " too many to be columns. Set write.format=jsonl, which keeps each row's own."
                    )
            if value is not None:
                found.add(_value_kind(value))
    return [
        Column(name, _narrowest_type(found), SOURCE_PREFIX if name in added else "") for name, found in kinds.items()
    ]


def _value_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _MAX_EXACT_INT else "long" if -_INT64 <= value < _INT64 else "text"
    return "double" if isinstance(value, float) else "text"


def _narrowest_type(kinds: set[str]) -> str:
    return next((name for name, held in _KINDS_BY_TYPE.items() if kinds and kinds <= held), "string")
