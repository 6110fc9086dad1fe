"""Find the columns of a jsonl file, whose rows may all have different fields.

An extra pass over all rows collects the fields: once before translation starts, and again when the file is assembled.
"""

from __future__ import annotations

from hymt_batch.errors import ConfigError
from hymt_batch.formats.fields import Column, ReadDocuments, narrowest_type, value_kind
from hymt_batch.records import Input, Preamble

MAX_COLUMNS = 1000  # with more, the keys are probably data, not field names
SOURCE_PREFIX = "source."


def collect_columns(input: Input, preamble: Preamble, documents: ReadDocuments, added: tuple[str, str]) -> list[Column]:
    """Collect every field of the rows, in order of appearance, with the narrowest type that holds all its values.

    A row that already has one of the `added` fields gets the status `bad_row` when it is written, and its own value
    goes into a column named SOURCE_PREFIX plus the name.

    Raises:
        ConfigError: The rows have more than MAX_COLUMNS different fields.
    """
    kinds: dict[str, set[str]] = {}
    for document in documents():
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
                        "different fields, too many to be columns",
                        fix="Set write.format=jsonl, which keeps the fields of each row.",
                    )
            if value is not None:
                field_kinds.add(value_kind(value))
    return [
        Column(name, narrowest_type(field_kinds), SOURCE_PREFIX if name in added else "")
        for name, field_kinds in kinds.items()
    ]
