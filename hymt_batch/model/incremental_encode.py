"""Ids of texts behind a fixed head, with the head encoded once, where that gives the ids of the whole.

A byte-level BPE encodes each piece that its pre-tokenizer cuts by itself. So the ids of head + text are those of the
head and those of the text put together wherever a piece ends between the two, and the pieces around are the same.
That is so, whatever the text, under conditions that are read from tokenizer.json:

- No pattern looks behind, so what is cut after the seam is what is cut from the text alone.
- The head ends with a line feed and has no digit, the text begins with a letter, mark, number, sign or symbol. No
  alternative matches a line feed and such a character together, and `\\s+` leaves no line feed unmatched: a piece ends
  at the seam.
- How the head is cut depends at most on the text's first character, which a look ahead after white space sees, or
  which an earlier step has cut off as a digit or as a Chinese or Japanese run. So its ids are kept by that character.
- In the same way a piece ends before one space between two such characters: no alternative matches what is not white
  and then a space. For what stands before it, the space is what the end of the text is. So the ids of a text are those
  of its words, each but the first with the space before it, and words come again.

Elsewhere the whole is encoded. The first text of each first character is encoded both ways too, and hostile ones before
the first; should they ever differ, the whole is encoded from then on. Does not know the prompts' wording.
"""

from __future__ import annotations

import logging
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any

log = logging.getLogger(__name__)

Ids = tuple[int, ...] | None
"""None where a piece does not end for certain."""

IndexedWords = tuple[int, list[str]]
"""A text's place and its words."""

_MAX_MEAN_WORD_CHARS = 16
"""Texts whose words are longer on average are encoded without looking at words."""

_SEPARATOR = " \n"
"""A piece ends before it, as at any space, and after it, as at any head."""

_WORDS_PER_CALL = 64  # words

_MAX_WORDS, _MAX_WORD_CHARS = 50_000, 64  # some 30 MB

_MAX_HEADS, _MAX_FIRST_CHARS = 256, 65_536  # heads that are known, and their first characters together; some 8 MB

_MIN_TEXTS = 4
"""A new head before fewer texts is not learnt: learning it costs more."""

_MAX_TESTED_HEADS = 8
"""Heads before which hostile texts are tried; what they show is the tokenizer's, not the head's."""

_CHECKED_CHARS = 1024  # of a text, when the two ways are compared

_RUN_PATTERNS = (
    r"\p{N}",
    r"\p{N}{1,3}",
    r"\d{1,3}(?=(?:\d{3})*(?!\d))",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
)
"""Alternatives of which the first character tells whether they match."""

_GPT2_PATTERNS = (r"'s|'t|'re|'ve|'m|'ll|'d", r" ?\p{L}+", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"\s+(?!\S)", r"\s+")
_WORD_PATTERNS = (
    *_GPT2_PATTERNS,
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    r"\s*[\r\n]+",
)
"""Alternatives of GPT-2, GPT-4, Llama 3, Qwen 2 and Hunyuan (which has those of DeepSeek V3). Each was read: none looks
behind or is anchored, none matches a line feed and then what is not white, none matches that and then a space."""

_HOSTILE_TEXTS = (
    "It is raining.~a~'s 't~I'll, we'd~-5 +6~...and~(x) [y] {text}~\"q\" \u201cq\u201d~1~12~123~1234 5~12,345.6 7 89~"
    "\u0663\u0664 \u0665~\u00bd x~\u4f60\u597d \u4e16\u754c~\u3042\u30ab\u4e9c 1~\ud55c\uad6d \uc5b4~\uff01\u4f60~"
    "\u3002 a~\u0301a e\u0301~\u0e2a\u0e27\u0e31\u0e2a \u0e14\u0e35~\u0646\u0645 \u0648~\U0001f600 \U0001f468\u200d x~"
    "\u00e9t\u00e9 d'\u00e9~<|x|> <x>~\uff5c \u2581~a\n\nb c~1\n2 3~!\n\n? .~\u4f60 \n x~x  y   z~a\tb \tc~a\u00a0b c~"
    "$1 #2 @x~\u200dx \u200d y~\u00a0x~\ufeffx \ufeff~ x~\nx~\x1cx y~\x00 a\x00b~A . B ! C? D"
)
"""Hostile texts with a tilde between."""


class _WordCache(dict[str, Ids]):
    """Ids of words: the newest, and those of the words before them that came again."""

    __slots__ = ("older",)

    def __init__(self, older: dict[str, Ids]) -> None:
        self.older = older

    def __missing__(self, word: str) -> Ids:
        self[word] = ids = self.older[word]
        return ids


class IncrementalEncoder:
    """The seams between a head and a text and between words, for one tokenizer.

    Args:
        bare: The tokenizer without added tokens.
        encode: Ids of whole texts.
        content: The tokenizer's tokenizer.json.
    """

    def __init__(
        self, backend: Any, encode: Callable[[Sequence[str]], list[list[int]]], content: dict[str, Any]
    ) -> None:
        self._backend, self._encode, self.enabled = backend, encode, supports_incremental(content)
        self._heads: dict[str, dict[str, Ids]] = {}  # head -> first character of the text -> ids of the head
        self._interned_ids: dict[tuple[int, ...], tuple[int, ...]] = {}  # these ids, each once: they are few
        self._num_tested_heads = 0  # heads before hostile texts
        self._word_ids = _WordCache({})  # with the space before, but at a text's start

    def encode(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        """Ids of head + text, of each of some texts."""
        if not self.enabled or not _ends_at_boundary(head):
            return self._encode([head + text for text in texts])
        if head not in self._heads:
            if len(texts) < _MIN_TEXTS and self._num_tested_heads >= _MAX_TESTED_HEADS:
                return self._encode([head + text for text in texts])
            if len(self._heads) >= _MAX_HEADS or sum(map(len, self._heads.values())) > _MAX_FIRST_CHARS:
                self._clear_heads()
            self._heads[head] = {}
            if self._num_tested_heads < _MAX_TESTED_HEADS:
                self._num_tested_heads += 1
                self._learn_head(head, _HOSTILE_TEXTS.split("~"))
        known, firsts = self._heads[head], [text[:1] for text in texts]
        if len(known) > _MAX_FIRST_CHARS:
            self._clear_heads()
            known = self._heads[head] = {}
        new = dict(zip(reversed(firsts), reversed(texts), strict=True))  # the first text of each
        self._learn_head(head, [text for first, text in new.items() if first not in known])
        if not self.enabled:
            return self._encode([head + text for text in texts])
        starts = [known[first] for first in firsts]
        wholes = self._encode([head + text for start, text in zip(starts, texts, strict=True) if start is None])
        alone = self._encode_without_head(
            [text for start, text in zip(starts, texts, strict=True) if start is not None]
        )
        some, rest = iter(alone), iter(wholes)
        return [next(rest) if start is None else [*start, *next(some)] for start in starts]

    def _clear_heads(self) -> None:
        self._heads.clear()
        self._interned_ids.clear()

    def _learn_head(self, head: str, texts: Sequence[str]) -> None:
        """Take the head's ids before each text's first character from the whole, and compare the ways."""
        if not texts:
            return
        known = self._heads[head]
        known.update({text[:1]: None for text in texts if not _starts_at_boundary(text)})
        some = [text[:_CHECKED_CHARS] for text in texts if _starts_at_boundary(text)]
        wholes = self._encode([head + text for text in some])
        for text, whole, alone in zip(some, wholes, self._encode_without_head(some), strict=True):
            start = tuple(whole[: len(whole) - len(alone)])
            start = self._interned_ids.setdefault(start, start)
            if [*start, *alone] != whole or known.setdefault(text[:1], start) != start:
                log.warning(
                    "the tokenizer cuts other pieces than its file promises: every prompt is encoded as a whole"
                )
                self.enabled = False
                return

    def _encode_without_head(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text without its head: by words that are known, where words are short."""
        found: list[list[int] | None] = [None] * len(texts)
        waiting = [
            n
            for n, text in enumerate(texts)
            if text.count(" ") * _MAX_MEAN_WORD_CHARS >= len(text) and "\0" not in text
        ]
        if len(self._word_ids) > _MAX_WORDS:
            self._word_ids = _WordCache(dict(self._word_ids))
        unknown = self._look_up(((place, _split_words(texts[place])) for place in waiting), found)
        self._learn_words(dict.fromkeys(chain.from_iterable([words for _, words in unknown])))
        self._look_up(unknown, found)
        others = iter(self._encode([text for text, ids in zip(texts, found, strict=True) if ids is None]))
        return [next(others) if ids is None else ids for ids in found]

    def _look_up(self, texts: Iterable[IndexedWords], ids: list[list[int] | None]) -> list[IndexedWords]:
        """Put texts' ids together from those of their words; gives back texts with a word that is not known."""
        unknown, ids_of = [], self._word_ids.__getitem__
        for text in texts:
            try:
                ids[text[0]] = [*chain.from_iterable(map(ids_of, text[1]))]  # type: ignore[arg-type]
            except KeyError:
                unknown.append(text)
            except TypeError:  # None: a word that does not stand alone
                continue
        return unknown

    def _learn_words(self, words: Iterable[str]) -> None:
        """Encode words, many at once: each alone takes twice the time."""
        known, older = self._word_ids, self._word_ids.older
        new = [word for word in words if word not in known and word not in older and len(word) <= _MAX_WORD_CHARS]
        known.update((word, None) for word in new if not _is_independent(word))
        sound = [word for word in new if word not in known]
        for separator in ("", _SEPARATOR):
            some = [word for word in sound if word.startswith(" ") is (separator == "")]
            rows = [some[start : start + _WORDS_PER_CALL] for start in range(0, len(some), _WORDS_PER_CALL)]
            found = self._backend.encode_batch([separator.join(row) for row in rows], add_special_tokens=False)
            for row, encoding in zip(rows, found, strict=True):
                ids, starts = encoding.ids, [start for start, _ in encoding.offsets]
                begins = accumulate([len(word) + len(separator) for word in row], initial=0)
                for word, begin in zip(row, begins, strict=False):
                    start, end = bisect_left(starts, begin), bisect_left(starts, begin + len(word))
                    known[word] = tuple(ids[start:end])


def _split_words(text: str) -> list[str]:
    """All words but the first have the space before them."""
    return text.replace(" ", "\0 ").split("\0")


def _is_independent(word: str) -> bool:
    word = word.removeprefix(" ")
    return _starts_at_boundary(word) and _starts_at_boundary(word[-1])


def _ends_at_boundary(head: str) -> bool:
    return head.endswith("\n") and not any(unicodedata.category(one)[0] == "N" for one in head)


def _starts_at_boundary(text: str) -> bool:
    """Whether the first character is none that any Unicode version takes for white space."""
    first = text[:1]
    return first.isalnum() or (bool(first) and unicodedata.category(first)[0] in "LMNPS")


def supports_incremental(content: dict[str, Any]) -> bool:
    """Whether a tokenizer cuts between a head and a text, as far as its tokenizer.json tells."""
    model = content.get("model") or {}
    if content.get("normalizer") or model.get("type") != "BPE" or model.get("dropout"):
        return False
    found = content.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", []) if found.get("type") == "Sequence" else [found]
    cut = False
    for step in steps:
        if step.get("type") == "ByteLevel" and step is not steps[-1]:
            return False  # what follows would see other characters
        alternatives = _alternatives(step)
        if alternatives is None or not (cut or r"\s+" in alternatives or set(alternatives) <= set(_RUN_PATTERNS)):
            return False
        cut = cut or r"\s+" in alternatives
    return cut


def _alternatives(step: dict[str, Any]) -> list[str] | None:
    """The alternatives at which a step cuts; None where they are not known."""
    if step.get("type") == "ByteLevel" and step.get("add_prefix_space") is False:
        return list(_GPT2_PATTERNS) if step.get("use_regex", True) else []
    pattern = (step.get("pattern") or {}).get("Regex")
    if step.get("type") != "Split" or step.get("behavior") != "Isolated" or step.get("invert") or pattern is None:
        return None
    found: list[str] = []
    rest = pattern.replace("\r", r"\r").replace("\n", r"\n") + "|"
    while rest:
        one = next((one for one in (*_RUN_PATTERNS, *_WORD_PATTERNS) if rest.startswith(one + "|")), None)
        if one is None:
            return None
        found.append(one)
        rest = rest[len(one) + 1 :]
    return found
