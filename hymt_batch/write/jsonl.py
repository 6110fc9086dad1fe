"""jsonl output: the user's objects, byte for byte, with two fields more.

From jsonl, the new fields are put before the closing brace and nothing else of the line changes. A row that is no
object, or that already has one of the two fields, becomes an object of the two fields alone. Blank lines stay as they
are. From other formats, each row is an object of the input's columns in order, or of the one field `text`; see
`arrow.values` for parquet values that JSON does not know.
"""

from __future__ import annotations

import json
from typing import Any

from hymt_batch.records import Document, Input, Preamble, Row, ending
from hymt_batch.write.cell import BLANK, Fields, dumps, meta, translation
from hymt_batch.write.sink import Sink

_WHITE = b" \t\r\n"  # white space of JSON


class JsonlWriter:
    """One object a row."""

    def __init__(
        self,
        input: Input,
        preamble: Preamble,
        sink: Sink,
        *,
        translation_field: str,
        meta_field: str,
        on_error: str,
    ) -> None:
        self._sink = sink
        self._preamble = preamble
        self._names = (translation_field, meta_field)
        self._keys = (dumps(translation_field), dumps(meta_field))
        self._on_error = on_error
        self._fields = Fields(input.format)
        self._splices = input.format == "jsonl"
        if self._splices:
            sink.write(preamble.bom)

    def write(self, document: Document, row: Row) -> None:
        self._sink.write(self._spliced(document, row) if self._splices else self._converted(document, row))

    def close(self) -> None:
        self._sink.close()

    def _added(self, document: Document, row: Row) -> bytes:
        text = dumps(translation(document, row, self._on_error))
        return f"{self._keys[0]}: {text}, {self._keys[1]}: {dumps(meta(document, row))}".encode()

    def _spliced(self, document: Document, row: Row) -> bytes:
        raw = document.raw
        if BLANK in row.flags and raw.isspace():
            return raw
        if not self._takes_fields(document):
            return b"{" + self._added(document, row) + b"}" + ending(raw)
        inside = raw.rstrip(_WHITE)[:-1]  # up to the closing brace
        body = inside.rstrip(_WHITE)
        comma = b"" if body.lstrip(_WHITE) == b"{" else b", "
        return body + comma + self._added(document, row) + raw[len(body) :]

    def _takes_fields(self, document: Document) -> bool:
        """Whether the row is an object that can be extended and still be read by any JSON reader."""
        values = document.values
        if values is None:
            values = _parse(document.raw)
        return isinstance(values, dict) and not any(name in values for name in self._names)

    def _converted(self, document: Document, row: Row) -> bytes:
        fields = self._fields.of(document)
        body = dumps(fields or {})[:-1]
        comma = ", " if fields else ""
        return f"{body}{comma}".encode() + self._added(document, row) + b"}" + self._preamble.newline


def _parse(raw: bytes) -> Any:
    """The row's value if it is strict JSON in UTF-8, else None: an error row may still be a good object."""
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
