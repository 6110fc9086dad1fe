"""Ranges of a Markdown file that are no text, although a parser of Markdown takes them for text.

Front matter; math between lines of `$$`; blocks of Liquid and Hugo that hold code. Such a block may have blank lines.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

_BEGIN, _END = rb"(?:(?<=[\r\n])|\A)", rb"[ \t]*(?=[\r\n]|\Z)"  # of a line, whatever its ending is
_LINE = rb"[ \t]*(?:\r\n?|\n|\Z)"
_FRONT_MATTER = (
    (re.compile(rb"---" + _LINE), re.compile(rb"(?<=[\r\n])(?:---|\.\.\.)" + _LINE)),
    (re.compile(rb"\+\+\+" + _LINE), re.compile(rb"(?<=[\r\n])\+\+\+" + _LINE)),
    (re.compile(rb"\{" + _LINE), re.compile(rb"(?<=[\r\n])\}" + _LINE)),
)
_BLOCK_NAMES = rb"(highlight|comment|mermaid|math|katex|plantuml)"
_REGION = re.compile(
    _BEGIN
    + rb"[ \t>]*(?:(\$\$)"
    + _END
    + rb"|\{%-?[ \t]*"
    + _BLOCK_NAMES
    + rb"\b|\{\{[<%][ \t]*"
    + _BLOCK_NAMES
    + rb"\b)"
)


def front_matter_end(data: bytes, start: int) -> int:
    """Return where the text begins after front matter in YAML, TOML or JSON; the start if there is none."""
    for opens, closes in _FRONT_MATTER:
        if opening := opens.match(data, start):
            closing = closes.search(data, opening.end())
            return closing.end() if closing else start
    return start


def may_have_regions(data: bytes) -> bool:
    return b"$$" in data or b"{%" in data or b"{{" in data


def find_regions(data: bytes, start: int, code: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges of blocks that hold no text, in order; those that begin in code are text about such blocks."""
    regions: list[tuple[int, int]] = []
    unclosed: set[bytes] = set()
    while opening := _REGION.search(data, start):
        start = opening.end()
        inside = bisect_right(code, (opening.start(), len(data))) - 1
        if inside >= 0 and opening.start() < code[inside][1]:
            continue
        name = opening[2] or opening[3] or b"$$"
        end_pattern = _end_pattern(name, is_liquid=opening[2] is not None)
        if end_pattern in unclosed:
            continue
        closing = re.compile(end_pattern).search(data, start)
        if closing is None:
            unclosed.add(end_pattern)
            continue
        regions.append((opening.start(), closing.end()))
        start = closing.end()
    return regions


def _end_pattern(name: bytes, *, is_liquid: bool) -> bytes:
    if name == b"$$":
        return _BEGIN + rb"[ \t>]*\$\$" + _END
    return rb"\{%-?[ \t]*end" + name + rb"\b" if is_liquid else rb"\{\{[<%][ \t]*/[ \t]*" + name + rb"\b"
