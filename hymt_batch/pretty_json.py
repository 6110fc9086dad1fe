"""Write JSON that people read, with the same bytes as json.dumps(value, sort_keys=True, indent=1), but fast.

The standard library indents in Python, one call for each value, which costs more than anything else of a job's list of
100,000 files. Here a flat object takes one call of its C encoder. Long lists are made while they are written.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_SCALARS = frozenset({str, int, float, bool, type(None)})


class Items:
    """A list whose items are made anew for each pass over it, so that they are never all in memory."""

    def __init__(self, make: Callable[[], Iterable[Any]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Any]:
        return iter(self._make())


def encode(value: Mapping[str, Any], *, ascii_only: bool) -> Iterator[str]:
    """Yield an object in pieces; its values may be `Items`, and the keys of all objects are strings."""
    yield "{"
    separator = "\n "
    for name in sorted(value):
        item = value[name]
        yield f"{separator}{_encoder(0, ascii_only)(name)}: "
        separator = ",\n "
        if not isinstance(item, Items):
            yield _encode(item, 1, ascii_only)
            continue
        start, end = "[\n  ", "[]"
        for element in item:
            yield f"{start}{_encode(element, 2, ascii_only)}"
            start, end = ",\n  ", "\n ]"
        yield end
    yield "\n}" if value else "}"


def _encode(value: Any, depth: int, ascii_only: bool) -> str:
    """Return a value whose first line is indented already; `depth` is the indentation of its last one."""
    if not value or type(value) in _SCALARS:
        return _encoder(depth, ascii_only)(value)
    inner, outer = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(value, dict):
        if _SCALARS.issuperset(map(type, value.values())):
            return f"{{{inner}{_encoder(depth + 1, ascii_only)(value)[1:-1]}{outer}}}"
        names = _encoder(0, ascii_only)
        pieces = [f"{names(name)}: {_encode(value[name], depth + 1, ascii_only)}" for name in sorted(value)]
        return f"{{{inner}{f',{inner}'.join(pieces)}{outer}}}"
    if not isinstance(value, (list, tuple)):
        return _encoder(depth, ascii_only)(value)
    pieces = [_encode(item, depth + 1, ascii_only) for item in value]
    return f"[{inner}{f',{inner}'.join(pieces)}{outer}]"


@functools.cache
def _encoder(depth: int, ascii_only: bool) -> Callable[[Any], str]:
    """Return a function that encodes a value, with the fields of a flat object on lines indented by `depth`."""
    separators = (",\n" + " " * depth, ": ")
    return json.JSONEncoder(sort_keys=True, separators=separators, ensure_ascii=ascii_only, allow_nan=False).encode
