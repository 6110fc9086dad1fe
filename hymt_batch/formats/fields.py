"""The fields of a document, by which one format is converted to another.

The format of an input gives the fields of its documents, their types and their values; the format of an output writes
any fields. So no format knows another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from hymt_batch.formats.row_values import escape_surrogates, to_cell
from hymt_batch.records import Document, Input, Preamble

_MAX_EXACT_INT = 1 << 53  # a double holds every integer up to this one exactly
_INT64 = 1 << 63

ReadDocuments = Callable[[], Iterable[Document]]
"""Starts a new pass over the rows of an input; the rows have their parsed fields."""


@dataclass(frozen=True, slots=True)
class Column:
    """A field of the input that becomes a column of the output."""

    field: str
    type: str = "string"  # string, bool, int64 or double, for outputs with types
    prefix: str = ""  # set where the output adds a column of the same name

    @property
    def name(self) -> str:
        return self.prefix + escape_surrogates(self.field)

    def convert(self, value: Any) -> Any:
        """Convert a value to the column's type; None if it does not fit (the input changed while it was read)."""
        if self.type == "string":
            return to_cell(value)
        return value if value is not None and _KINDS_BY_TYPE[self.type] >= {value_kind(value)} else None


_KINDS_BY_TYPE = {
    "bool": frozenset({"bool"}),
    "int64": frozenset({"int", "long"}),
    "double": frozenset({"int", "double"}),
}


def value_kind(value: Any) -> str:
    """Return the kind of a value that is not None: "bool", "int", "long", "double" or, for all others, "text"."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if abs(value) <= _MAX_EXACT_INT else "long" if -_INT64 <= value < _INT64 else "text"
    return "double" if isinstance(value, float) else "text"


def narrowest_type(kinds: set[str]) -> str:
    """Return the narrowest column type that holds values of all these kinds."""
    return next((name for name, type_kinds in _KINDS_BY_TYPE.items() if kinds and kinds <= type_kinds), "string")


class FieldReader:
    """Reads the fields of documents whose values are a dict, in row order.

    A format with other values overrides `read_values`.
    """

    def read(self, document: Document) -> dict[str, Any] | None:
        """Return the JSON values by field; None if the row has no fields, because it is blank or cannot be parsed."""
        if document.values is None and document.long_row is not None:
            fields: dict[str, Any] = document.long_row.fields()[0]
            return fields
        return self.read_values(document)

    def read_values(self, document: Document) -> dict[str, Any] | None:
        """Return the fields of a row within the byte limit."""
        values: dict[str, Any] | None = document.values
        return values


class TextFieldReader(FieldReader):
    """Gives a document's text as its only field."""

    def read_values(self, document: Document) -> dict[str, Any] | None:
        return {"text": document.text}


def _text_column(input: Input, preamble: Preamble, documents: ReadDocuments, added: tuple[str, str]) -> list[Column]:
    return [Column("text")]


def _preamble_columns(
    input: Input, preamble: Preamble, documents: ReadDocuments, added: tuple[str, str]
) -> list[Column]:
    return [Column(name) for name in preamble.fields]


def _has_names(preamble: Preamble) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """The fields of the documents of one format."""

    columns: Callable[[Input, Preamble, ReadDocuments, tuple[str, str]], list[Column]] = _preamble_columns
    """Returns the fields of an input, in order, with their types. Its arguments: the input, its preamble, a function
    that starts a pass over its rows (called only where `precede_rows` is False), and the names of the added fields."""
    new_reader: Callable[[], FieldReader] = FieldReader
    precede_rows: bool = True  # a file names its fields before its first row; as an output too
    has_names: Callable[[Preamble], bool] = _has_names  # whether an input has names for its fields


TEXT_ONLY = DocumentFields(_text_column, TextFieldReader)
"""Documents that are a text without fields."""
