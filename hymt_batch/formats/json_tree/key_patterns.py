r"""Patterns that name strings of a JSON tree by their keys, for source.keys and source.skip_keys.

A pattern without a dot is one key, at any depth: `title`, `desc*`. One with dots is the path from the outermost value:
`menu.*.title`, in which `*`, `?` and `[abc]` stand for characters of one key or index, and `**` for any number of keys.
A pattern also matches all that is below what it names. `\.` is a dot in a key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_SEPARATOR = "\0"
_DOT = re.compile(r"\\(.)|(\.)")


class KeyFilter:
    """Which strings are translated.

    Args:
        keys: Patterns of those that are; None for all.
        skip_keys: Patterns of those that are not, also if `keys` has them; None for none.
    """

    def __init__(self, keys: Any, skip_keys: Any) -> None:
        self._keys, self._skipped = _compile(as_patterns(keys)), _compile(as_patterns(skip_keys))

    @property
    def takes_all(self) -> bool:
        return self._keys is None and self._skipped is None

    def takes(self, path: Sequence[str]) -> bool:
        """Return whether the string at a path is translated."""
        joined = _SEPARATOR.join([*path, ""])
        if self._keys is not None and not self._keys.match(joined):
            return False
        return self._skipped is None or not self._skipped.match(joined)


def as_patterns(value: Any) -> tuple[str, ...]:
    """Return the patterns of a setting, which is a text, a list or None."""
    return () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))


def _compile(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """Return what matches a path, of which each key is followed by the separator; None without a pattern."""
    return re.compile("|".join(map(_expression, patterns)), re.DOTALL) if patterns else None


def _expression(pattern: str) -> str:
    keys = _split(pattern)
    if len(keys) == 1 and keys[0] != "**":
        return rf"(?:[^\x00]*\x00)*?{_key(keys[0])}\x00"
    return "".join(r"(?:[^\x00]*\x00)*?" if key == "**" else rf"{_key(key)}\x00" for key in keys)


def _split(pattern: str) -> list[str]:
    keys, at, key = [], 0, ""
    for match in _DOT.finditer(pattern):
        key += pattern[at : match.start()]
        at = match.end()
        if match[2]:
            keys.append(key)
            key = ""
        else:
            key += match[1]
    return [*keys, key + pattern[at:]]


_WILDCARD = re.compile(r"(\*+)|(\?)|\[(!?)([^\]]+)\]")


def _key(key: str) -> str:
    """Return the expression of one key."""
    out, at = "", 0
    for match in _WILDCARD.finditer(key):
        out += re.escape(key[at : match.start()])
        at = match.end()
        if match[1]:
            out += r"[^\x00]*"
        elif match[2]:
            out += r"[^\x00]"
        else:
            out += _character_class(match[4], is_negated=bool(match[3]))
    return out + re.escape(key[at:])


def _character_class(characters: str, *, is_negated: bool) -> str:
    """Return the expression of one character; none is in a range from a later to an earlier one, as in a shell."""
    characters = re.sub(r"([\\\[\]^])", r"\\\1", characters)
    try:
        re.compile(f"[{characters}]")
    except re.error:
        return r"[^\x00]" if is_negated else "(?!)"
    return rf"[^\x00{characters}]" if is_negated else f"[{characters}]"
