r"""Which values of a row are its texts: the names and paths of source.text_field, applied to a parsed JSON object.

A path has a name for each level, with a dot between two names: `doc.body`. In an array a name is an index from 0
(`messages.0.content`). The name `*` matches every element of an array, or every value of an object
(`messages.*.content`). A backslash before a dot, an asterisk or a backslash means the character itself: `v1\.2.body`.
A field that has the whole text as its name is taken before it is read as a path.

Knows no file and no format. The readers of csv and parquet find columns by themselves: neither a backslash nor `*` has
a meaning there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from hymt_batch.formats.row_reader import RowError

ANY = None
"""The part of a path that matches every element or value."""

_MISSING = object()
_PART = re.compile(r"(?:[^\\.]|\\.?)*", re.DOTALL)
_ESCAPE = re.compile(r"\\([.*\\])")

Path = tuple[str | None, ...]


@lru_cache(maxsize=256)
def parse_path(name: str) -> Path:
    """Return the names of a path, without escapes; ANY for each `*`."""
    parts, at = [], 0
    while True:
        match = _PART.match(name, at)
        assert match is not None  # it also matches the empty string
        parts.append(ANY if match[0] == "*" else _ESCAPE.sub(r"\1", match[0]))
        at = match.end() + 1
        if at > len(name):
            return tuple(parts)


def escape_name(name: str) -> str:
    """Return a name as a path has it."""
    return "\\*" if name == "*" else name.replace("\\", "\\\\").replace(".", "\\.")


def look_up(values: dict[str, Any], field: str | None, default: Any) -> Any:
    """Return a field by its name, or by its path if no field has exactly that name; `default` if missing.

    A path to a language or to the only text of a row has one value: `*` is a name in it.
    """
    if field is None:
        return default
    if field in values:
        return values[field]
    value: Any = values
    for name in parse_path(field):
        value = _child(value, "*" if name is ANY else name)
        if value is _MISSING:
            return default
    return value


def _child(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value.get(name, _MISSING)
    if isinstance(value, list) and name.isdecimal() and name.isascii() and int(name[:18]) < len(value):
        return value[int(name)] if name == str(int(name)) else _MISSING
    return _MISSING


class TextFields:
    """The text fields of rows.

    Args:
        names: The names and paths, in the order in which a row's texts are named.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._paths = [(name, parse_path(name)) for name in names]
        self.has_wildcards = any(ANY in path for _, path in self._paths)
        self.is_several = len(names) > 1 or self.has_wildcards
        """True if a row may have several texts: its translation is then an object, not a text."""

    @property
    def used_names(self) -> frozenset[str]:
        """The names that may stand in a row, at any level; a row that has one of them twice is ambiguous."""
        return frozenset(self.names) | {part for _, path in self._paths for part in path if part is not ANY}

    def may_be_in(self, names: Collection[str]) -> bool:
        """Return whether a row whose own fields have these names may have one of the fields."""
        return any(written in names or path[0] in names for written, path in self._paths)

    def present_in(self, values: dict[str, Any]) -> list[str]:
        """Return which of the fields a row has, as the setting names them; a value that is null counts."""
        return [written for written, path in self._paths if written in values or _matches(values, path, {})]

    def find(self, values: dict[str, Any], repeated: Mapping[int, str] | None = None) -> list[tuple[str, Any]] | None:
        """Return name and value of each text of a row, in order.

        Args:
            values: The parsed row.
            repeated: id of each object within the row in which a name occurs twice -> the name.

        Returns:
            One pair for each value that a name or path matches, each value once. A value that is null is left out, and
            may have any other type. None if the row has none of the fields; an array or object without elements, where
            a path has `*`, is a field without texts.

        Raises:
            RowError: Two values have the same name, or an object to which `*` is applied has a name twice.
        """
        found: dict[str, Any] = {}
        seen: set[tuple[str, ...]] = set()
        is_present = False
        for written, path in self._paths:
            is_name = written in values
            matches = [((written,), values[written])] if is_name else _matches(values, path, repeated or {})
            for keys, value in matches:
                is_present = True
                if value is None or value is _MISSING or keys in seen:
                    continue
                name = written if is_name or ANY not in path else ".".join(map(escape_name, keys))
                if name in found:
                    raise RowError(f"has two texts of the name {name!r}, so it is ambiguous. Rename one of the fields.")
                seen.add(keys)
                found[name] = value
        return list(found.items()) if is_present else None


def _matches(value: Any, path: Path, repeated: Mapping[int, str]) -> list[tuple[tuple[str, ...], Any]]:
    """Return keys and value of what a path matches; _MISSING for an array or object without elements."""
    found: list[tuple[tuple[str, ...], Any]] = [((), value)]
    empty: list[tuple[tuple[str, ...], Any]] = []
    for name in path:
        matches: list[tuple[tuple[str, ...], Any]] = []
        for keys, value in found:
            if name is not ANY:
                if (child := _child(value, name)) is not _MISSING:
                    matches.append(((*keys, name), child))
            elif isinstance(value, list):
                matches += [((*keys, str(index)), child) for index, child in enumerate(value)]
            elif isinstance(value, dict):
                if id(value) in repeated:
                    again = repeated[id(value)]
                    raise RowError(f"has the field {again!r} twice, so its value is ambiguous. Remove one of them.")
                matches += [((*keys, key), child) for key, child in value.items()]
            if name is ANY and value in ([], {}):
                empty.append((keys, _MISSING))
        found = matches
    return found + empty
