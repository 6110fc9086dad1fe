"""Decide which rows have no visible character: they are copied unchanged and never sent to the model."""

from __future__ import annotations

import unicodedata

from hymt_batch.records import PLAN_VERSION

_FILLERS = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180F),  # Mongolian variation selectors
        (0x2065, 0x2065),
        (0x2800, 0x2800),  # braille blank
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),
        (0xFFF0, 0xFFF8),
        (0xE0000, 0xE0FFF),
    )
    for code in range(first, last + 1)
)
"""Invisible characters that are neither white space nor in the categories Cc and Cf (DefaultIgnorableCodePoint)."""

_NUMBER_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
"""Format characters that are visible (PrependedConcatenationMark)."""


def is_blank(text: str, plan_version: int = PLAN_VERSION) -> bool:
    """Return whether a row has no visible character, so that it is copied unchanged and never sent to the model.

    White space, control characters, format characters and fillers are invisible. In plan 1 only rows of white space
    are blank.
    """
    if plan_version == 1:
        return not text or text.isspace()
    if not text:
        return True
    return not "!" <= text[0] <= "~" and all(map(_is_invisible, text))


def _is_invisible(character: str) -> bool:
    if character in _FILLERS or character.isspace():
        return True
    return unicodedata.category(character) in ("Cc", "Cf") and character not in _NUMBER_SIGNS
