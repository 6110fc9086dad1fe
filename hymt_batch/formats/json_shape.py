"""What a JSON text is: rows of one object per line, one array, objects over several lines, or a tree of keys.

Looks at the first bytes of a file only. Knows no setting.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.formats.extraction import Extraction

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class Shape(Enum):
    """The shape of a JSON text."""

    ROWS = "one object per line, or the start of it"
    ARRAY = "one array of objects"
    TEXTS = "one array of strings"
    OBJECTS = "objects over several lines"
    WRAPPED = "an array of objects inside an object"
    TREE = "one object"
    OTHER = "not objects"


NAMES_TEXT = frozenset({Shape.TEXTS, Shape.TREE})
"""Shapes whose rows get their fields from the command: the text is in "text"."""


@dataclass(frozen=True, slots=True)
class JsonShape:
    """The shape of a JSON text, and what is known of its rows."""

    shape: Shape
    key: str = ""  # WRAPPED: the key of the array
    fields: tuple[str, ...] = ()  # of the first object, if it is complete

    def advice(self, path: str, text_field: str) -> str:
        """Return how to make rows of such a file; see `Extraction.advice`."""
        return self.extraction.advice(path, text_field if self.shape in NAMES_TEXT else "text")

    @property
    def extraction(self) -> Extraction:
        """The command that makes rows of such a text: by jq if this machine has it, else by Python."""
        key = json.dumps(self.key)
        by_jq, by_python = {
            Shape.TEXTS: (".[]|{text:.}", '[print(json.dumps({"text":r})) for r in json.load(sys.stdin.buffer)]'),
            Shape.OBJECTS: ('if type=="array" then .[] else . end', _SEQUENCE),
            Shape.WRAPPED: (f".[{key}][]", f"[print(json.dumps(r)) for r in json.load(sys.stdin.buffer)[{key}]]"),
            Shape.TREE: ("paths(strings) as $p|{key:($p|map(tostring)),text:getpath($p)}", _LEAVES),
        }.get(self.shape, (".[]", "[print(json.dumps(r)) for r in json.load(sys.stdin.buffer)]"))
        if shutil.which("jq") and "'" not in key:
            return Extraction(f"jq -c '{by_jq}'")
        return Extraction(f"python3 -c 'import json,re,sys; {by_python}'")


_SEQUENCE = (
    's=sys.stdin.buffer.read().decode("utf-8-sig"); d=json.JSONDecoder(); w=re.compile(r"\\s*"); i=w.match(s).end(); '
    'exec("while i<len(s): v,i=d.raw_decode(s,i); [print(json.dumps(r)) for r in (v if isinstance(v,list) else [v])]; '
    'i=w.match(s,i).end()")'
)
_LEAVES = (
    'f=lambda v,k: [print(json.dumps({"key":k,"text":v}))] if isinstance(v,str) else [f(w,k+[str(i)]) for i,w in '
    "(v.items() if isinstance(v,dict) else enumerate(v) if isinstance(v,list) else ())]; "
    "f(json.load(sys.stdin.buffer),[])"
)


def find_shape(head: bytes, is_whole: bool) -> JsonShape:
    """Return the shape of a JSON text.

    Args:
        head: The first bytes of the file, decompressed.
        is_whole: The head is the whole file.
    """
    text = head.decode("utf-8-sig", "ignore")
    start = _skip(text, 0)
    try:
        value, end = _decode(text, start)
    except (ValueError, RecursionError):
        return JsonShape(Shape.OTHER) if is_whole else _shape_of_start(text, start)
    following = _skip(text, end)
    is_alone = is_whole and following == len(text)
    if isinstance(value, list):
        return _shape_of_array(value, text[following:], is_alone)
    if not isinstance(value, dict):
        return JsonShape(Shape.OTHER)
    fields = tuple(value)
    if "\n" not in text[start:end]:
        is_row = following == len(text) or "\n" in text[end:following] or text[following] != "{"
        return JsonShape(Shape.ROWS if is_row else Shape.OBJECTS, fields=fields)
    if not is_alone:
        return JsonShape(Shape.OBJECTS, fields=fields)
    arrays = [key for key, inner in value.items() if isinstance(inner, list) and inner and _are_objects(inner)]
    if len(arrays) == 1:
        return JsonShape(Shape.WRAPPED, arrays[0], tuple(value[arrays[0]][0]))
    return JsonShape(Shape.TREE, fields=fields)


def _shape_of_array(value: list[Any], following: str, is_alone: bool) -> JsonShape:
    """Return the shape of a text that begins with a complete array."""
    if value and _are_objects(value):
        if is_alone:
            return JsonShape(Shape.ARRAY, fields=tuple(value[0]))
        return JsonShape(Shape.OBJECTS if following.startswith("[") else Shape.OTHER, fields=tuple(value[0]))
    if value and is_alone and all(isinstance(element, str) for element in value):
        return JsonShape(Shape.TEXTS)
    return JsonShape(Shape.OTHER)


def _shape_of_start(text: str, start: int) -> JsonShape:
    """Return the shape of a text of which only the start is known, and whose first value is not complete in it."""
    opening = text[start : start + 1]
    position, is_wrapped = _skip(text, start + 1), False
    try:
        if opening == "{":
            key, position = _decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # after the colon
            if text[position : position + 1] == "[":
                value, position = _decode(text, _skip(text, position + 1))
                is_wrapped = isinstance(value, dict)
            else:
                _, position = _decode(text, position)
            if "\n" not in text[start:position]:
                return JsonShape(Shape.ROWS)
            return JsonShape(Shape.WRAPPED, str(key)) if is_wrapped else JsonShape(Shape.TREE)
        if opening == "[":
            value, position = _decode(text, position)
            is_array = text[_skip(text, position) : _skip(text, position) + 1] in (",", "]")
            if is_array and isinstance(value, dict):
                return JsonShape(Shape.ARRAY, fields=tuple(value))
            return JsonShape(Shape.TEXTS if is_array and isinstance(value, str) else Shape.OTHER)
    except (ValueError, RecursionError):
        pass
    return JsonShape(Shape.OTHER)


def _are_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None  # it also matches the empty string
    return match.end()
