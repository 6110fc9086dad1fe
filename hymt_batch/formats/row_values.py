"""The values of one output row, in any format: its translation, its metadata and the user's fields.

Independent of files and of how a format encodes the values.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hymt_batch.formats.text_encoding import SURROGATE
from hymt_batch.records import ERROR_STATUSES, LINE_BREAKS, Document, Row, has_line_break, line_ending

BLANK_FLAG = "blank"
"""Flag of a row without visible characters: the row is copied, not sent to the model."""

_LINE_BREAK = re.compile(f"\r\n|[{LINE_BREAKS}]")
# legal in JSON, but the first three end a line for some readers, and a lone surrogate has no UTF-8 bytes
_MUST_ESCAPE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")
# json.dumps builds a new encoder for each call with options, which took half the time of a row
_encode_readable = json.JSONEncoder(ensure_ascii=False).encode
_encode_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_one_line(text: str) -> str:
    """Replace every line break, Unicode ones included, by one space."""
    return _LINE_BREAK.sub(" ", text) if has_line_break(text) else text


def dump_json(value: Any, *, compact: bool = False) -> str:
    """Dump a value as JSON that is one line for every reader, keeps non-ASCII text readable, and encodes as UTF-8."""
    text = _encode_compact(value) if compact else _encode_readable(value)
    if text.isascii():
        return text
    return _MUST_ESCAPE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def output_text(document: Document, row: Row, on_error: str) -> str:
    """Return the text that the output holds for a row.

    A blank row keeps its white space. An error row becomes "" (`on_error` "empty") or its source text ("source"), or
    the whole original row where the source text is unknown. Invalid UTF-8 becomes U+FFFD.
    """
    text = row.text
    failed = row.status in ERROR_STATUSES
    if failed or BLANK_FLAG in row.flags:
        text = "" if failed and on_error != "source" and BLANK_FLAG not in row.flags else source_text(document)
    return encodable(text)


def encodable(text: str) -> str:
    """Return a text that UTF-8 can encode: a lone surrogate becomes U+FFFD."""
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


def source_text(document: Document) -> str:
    """Return the text of a row; if it is unknown, the whole original row."""
    if document.text is not None:
        return document.text
    if document.long_row is not None:
        text: str = document.long_row.fields()[1] or document.long_row.read_text()
        return text
    return document.raw[: len(document.raw) - len(line_ending(document.raw))].decode("utf-8", "replace")


def decode_utf8(pieces: Iterable[bytes]) -> Iterator[str]:
    """Decode UTF-8 piece by piece; invalid bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def repair_utf8(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Make UTF-8 valid piece by piece: invalid bytes become those of U+FFFD."""
    return (text.encode() for text in decode_utf8(pieces))


def meta_value(document: Document, row: Row) -> dict[str, Any]:
    """Return the value of the column `write.meta_field`."""
    return {"id": document.id, "status": row.status.value, "flags": list(row.flags)}


def json_number(value: float) -> float | str:
    """Replace a number that JSON lacks by "NaN", "Infinity" or "-Infinity", which float() and pandas can parse."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def to_portable_json(value: Any) -> Any:
    """Convert a jsonl value so that any JSON reader accepts it: NaN, infinity and over-long integers become text."""
    match value:
        case float():
            return json_number(value)
        case dict():
            return {key: to_portable_json(item) for key, item in value.items()}
        case list():
            return [to_portable_json(item) for item in value]
        case None | bool() | int() | str():
            return value
    return str(value)  # an integer of more digits than Python converts


def to_cell(value: Any) -> str | None:
    """Convert a value to text for a csv or tsv field or a string column; null stays None.

    A string is unchanged; any other value becomes JSON. A lone surrogate, which JSON can write and UTF-8 cannot
    encode, becomes its escape.
    """
    if value is None:
        return None
    value = to_portable_json(value)
    return escape_surrogates(value if isinstance(value, str) else dump_json(value, compact=True))


def escape_surrogates(text: str) -> str:
    """Make text encodable as UTF-8: a lone surrogate becomes its escape, such as `\\ud83d`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
