"""What a JSON text is: one object a line, one array, objects over several lines, or one value.

Looks at the first bytes of a file only. Knows no setting.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.formats.jsonl.json_scan import JsonScan

MAX_OBJECTS = 100
"""First objects of a text that are looked at."""

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class Shape(Enum):
    """The shape of a JSON text."""

    LINES = "one object per line, or the start of it"
    ARRAY = "one array of objects"
    OBJECTS = "objects over several lines"
    SINGLE = "one object"
    TEXTS = "one array of strings"
    OTHER = "not objects"


@dataclass(frozen=True, slots=True)
class JsonShape:
    """The shape of a JSON text, and its first objects as far as they are in the bytes that were looked at."""

    shape: Shape
    objects: tuple[dict[str, Any], ...] = ()  # of a first object that is not complete: its names alone
    is_complete: bool = True  # False: the first object is longer than the bytes that were looked at


def find_shape(head: bytes, is_whole: bool) -> JsonShape:
    """Return the shape of a JSON text.

    Args:
        head: The first bytes of the file, decompressed and in UTF-8.
        is_whole: The head is the whole file.
    """
    text = head.decode("utf-8-sig", "ignore")
    start = _skip(text, 0)
    if text.startswith("[", start):
        return _shape_of_array(text, _skip(text, start + 1), is_whole)
    if not text.startswith("{", start):
        return JsonShape(Shape.OTHER)
    objects, ends = _read_objects(text, start, separator="")
    if not objects:
        return JsonShape(Shape.OTHER) if is_whole else _shape_of_open_object(text, start)
    end, following = ends[0], _skip(text, ends[0])
    is_last = following == len(text)
    if is_last and is_whole:
        shape = Shape.SINGLE
    elif "\n" in text[start:end]:
        shape = Shape.OBJECTS if text.startswith("{", following) or is_last else Shape.OTHER
    elif is_last or "\n" in text[end:following] or not text.startswith("{", following):
        shape = Shape.LINES
    else:  # two objects on the first line: a bad row, if objects on lines of their own follow
        shape = Shape.LINES if has_object_line(text[following:].partition("\n")[2]) else Shape.OBJECTS
    if shape is Shape.LINES:
        objects = _objects_of_lines(text[start:], is_whole)
    return JsonShape(shape, tuple(objects))


def has_object_line(text: str) -> bool:
    """Return whether one of the first lines of a text is a JSON object."""
    return any(_is_object(line) for line in text.split("\n", MAX_OBJECTS)[:MAX_OBJECTS])


def _shape_of_array(text: str, position: int, is_whole: bool) -> JsonShape:
    """Return the shape of a text that begins with an array, whose first element is at the position."""
    opening = text[position : position + 1]
    if opening == "]" and _skip(text, position + 1) == len(text):
        return JsonShape(Shape.ARRAY)
    if opening == '"':
        return JsonShape(Shape.TEXTS)
    if opening != "{":
        return JsonShape(Shape.OTHER)
    objects, ends = _read_objects(text, position, separator=",")
    if not objects:
        first = None if is_whole else _open_object(text, position)
        return JsonShape(Shape.OTHER) if first is None else JsonShape(Shape.ARRAY, (first,), is_complete=False)
    end = _skip(text, ends[-1])
    if text.startswith("]", end) and _skip(text, end + 1) < len(text):
        return JsonShape(Shape.OTHER)  # more than one value
    return JsonShape(Shape.ARRAY, tuple(objects))


def _shape_of_open_object(text: str, start: int) -> JsonShape:
    """Return the shape of a text whose first object is longer than what is known of it."""
    first = _open_object(text, start)
    if first is None:
        return JsonShape(Shape.OTHER)
    shape = Shape.SINGLE if "\n" in text[start:].rstrip() else Shape.LINES
    return JsonShape(shape, (first,), is_complete=False)


def _open_object(text: str, start: int) -> dict[str, Any] | None:
    """Return the names of an object whose end is not known; None if there is an error before."""
    scan = JsonScan()
    scan.feed(text[start:].encode())
    return None if scan.has_failed else dict.fromkeys(scan.spans)


def _read_objects(text: str, position: int, separator: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the first objects from a position on, and where each ends."""
    objects: list[dict[str, Any]] = []
    ends: list[int] = []
    while len(objects) < MAX_OBJECTS and text.startswith("{", position):
        try:
            value, end = _decode(text, position)
        except (ValueError, RecursionError):
            break
        objects.append(value)
        ends.append(end)
        position = _skip(text, end)
        if separator:
            if not text.startswith(separator, position):
                break
            position = _skip(text, position + 1)
    return objects, ends


def _objects_of_lines(text: str, is_whole: bool) -> list[dict[str, Any]]:
    """Return the objects of the first lines; a bad row has none."""
    lines = text.split("\n", MAX_OBJECTS)
    values = (_object_of(line) for line in (lines if is_whole else lines[:-1] or lines)[:MAX_OBJECTS])
    return [value for value in values if value is not None]


def _is_object(line: str) -> bool:
    return _object_of(line) is not None


def _object_of(line: str) -> dict[str, Any] | None:
    if not line.lstrip(" \t\r").startswith("{"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # it also matches the empty string
    return match.end()
