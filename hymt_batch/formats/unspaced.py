"""Scripts that are written without spaces between words, and how lines are joined and measured. Knows no format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Characters of these scripts, as the inside of a character class; Korean has spaces."""

_UNSPACED = re.compile(f"[{UNSPACED}]")


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script that is written without spaces between words."""
    return _UNSPACED.match(character) is not None


def space_between(before: str, after: str) -> str:
    """Return what joins two lines: a space, or nothing if both sides are written without spaces."""
    return "" if before and after and is_unspaced(before[-1]) and is_unspaced(after[0]) else " "


def join_lines(lines: Iterable[str]) -> str:
    """Return the lines, none of them empty, as one."""
    joined = ""
    for line in lines:
        joined += space_between(joined, line) + line if joined else line
    return joined


def count_columns(text: str) -> int:
    """Return how many columns a text takes; characters of East Asian scripts take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )
