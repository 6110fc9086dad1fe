"""What of a JSON row that is refused can still be read: its text, and the fields before its fault."""

from __future__ import annotations

import json
import re
from typing import Any

from hymt_batch.scan import scan_json_object

MAX_DEPTH = 256
"""Deepest nesting of a row. Python's own bound depends on the caller's stack: a row at it would be read in one pass
and refused in the next."""
BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile("[\ud800-\udfff]")
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[{\]}]', re.DOTALL)


class LongInteger:
    """An integer of more digits than Python converts, as it stands in the row."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __str__(self) -> str:
        return self.digits


def look_up(values: dict[str, Any], field: str | None, default: Any) -> Any:
    """A field by its name, or by its dotted path where no field has that very name."""
    if field is None:
        return default
    if field in values:
        return values[field]
    found: Any = values
    for name in field.split("."):
        if not isinstance(found, dict) or name not in found:
            return default
        found = found[name]
    return found


def parse_int(digits: str) -> int | LongInteger:
    try:
        return int(digits)
    except ValueError:
        return LongInteger(digits)


_decode_lenient = json.JSONDecoder(parse_int=parse_int).decode


def is_too_deep(text: str) -> bool:
    """Whether a JSON text, valid or not, is nested deeper than MAX_DEPTH."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text):
        if found[0] in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found[0] in ("]", "}"):
            depth -= 1
    return False


def parse_value(raw: bytes) -> Any:
    """A JSON value from its bytes; what Python cannot hold, such as one nested too deep, as its JSON text."""
    text = raw.decode("utf-8", "replace")
    if is_too_deep(text):
        return text
    try:
        return _decode_lenient(text)
    except ValueError:
        return text


def parse_rejected_row(raw: bytes, field: str) -> tuple[str | None, dict[str, Any] | None]:
    """The text of a refused row, where it is known, and the fields that can be split; both without odd characters."""
    raw = raw.removeprefix(BOM)
    data = raw.decode("utf-8", "replace")
    if not is_too_deep(data):
        try:
            values = _decode_lenient(data)
        except ValueError:
            pass
        else:
            text = look_up(values, field, None) if isinstance(values, dict) else None
            return _replace_surrogates(text) if isinstance(text, str) else None, values if isinstance(
                values, dict
            ) else None
    scan = scan_json_object(raw, field)
    text = None
    if scan.is_complete and scan.text_span:
        first, end = scan.text_span
        text = _replace_surrogates(json.loads(raw[first:end].decode("utf-8", "replace")))
    fields = {name: parse_value(raw[first:end]) for name, (first, end) in scan.spans.items()}
    return text, fields if scan.num_pairs else None


def _replace_surrogates(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
