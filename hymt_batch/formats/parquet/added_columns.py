"""The two columns that a parquet output adds: their Arrow types, their types in `datasets`, and their values.

Where rows have several text fields, the translation is a struct with one field for each, null where a row has no such
text, and the metadata have a struct of the same fields. Where a path has `*`, the rows differ in the names of their
texts: both are then lists of structs with the name in `field`. Arrow has maps for that, which `datasets` cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hymt_batch.formats.joined_row import metadata, translation_value
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.records import Document, Row

_STRING = {"dtype": "string", "_type": "Value"}


class AddedColumns:
    """The added columns of an output.

    Args:
        text_fields: Names of the text fields, where rows have several; () where they have one.
    """

    def __init__(self, text_fields: Sequence[str]) -> None:
        self._fields = tuple(text_fields)
        self._is_list = TextFields(text_fields).has_wildcards

    def types(self) -> tuple[Any, Any]:
        """Return the Arrow types of translation and metadata."""
        import pyarrow as pa

        string, flags = pa.string(), pa.list_(pa.string())
        state = [("status", string), ("flags", flags)]
        base = [("id", string), *state]
        if not self._fields:
            return string, pa.struct(base)
        if self._is_list:
            texts = pa.list_(pa.struct([("field", string), ("text", string)]))
            return texts, pa.struct([*base, ("fields", pa.list_(pa.struct([("field", string), *state])))])
        texts = pa.struct([(name, string) for name in self._fields])
        return texts, pa.struct([*base, ("fields", pa.struct([(name, pa.struct(state)) for name in self._fields]))])

    def features(self) -> tuple[Any, Any]:
        """Return the types of both as `datasets` stores them in a schema."""
        # every version of datasets reads a list in brackets; the class name for lists changed in datasets 4.0
        state = {"status": _STRING, "flags": [_STRING]}
        base = {"id": _STRING, **state}
        if not self._fields:
            return _STRING, base
        if self._is_list:
            return [{"field": _STRING, "text": _STRING}], {**base, "fields": [{"field": _STRING, **state}]}
        return dict.fromkeys(self._fields, _STRING), {**base, "fields": dict.fromkeys(self._fields, state)}

    def values(self, document: Document, row: Row, on_error: str) -> tuple[Any, dict[str, Any]]:
        """Return translation and metadata of a row."""
        translation, meta = translation_value(document, row, on_error), metadata(document, row)
        if self._is_list and isinstance(translation, dict):
            meta["fields"] = [{"field": name, **state} for name, state in meta["fields"].items()]
            return [{"field": name, "text": text} for name, text in translation.items()], meta
        return translation, meta
