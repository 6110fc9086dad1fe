"""Join the cues over which a sentence runs, and cut its translation back to them. Knows no file format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import accumulate

from hymt_batch.formats.subtitles.cues import Cue
from hymt_batch.formats.unspaced import is_unspaced, join_lines

MAX_CUES = 8
MAX_CHARS = 600
COMMA_CHARS = 6
"""A cue ends with a comma if that is this near to its share of the text."""

MAX_PAUSE_MS = 1500
"""A longer pause between two cues ends a sentence."""

_ENDS_SENTENCE = re.compile(r"[.!?…。！？｡؟۔।။។]['\"”’»」』)\]]*\Z|[\])♪♫:]\Z")
_BEGINS_ANEW = re.compile(r"(?:[-–—‐‑>\[(（【♪♫#*]|[A-Z][A-Z .'-]+:)")
_PAUSES = re.compile(r"[,;:、，；：·]")
_MARKUP = re.compile(r"[<{]")
_WORD = re.compile(r"(?:<[^<>]*>|\{[^{}]*\}|[^ ])+ ?")
_SPACE = re.compile(r"[ \t\r\n]+")


def group_cues(cues: Iterable[Cue]) -> Iterator[list[Cue]]:
    """Yield the cues in groups, each of one cue or of the cues over which a sentence runs.

    Cues with more than one text, with markup inside a text, or that begin with a dash, a bracket or a name as
    dialogues and songs do, are not joined to those before.
    """
    group: list[Cue] = []
    for cue in cues:
        if group and not _runs_on(group, cue):
            yield group
            group = []
        group.append(cue)
    if group:
        yield group


def _runs_on(group: Sequence[Cue], cue: Cue) -> bool:
    """Return whether the sentence of a group goes on in the cue after it."""
    last, text = _plain_text(group[-1]), _plain_text(cue)
    if not last or not text or len(group) == MAX_CUES:
        return False
    (start_ms, _), (_, end_ms) = cue.read_times(), group[-1].read_times()
    if not 0 <= start_ms - end_ms <= MAX_PAUSE_MS:
        return False
    if sum(len(text.text or "") for cue in group for text in cue.texts) + len(text) > MAX_CHARS:
        return False
    if last.endswith(("...", "…")):
        return text.lstrip(".…")[:1].islower()
    return not _ENDS_SENTENCE.search(last) and not _BEGINS_ANEW.match(text)


def _plain_text(cue: Cue) -> str:
    """Return the text of a cue with exactly one text, without markup; "" for any other."""
    text = cue.texts[0].text if len(cue.texts) == 1 else None
    return "" if text is None or _MARKUP.search(text) else text


def join_texts(texts: Iterable[str]) -> str:
    """Return the texts as one line: with a space between two of them unless both sides are written without spaces."""
    return join_lines(" ".join(text.split("\n")) for text in texts)


def cut_text(text: str, lengths: Sequence[int]) -> list[str]:
    """Cut a translation in proportion to the lengths of its sources, at words where it has them.

    Args:
        text: The translation, not blank.
        lengths: Characters of each source, at least one source.

    Returns:
        One text a source, none of them empty; what follows in order is the translation, but for white space. Where the
        translation has fewer characters than there are sources, the last one is repeated.
    """
    units = units_of(_SPACE.sub(" ", text).strip())
    if len(units) < len(lengths):
        units = [unit for word in units for unit in _spaced_graphemes(word)]
    return cut_units(units + units[-1:] * (len(lengths) - len(units)), lengths)


def cut_units(units: Sequence[str], lengths: Sequence[int], comma_chars: int = COMMA_CHARS) -> list[str]:
    """Cut a text in proportion to some lengths.

    Args:
        units: What of the text stays whole, at least as many as lengths.
        lengths: Of the pieces.
        comma_chars: Characters by which a piece may be longer or shorter to end with a comma.
    """
    ends = list(accumulate(map(len, units)))
    pieces, first = [], 0
    for index, target in enumerate(accumulate(lengths)):
        num_left = len(lengths) - index - 1
        wanted = ends[-1] * target / sum(lengths) if sum(lengths) else 0
        allowed = range(first, len(units) - num_left)
        badness = partial(_badness, units, ends, wanted, comma_chars)
        last = allowed[-1] if not num_left else min(allowed, key=badness)
        pieces.append("".join(units[first : last + 1]).strip(" "))
        first = last + 1
    return pieces


def _badness(units: Sequence[str], ends: Sequence[int], wanted: float, comma_chars: int, index: int) -> float:
    """Return how bad a cut after a unit is: its distance, less some characters after a comma."""
    return abs(ends[index] - wanted) - (comma_chars if _PAUSES.search(units[index].rstrip()[-1:]) else 0)


def units_of(text: str) -> list[str]:
    """Return words with the space after them, and single characters of scripts that are written without spaces.

    A no-break space and the space within a tag are no ends of a word.
    """
    units: list[str] = []
    for word in _WORD.findall(text):
        if any(map(is_unspaced, word)):
            units += _characters(word)
        else:
            units.append(word)
    return units


def _characters(word: str) -> list[str]:
    """Divide a word into characters of unspaced scripts and runs of others; punctuation stays with what precedes."""
    units: list[str] = []
    for grapheme in _graphemes(word):
        first = grapheme[0]
        stays = units and (
            first == " "
            or unicodedata.category(first) in ("Po", "Pe", "Pf")
            or unicodedata.category(units[-1][-1]) in ("Ps", "Pi")
            or not (is_unspaced(first) or is_unspaced(units[-1][-1]))
        )
        if stays:
            units[-1] += grapheme
        else:
            units.append(grapheme)
    return units


def _spaced_graphemes(word: str) -> list[str]:
    """Return the characters of a word, the last one with the space after the word."""
    *graphemes, last = _graphemes(word.rstrip())
    return [*graphemes, last + word[len(word.rstrip()) :]]


def _graphemes(text: str) -> list[str]:
    """Divide a text into characters with their marks."""
    import regex

    return list(regex.findall(r"\X", text))
