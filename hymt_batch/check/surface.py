"""Measurements of what has no language: URLs, long numbers, Markdown; see measures.py."""

from __future__ import annotations

import re
from collections import Counter

from hymt_batch.check.pair import Pair

_URL_CHARACTER = (
    r"[^\s<>\"'{}|\\^`\u0600-\u06ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    r"\u2e80-\ua4cf\uf900-\ufaff\uff00-\uffef]"
)

_URL = re.compile(rf"(?:(?:https?|ftp)://|www\.){_URL_CHARACTER}{{0,2000}}{_URL_CHARACTER}(?<![.,;:!?)\]*])")


def _urls(text: str) -> Counter[str]:
    return Counter(_URL.findall(text)) if "://" in text or "www." in text else Counter()


def measure_urls(pair: Pair) -> float:
    """Count the URLs that are lost or invented. False alarms: none."""
    source, translation = _urls(pair.source), _urls(pair.translation)
    return sum(((source - translation) + (translation - source)).values())


_ZEROS = (0x0660, 0x06F0, 0x0966, 0x09E6, 0x0AE6, 0x0BE6, 0x0C66, 0x0E50, 0x0F20, 0x1040, 0x17E0, 0xFF10)
_DIGITS = {zero + digit: str(digit) for zero in _ZEROS for digit in range(10)}
_LONG_NUMBER = re.compile(r"\d{4,}")
_GROUPED = re.compile(r"(?<=\d)[.,'’٬،\u00a0\u202f\u2009 ](?=\d{3}(?!\d))")
_HAS_LONG_NUMBER = re.compile(r"\d{4}|\d[.,'’٬،\u00a0\u202f\u2009 ]\d{3}")


def _numbers(text: str) -> tuple[set[str], set[str]]:
    """Return the runs of at least four digits of a text, and those that it has too once groups of three are joined."""
    if not _HAS_LONG_NUMBER.search(text):
        return set(), set()
    plain = _URL.sub(" ", text if text.isascii() else text.translate(_DIGITS))
    return set(_LONG_NUMBER.findall(plain)), set(_LONG_NUMBER.findall(_GROUPED.sub("", plain)))


def measure_numbers(pair: Pair) -> float:
    """Count the runs of at least four digits that are lost or invented; 10,000 and 10000 are one number.

    False alarms: 0.6 %, 0.7 % in Chinese. They are numbers that a language writes with words, as 2万 in Chinese.
    """
    source, joined_source = _numbers(pair.source)
    translation, joined = _numbers(pair.translation)
    return len(source - translation - joined) + len(translation - source - joined_source)


_MARKDOWN = (
    re.compile(r"```|~~~"),
    re.compile(r"^ {0,3}#{1,6} \S", re.MULTILINE),
    re.compile(r"\*\*[^*\s][^*\n]{0,300}\*\*|(?<!\w)__[^_\s][^_\n]{0,300}__(?!\w)"),
    re.compile(r"\[[^\[\]\n]{1,300}\]\((?:https?:|/|#|\w+\.)[^()\s]{0,500}\)"),
    re.compile(r"^ {0,3}\|.*\|\s*$", re.MULTILINE),
    re.compile(r"^ {0,3}(?:[-*+]|\d{1,2}[.)]) \S.*\n {0,3}(?:[-*+]|\d{1,2}[.)]) \S", re.MULTILINE),
)
_MARKDOWN_CHARACTERS = re.compile(r"[`~#*_|\]\n]")


def measure_markdown(pair: Pair) -> float:
    """Count the kinds of Markdown that the translation has and the source has not: fences, headings, bold, links, ...

    False alarms: none.
    """
    if not _MARKDOWN_CHARACTERS.search(pair.translation):
        return 0
    return sum(bool(kind.search(pair.translation)) and not kind.search(pair.source) for kind in _MARKDOWN)
