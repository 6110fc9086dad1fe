"""The text of a field of a JSON row, and what is said of a row that has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hymt_batch.formats.field_rows import FieldText
from hymt_batch.formats.jsonl.lenient_json import LongInteger
from hymt_batch.formats.row_reader import RowError, not_utf8_message
from hymt_batch.formats.row_values import to_cell
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.records import Status


def check_text(value: Any, field: str) -> str:
    """Return the value of a field, which must be a text.

    Raises:
        RowError: It has another type, or a lone surrogate.
    """
    if not isinstance(value, str):
        kind = "int" if isinstance(value, LongInteger) else type(value).__name__
        raise RowError(f"field {field!r} is a {kind}, not a string. Write it as a string.")
    if not value.isascii():
        try:
            value.encode()  # raises on a lone surrogate
        except UnicodeEncodeError as error:
            raise RowError(not_utf8_message(error, f"field {field!r}"), Status.BAD_ENCODING) from None
    return value


def find_texts(
    fields: TextFields, values: dict[str, Any], repeated: Mapping[int, str] | None = None
) -> list[FieldText]:
    """Return the texts of a row with several text fields; [] if it has such fields, but no text.

    Args:
        fields: The fields.
        values: The parsed row.
        repeated: See `TextFields.find`.

    Raises:
        RowError: The row has none of the fields, or they are ambiguous.
    """
    found = fields.find(values, repeated)
    if found is None:
        raise missing_error(values, fields.names)
    texts = []
    for name, value in found:
        try:
            texts.append(FieldText(name, check_text(value, name)))
        except RowError as error:
            texts.append(FieldText(name, value if isinstance(value, str) else to_cell(value), error))
    return texts


def missing_error(values: dict[str, Any], fields: Sequence[str]) -> RowError:
    """Return the error for a row without any of its text fields."""
    names = " or ".join(map(repr, fields))
    return RowError(
        f"has no field {names}. Its fields are {first_field_paths(values)}. Set source.text_field to one of them."
    )


def reserved_error(name: str) -> RowError:
    """Return the error for a row that has a field which the output adds."""
    return RowError(f"already has a field {name!r}, which the output adds. Rename or remove it.")


def first_field_paths(values: dict[str, Any]) -> list[str]:
    """Return the names of a row's first fields; nested fields as paths, in the form of source.text_field."""
    return list(islice(_field_paths(values), 20))


def _field_paths(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, inner in values.items():
        if isinstance(inner, dict) and inner:
            yield from _field_paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name
