"""Lay the translation of a cue out on the lines of its source. Knows no file format."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hymt_batch.formats.subtitles.join import COMMA_CHARS, cut_units, units_of
from hymt_batch.formats.unspaced import count_columns

_MARKUP = r"(?:<(?!v[ .])[^<>/][^<>\n]*>|\{[^{}\n]*\})*"
_SPEAKER = r"(?:[-‐‑–—―]|>>|<v[ .])[ \t\xa0]?(?=[^\s>\-])"
_SPEAKS = re.compile(_MARKUP + _SPEAKER)
_NEW_SPEAKER = re.compile(r"(?:(?<=[\s.!?…。！？♪)\]”’\"』」>])|\A)" + _MARKUP + _SPEAKER)
_SPACE = re.compile(r"[ \t]+")


def fit_lines(source: str, translation: str) -> tuple[str, bool]:
    """Return a translation on as many lines as its source has, and whether its lines are as they should be.

    A translation that has line breaks of its own keeps them, and one with fewer words than there are lines stays on one
    line. The turns of a dialogue, each of which begins with a dash or the name of a speaker, begin at the dashes of the
    translation; where that does not have as many, it stays as it is, because nobody knows who says what.

    Args:
        source: The text of a cue, with "\n" between its lines.
        translation: Its translation.
    """
    lines = source.split("\n")
    if "\n" in translation.strip():
        return translation, len(translation.strip().splitlines()) == len(lines)
    if len(lines) == 1:
        return translation, True
    text = _SPACE.sub(" ", translation).strip()
    turns = _turns(lines)
    if len(turns) == 1:
        return _on_lines(text, len(lines)), True
    starts = [match.start() for match in _NEW_SPEAKER.finditer(text)]
    if not _SPEAKS.match(lines[0]):
        starts = [0, *[start for start in starts if start]]
    if len(starts) != len(turns) or starts[0]:
        return translation, False
    pieces = [text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    return "\n".join(_on_lines(piece, num_lines) for piece, num_lines in zip(pieces, turns, strict=True)), True


def _turns(lines: Sequence[str]) -> list[int]:
    """Return how many lines each speaker has."""
    turns: list[int] = []
    for line in lines:
        if not turns or _SPEAKS.match(line):
            turns.append(1)
        else:
            turns[-1] += 1
    return turns


def _on_lines(text: str, num_lines: int) -> str:
    units = units_of(text)
    if len(units) < num_lines:
        return text
    return "\n".join(cut_units(units, [1] * num_lines, comma_chars=min(COMMA_CHARS, count_columns(text) // 6)))
