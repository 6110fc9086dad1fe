"""What of a JSON row that is refused can still be read: its text, and the fields before its fault."""

from __future__ import annotations

import json
import re
from typing import Any

from hymt_batch.scan import json_object

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


def integer(digits: str) -> int | LongInteger:
    try:
        return int(digits)
    except ValueError:
        return LongInteger(digits)


_LENIENT = json.JSONDecoder(parse_int=integer).decode


def too_deep(text: str) -> bool:
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


def value(raw: bytes) -> Any:
    """A JSON value from its bytes; what Python cannot hold, such as one nested too deep, as its JSON text."""
    text = raw.decode("utf-8", "replace")
    if too_deep(text):
        return text
    try:
        return _LENIENT(text)
    except ValueError:
        return text


def remains(raw: bytes, field: str) -> tuple[str | None, dict[str, Any] | None]:
    """The text of a refused row, where it is known, and the fields that can be split; both without odd characters."""
    raw = raw.removeprefix(BOM)
    data = raw.decode("utf-8", "replace")
    if not too_deep(data):
        try:
            values = _LENIENT(data)
        except ValueError:
            pass
        else:
            text = look_up(values, field, None) if isinstance(values, dict) else None
            return _sound(text) if isinstance(text, str) else None, values if isinstance(values, dict) else None
    scan = json_object(raw, field)
    text = None
    if scan.whole and scan.text:
        first, end = scan.text
        text = _sound(json.loads(raw[first:end].decode("utf-8", "replace")))
    fields = {name: value(raw[first:end]) for name, (first, end) in scan.places.items()}
    return text, fields if scan.num_pairs else None


def _sound(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
