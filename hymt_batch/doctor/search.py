"""Search the catalogue for a pasted text: a whole traceback, a sentence of a message, or a few of its words.

A failure is found by its patterns, or by a symptom that is equal up to numbers, paths and punctuation. Otherwise the
failures that share the rarest words are the nearest ones.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from hymt_batch.doctor import catalogue
from hymt_batch.doctor.catalogue import Failure

NUM_NEAREST = 3

_ID = re.compile(r"[A-Za-z]\d{1,2}[A-Za-z]?")
_OWN_ID = re.compile(r"\bexplain=([A-Z]\d{1,2}[a-z]?)\b")
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_PATH = re.compile(r"(?<![\w.])(~|[A-Za-z]:\\|/)[^\s'\"`,;:()\[\]]*|\bFOLDER\b(/[^\s'\"`,;:()]*)?")
_MIN_PHRASE_WORDS = {"title": 2, "symptoms": 2, "silent": 3, "cause": 3}
"""Part of a failure -> fewest words of a text that is looked for in it; a name with an underscore may stand alone."""

_MIN_SCORE = 0.3
"""Least score of a nearest failure: one rare word in a short description; common words alone stay below it."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What the catalogue has for a text."""

    found: tuple[Failure, ...]  # the best first
    nearest: tuple[Failure, ...]  # at most three with the most words in common; empty if they share only common words


def is_id(text: str) -> bool:
    """Return whether a text has the form of a failure's id, such as C23 or c15b."""
    return _ID.fullmatch(text.strip()) is not None


def search(text: str) -> SearchResult:
    """Return the failures that a pasted text is about."""
    text = _ESCAPE_SEQUENCE.sub("", text.replace("\r", "\n"))
    known = catalogue.load()
    if own := tuple(known[id] for id in dict.fromkeys(_OWN_ID.findall(text)) if id in known):
        return SearchResult(own, ())  # our own message names its failure
    lengths = {failure.id: max(_match_lengths(failure, text), default=0) for failure in known.values()}
    found = sorted((failure for failure in known.values() if lengths[failure.id]), key=lambda f: -lengths[f.id])
    found += [failure for failure in _with_symptom(text) if failure not in found]
    return SearchResult(tuple(found) or _with_phrase(text), _nearest(text))


def _match_lengths(failure: Failure, text: str) -> Iterator[int]:
    """Yield the lengths of what the patterns match: in the text as it is, and without the line breaks of a terminal."""
    for pattern in failure.pattern:
        for candidate in (text, " ".join(text.split()), "".join(text.splitlines())):
            if matched := re.search(pattern, candidate, re.DOTALL | re.MULTILINE):
                yield len(matched[0])


def _with_symptom(text: str) -> list[Failure]:
    """Return the failures one of whose symptoms is in a line of the text; one of a single word must be the line."""
    lines = [_normalise(line) for line in [*text.splitlines(), " ".join(text.split())]]
    found = []
    for failure in catalogue.load().values():
        for symptom in map(_normalise, failure.symptoms):
            if symptom in lines or (" " in symptom and any(f" {symptom} " in f" {line} " for line in lines)):
                found.append(failure)
                break
    return found


def _with_phrase(text: str) -> tuple[Failure, ...]:
    """Return the failures that have the whole text in a symptom, else in the title, else in the description."""
    phrase = _normalise(text)
    for part, min_words in _MIN_PHRASE_WORDS.items():
        if len(phrase.split()) < min_words and "_" not in phrase:
            continue
        found = []
        for failure in catalogue.load().values():
            value = getattr(failure, part)
            if any(phrase in _normalise(item) for item in ([value] if isinstance(value, str) else value)):
                found.append(failure)
        if found:
            return tuple(found)
    return ()


def _nearest(text: str) -> tuple[Failure, ...]:
    """Return the failures whose descriptions share the rarest words with the text."""
    documents, frequency = _word_index()
    words = {word for line in text.splitlines() if not line.lstrip().startswith('File "') for word in _words(line)}
    weight = {word: math.log(len(documents) / frequency[word]) for word in words if word in frequency}

    scores = {
        id: sum(weight[word] for word in weight if word in own) / math.sqrt(10 + len(own))
        for id, own in documents.items()
    }
    best = sorted((id for id, score in scores.items() if score >= _MIN_SCORE), key=lambda id: -scores[id])
    return tuple(catalogue.load()[id] for id in best[:NUM_NEAREST])


@lru_cache(maxsize=1)
def _word_index() -> tuple[dict[str, set[str]], Counter[str]]:
    """Return the words of each failure by id, and the number of failures that have a word."""
    documents = {
        failure.id: {
            word
            for part in (failure.title, *failure.symptoms, failure.silent, failure.cause, failure.fix)
            for word in _words(part)
        }
        for failure in catalogue.load().values()
    }
    return documents, Counter(word for words in documents.values() for word in words)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z_]{3,}", text.lower())


def _normalise(text: str) -> str:
    """Return the words of a text without what differs from case to case: numbers, paths, punctuation and capitals."""
    text = re.sub(r"\d+(\.\d+)*", "0", _PATH.sub(" path ", text))
    return " ".join(re.sub(r"\W+", " ", text.lower()).split())
