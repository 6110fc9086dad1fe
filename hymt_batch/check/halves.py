"""Cut a text in two, for a second try: at the best kind of boundary near its middle. Knows no tokens."""

from __future__ import annotations

from hymt_batch.cut import LEVELS

MIN_CHARS = 12
_MIN_SHARE = 0.25
"""Smallest share of a half: a better kind of boundary farther from the middle is not taken."""


def halves(text: str) -> tuple[str, str] | None:
    """Return two pieces whose concatenation is the text, neither of them blank; None if it is too short.

    A text without boundaries is cut between two characters of its middle that are letters or digits, which carry no
    combining marks.
    """
    size = len(text)
    if size < MIN_CHARS:
        return None
    low, middle, high = size * _MIN_SHARE, size / 2, size * (1 - _MIN_SHARE)
    for level in LEVELS:
        ends = [end for end in level(text, 0, size) if low <= end <= high]
        if ends:
            return _cut_at(text, min(ends, key=lambda end: abs(end - middle)))
    ends = [end for end in range(int(low), int(high) + 1) if text[end - 1].isalnum() and text[end].isalnum()]
    return _cut_at(text, min(ends, key=lambda end: abs(end - middle))) if ends else None


def _cut_at(text: str, end: int) -> tuple[str, str] | None:
    first, second = text[:end], text[end:]
    return (first, second) if first.strip() and second.strip() else None
