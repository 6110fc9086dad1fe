"""Find pieces of a text that repeat in a row. Knows nothing of translations.

Source: the loop rule (a piece of 3 to 100 characters three times in a row, which the source does not have) raised
false alarms on at most 0.1 % of 73,889 human translations in 37 languages.
"""

from __future__ import annotations

from collections.abc import Sequence

_LOOP_MIN, _LOOP_MAX, _LOOP_SCAN_CHARS = 3, 100, 20_000
_MIN_BULK_CHARS, _MAX_BULK_CHARS = 4_000, 250_000  # below: not worth it; above: in chunks, to bound memory
_HASH_MULTIPLIER = 0x9E3779B1  # must be odd


def loop_suspects(texts: Sequence[str], repeats: int) -> set[int]:
    """Return the indices of texts that may have a loop; for all others `has_loop` is false.

    Fifteen times as fast as `has_loop` on human texts. Where a piece of d characters (d >= 3) occurs three times in a
    row, apart from white space at the end, at least d + 1 consecutive characters equal those d positions later. So for
    windows of w characters (w <= d + 1), it is enough to compare one in every d + 2 - w start positions with the window
    d positions later. Hashes are compared, so a match only makes a text a candidate, which `has_loop` then checks.
    """
    chars = sum(map(len, texts))
    if repeats < 3 or chars < _MIN_BULK_CHARS:
        return set(range(len(texts)))
    suspects: set[int] = set()
    first, size = 0, 0
    for index, text in enumerate(texts):
        size += len(text)
        if size >= _MAX_BULK_CHARS or index == len(texts) - 1:
            suspects.update(first + suspect for suspect in _suspects(texts[first : index + 1]))
            first, size = index + 1, 0
    return suspects


def _suspects(texts: Sequence[str]) -> set[int]:
    import numpy as np

    runs = {1: np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")}
    for width, shift in ((2, 1), (4, 2), (5, 1), (8, 4), (16, 8)):
        left, right = runs[width - shift], runs[shift][width - shift :]
        runs[width] = left[: len(right)] * np.uint32(_HASH_MULTIPLIER + 2 * width) + right
    ends = np.cumsum([len(text) for text in texts])
    suspects: set[int] = set()
    for period in range(_LOOP_MIN, _LOOP_MAX + 1):
        width = 4 if period < 5 else 5 if period < 12 else 8 if period < 30 else 16
        step, hashes = period + 2 - width, runs[width]
        equal = hashes[:-period:step] == hashes[period::step]
        if equal.any():
            positions = np.flatnonzero(equal) * step
            first_text, last_text = (
                np.searchsorted(ends, position, side="right") for position in (positions, positions + period)
            )
            suspects.update(first_text[first_text == last_text].tolist())
    return suspects


def has_loop(text: str, repeats: int) -> bool:
    """Return whether a piece of 3 to 100 characters occurs `repeats` times in a row, in linear time."""
    last_positions: dict[str, int] = {}
    for position in range(min(len(text), _LOOP_SCAN_CHARS) - _LOOP_MIN + 1):
        gram = text[position : position + _LOOP_MIN]
        previous = last_positions.get(gram)
        last_positions[gram] = position
        if previous is None or position - previous > _LOOP_MAX or gram.isspace():
            continue
        unit = text[previous:position]
        unit *= -(-_LOOP_MIN // len(unit))
        if text.startswith((unit * repeats).rstrip(), previous):
            return True
    return False


MAX_REPEATS = 100


def count_repeats(text: str, repeats: int) -> int:
    """Return how often a piece of 3 to 100 characters stands in a row: from `repeats` to MAX_REPEATS; 0 for less."""
    if not has_loop(text, repeats):
        return 0
    low, high = repeats, MAX_REPEATS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if has_loop(text, middle) else (low, middle - 1)
    return low
