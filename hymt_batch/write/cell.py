"""What one row says in the output, whatever the format: its translation, its metadata, its fields.

Knows neither files nor bytes of a format.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

from hymt_batch.records import ERROR_STATUSES, LINE_BREAKS, Document, Row, ending, has_line_break

BLANK = "blank"
"""Flag of a row that holds white space only: it is copied and never sent to the model."""

_BREAK = re.compile(f"\r\n|[{LINE_BREAKS}]")
# legal in JSON, but the first three end a line for some readers, and a lone surrogate has no UTF-8 bytes
_ESCAPED = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# json.dumps makes a new encoder for every call that sets anything: half of the time of a row
_READABLE = json.JSONEncoder(ensure_ascii=False).encode
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def one_line(text: str) -> str:
    """Replace every line break, of any script, by one space."""
    return _BREAK.sub(" ", text) if has_line_break(text) else text


def dumps(value: Any, *, compact: bool = False) -> str:
    """JSON on one line for every reader, readable (not ASCII only), and always encodable."""
    text = _COMPACT(value) if compact else _READABLE(value)
    if text.isascii():
        return text
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def translation(document: Document, row: Row, on_error: str) -> str:
    """Text that the output holds for a row.

    Blank rows keep their white space. An error row holds "" (`on_error` "empty") or its source ("source"; where that is
    not known, the row as it came). Bytes that are no UTF-8 are U+FFFD.
    """
    text = row.text
    failed = row.status in ERROR_STATUSES
    if failed or BLANK in row.flags:
        text = "" if failed and on_error != "source" and BLANK not in row.flags else source(document)
    if not text.isascii() and _SURROGATE.search(text):
        return _SURROGATE.sub("\ufffd", text)
    return text


def source(document: Document) -> str:
    """The text of a row; where it is not known, the row as it came."""
    if document.text is not None:
        return document.text
    return document.raw[: len(document.raw) - len(ending(document.raw))].decode("utf-8", "replace")


def decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    """UTF-8 in pieces as text; bytes that are none are U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def mended(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-8 in pieces, made sound: bytes that are none become those of U+FFFD."""
    return (text.encode() for text in decoded(pieces))


def meta(document: Document, row: Row) -> dict[str, Any]:
    """Value of `write.meta_field`."""
    return {"id": document.id, "status": row.status.value, "flags": list(row.flags)}


def plain(value: Any) -> Any:
    """A parquet value as JSON can hold it.

    Dates and times become ISO 8601 strings, durations seconds, decimals strings, bytes base64, maps lists of pairs, and
    numbers that JSON lacks (NaN, infinity) null. Everything else that JSON does not know becomes its `str`.
    """
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return str(value)


def cell(value: Any) -> str:
    """A value as the text of a csv or tsv field: null is empty, true and false as in JSON."""
    value = plain(value)
    if value is None:
        return ""
    return value if isinstance(value, str) else dumps(value, compact=True)


class Fields:
    """The user's fields of a document, in order, for a writer of another format."""

    WINDOW = 64  # rows turned into Python objects at a time

    def __init__(self) -> None:
        self._batch: Any = None
        self._first = 0
        self._rows: list[dict[str, Any]] = []

    def of(self, document: Document) -> dict[str, Any] | None:
        """Field -> value; None for text and for rows that could not be read."""
        values = document.values
        if values is None or isinstance(values, dict):
            return values
        batch, index = values
        if batch is not self._batch or not 0 <= index - self._first < len(self._rows):
            self._batch, self._first = batch, index
            window = batch.slice(index, self.WINDOW)
            columns = [_python(column) for column in window.columns]
            self._rows = [dict(zip(window.schema.names, cells, strict=True)) for cells in zip(*columns, strict=True)]
        return {name: plain(value) for name, value in self._rows[index - self._first].items()}


def _python(column: Any) -> list[Any]:
    """Values of an arrow column; a string that is no UTF-8, which parquet lets pass, is mended with U+FFFD."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_mended(scalar) for scalar in column]


def _mended(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        # inside a nested value it cannot be reached
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace") if hasattr(scalar, "as_buffer") else None
