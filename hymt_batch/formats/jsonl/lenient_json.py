"""Recover what can be read from a rejected JSON row: its text, and the fields before the error."""

from __future__ import annotations

import json
import re
from typing import Any

from hymt_batch.formats.jsonl.json_scan import scan_json_object
from hymt_batch.formats.text_encoding import BOM, SURROGATE
from hymt_batch.formats.text_fields import look_up

MAX_DEPTH = 256
"""Deepest nesting of a row. Python's own limit depends on the caller's stack, so a row near it could be accepted in one
pass and rejected in the next."""
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.?)*+"?|[\[{\]}]', re.DOTALL)


class LongInteger:
    """An integer with more digits than Python converts, kept as its text."""

    def __init__(self, digits: str) -> None:
        self.digits = digits

    def __str__(self) -> str:
        return self.digits


def parse_int(digits: str) -> int | LongInteger:
    try:
        return int(digits)
    except ValueError:
        return LongInteger(digits)


_decode_lenient = json.JSONDecoder(parse_int=parse_int).decode


def is_too_deep(text: str) -> bool:
    """Return whether a JSON text, valid or not, is nested deeper than MAX_DEPTH."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match[0] in ("[", "{"):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif match[0] in ("]", "}"):
            depth -= 1
    return False


def parse_value(raw: bytes) -> Any:
    """Parse a JSON value; one that Python cannot hold, such as one nested too deep, is returned as its JSON text."""
    text = raw.decode("utf-8", "replace")
    if is_too_deep(text):
        return text
    try:
        return _decode_lenient(text)
    except ValueError:
        return text


def parse_rejected_row(raw: bytes, field: str) -> tuple[str | None, dict[str, Any] | None]:
    """Return what can be read from a rejected row.

    Args:
        raw: The bytes of the row.
        field: Name of the text field.

    Returns:
        The text with U+FFFD for lone surrogates, or None if it is unknown; and the fields that can be separated, or
        None if there are none.
    """
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
    return SURROGATE.sub("\ufffd", text)
