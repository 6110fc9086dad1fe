"""Encode many texts after the same head (the instruction of a prompt), encoding the head only once.

A byte-level BPE encodes each pre-token separately. So the ids of head + text are the ids of the head followed by the
ids of the text if a pre-token ends between the two and the pre-tokens on both sides do not depend on each other. This
holds for every text under the following conditions, which are read from tokenizer.json:

- No pattern uses a lookbehind, so everything after the boundary is split as in the text alone.
- The head ends with a line feed and contains no digit; the text starts with a letter, mark, number, punctuation or
  symbol. No alternative matches a line feed followed by such a character, and `\\s+` leaves no line feed unmatched:
  a pre-token ends at the boundary.
- The split of the head depends at most on the first character of the text: a lookahead after white space sees it, or an
  earlier step has split it off as a digit or as a Chinese or Japanese run. So the head's ids are cached per first
  character of the text.
- In the same way, a pre-token ends before a single space between two such characters, because no alternative matches a
  character that is not white space followed by a space. The space affects the characters before it just as the end of
  the text would. So the ids of a text are the concatenated ids of its words, where each word but the first
  includes the space before it. The ids of words are cached, since words repeat.

In all other cases head + text is encoded as a whole. As a check, one text for each first character is encoded in
both ways, and so are hostile texts before the first real one; if the results ever differ, everything is encoded as a
whole from then on. Does not depend on the prompt template.
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
"""Token ids; None if a pre-token boundary is not guaranteed."""

IndexedWords = tuple[int, list[str]]
"""Index of a text and its words."""

_MAX_MEAN_WORD_CHARS = 16
"""Texts whose words are longer on average are not split into words."""

_SEPARATOR = " \n"
"""Separator of words that are encoded in one call: a pre-token ends before its space and after its line feed."""

_WORDS_PER_CALL = 64

_MAX_WORDS, _MAX_WORD_CHARS = 50_000, 64  # limits of the word cache: about 30 MB

_MAX_HEADS, _MAX_FIRST_CHARS = 256, 65_536  # limits of the head cache: about 8 MB

_MIN_TEXTS = 4
"""A new head with fewer texts is not cached, because caching costs more than encoding so few texts as a whole."""

_MAX_TESTED_HEADS = 8
"""Number of heads that are tested with hostile texts; the result depends on the tokenizer rather than on the head."""

_CHECKED_CHARS = 1024  # leading characters of a text on which the two ways are compared

_RUN_PATTERNS = (
    r"\p{N}",
    r"\p{N}{1,3}",
    r"\d{1,3}(?=(?:\d{3})*(?!\d))",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
)
"""Alternatives for which the first character decides whether they match."""

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
"""Alternatives of GPT-2, GPT-4, Llama 3, Qwen 2 and Hunyuan (which uses those of DeepSeek V3).

Each was checked by hand: none uses a lookbehind or an anchor, none matches a line feed followed by a character that is
not white space, and none matches such a character followed by a space.
"""

_HOSTILE_TEXTS = (
    "It is raining.~a~'s 't~I'll, we'd~-5 +6~...and~(x) [y] {text}~\"q\" \u201cq\u201d~1~12~123~1234 5~12,345.6 7 89~"
    "\u0663\u0664 \u0665~\u00bd x~\u4f60\u597d \u4e16\u754c~\u3042\u30ab\u4e9c 1~\ud55c\uad6d \uc5b4~\uff01\u4f60~"
    "\u3002 a~\u0301a e\u0301~\u0e2a\u0e27\u0e31\u0e2a \u0e14\u0e35~\u0646\u0645 \u0648~\U0001f600 \U0001f468\u200d x~"
    "\u00e9t\u00e9 d'\u00e9~<|x|> <x>~\uff5c \u2581~a\n\nb c~1\n2 3~!\n\n? .~\u4f60 \n x~x  y   z~a\tb \tc~a\u00a0b c~"
    "$1 #2 @x~\u200dx \u200d y~\u00a0x~\ufeffx \ufeff~ x~\nx~\x1cx y~\x00 a\x00b~A . B ! C? D"
)
"""Hostile texts, separated by tildes."""


class _WordCache(dict[str, Ids]):
    """Cache of word ids in two generations: a word found in the older generation moves to the current one."""

    __slots__ = ("older",)

    def __init__(self, older: dict[str, Ids]) -> None:
        self.older = older

    def __missing__(self, word: str) -> Ids:
        self[word] = ids = self.older[word]
        return ids


class IncrementalEncoder:
    """Encodes head + text from cached ids of heads and words, for one tokenizer.

    Args:
        backend: The tokenizer without added tokens.
        encode: Function that encodes whole texts to ids.
        content: Content of tokenizer.json.
    """

    def __init__(
        self, backend: Any, encode: Callable[[Sequence[str]], list[list[int]]], content: dict[str, Any]
    ) -> None:
        self._backend, self._encode, self.enabled = backend, encode, supports_incremental(content)
        self._heads: dict[str, dict[str, Ids]] = {}  # head -> first character of the text -> ids of the head
        self._interned_ids: dict[
            tuple[int, ...], tuple[int, ...]
        ] = {}  # stores equal ids of heads once; few are distinct
        self._num_tested_heads = 0  # heads that were tested with hostile texts
        self._word_ids = _WordCache({})  # a word includes the space before it, except at the start of a text

    def encode(self, head: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of head + text for each text."""
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
        known, first_chars = self._heads[head], [text[:1] for text in texts]
        if len(known) > _MAX_FIRST_CHARS:
            self._clear_heads()
            known = self._heads[head] = {}
        new_first_chars = dict(zip(reversed(first_chars), reversed(texts), strict=True))  # character -> first text
        self._learn_head(head, [text for first, text in new_first_chars.items() if first not in known])
        if not self.enabled:
            return self._encode([head + text for text in texts])
        head_ids = [known[first] for first in first_chars]
        whole_ids = self._encode([head + text for ids, text in zip(head_ids, texts, strict=True) if ids is None])
        text_ids = self._encode_without_head(
            [text for ids, text in zip(head_ids, texts, strict=True) if ids is not None]
        )
        next_text_ids, next_whole_ids = iter(text_ids), iter(whole_ids)
        return [next(next_whole_ids) if ids is None else [*ids, *next(next_text_ids)] for ids in head_ids]

    def _clear_heads(self) -> None:
        self._heads.clear()
        self._interned_ids.clear()

    def _learn_head(self, head: str, texts: Sequence[str]) -> None:
        """Cache the head's ids for the first character of each text, and check that both ways give the same ids."""
        if not texts:
            return
        known = self._heads[head]
        known.update({text[:1]: None for text in texts if not _starts_at_boundary(text)})
        checked = [text[:_CHECKED_CHARS] for text in texts if _starts_at_boundary(text)]
        whole_ids = self._encode([head + text for text in checked])
        for text, ids, text_ids in zip(checked, whole_ids, self._encode_without_head(checked), strict=True):
            head_ids = tuple(ids[: len(ids) - len(text_ids)])
            head_ids = self._interned_ids.setdefault(head_ids, head_ids)
            if [*head_ids, *text_ids] != ids or known.setdefault(text[:1], head_ids) != head_ids:
                log.warning("the tokenizer does not split text as tokenizer.json declares; fast prompt encoding is off")
                self.enabled = False
                return

    def _encode_without_head(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text without its head, from cached words where the words are short."""
        results: list[list[int] | None] = [None] * len(texts)
        indices = [
            i
            for i, text in enumerate(texts)
            if text.count(" ") * _MAX_MEAN_WORD_CHARS >= len(text) and "\0" not in text
        ]
        if len(self._word_ids) > _MAX_WORDS:
            self._word_ids = _WordCache(dict(self._word_ids))
        unknown = self._look_up(((index, _split_words(texts[index])) for index in indices), results)
        self._learn_words(dict.fromkeys(chain.from_iterable([words for _, words in unknown])))
        self._look_up(unknown, results)
        whole_ids = iter(self._encode([text for text, ids in zip(texts, results, strict=True) if ids is None]))
        return [next(whole_ids) if ids is None else ids for ids in results]

    def _look_up(self, texts: Iterable[IndexedWords], ids: list[list[int] | None]) -> list[IndexedWords]:
        """Fill in the ids of the texts whose words are all cached; return the texts with an unknown word."""
        unknown, ids_of = [], self._word_ids.__getitem__
        for text in texts:
            try:
                ids[text[0]] = [*chain.from_iterable(map(ids_of, text[1]))]  # type: ignore[arg-type]
            except KeyError:
                unknown.append(text)
            except TypeError:  # None: a word that cannot be encoded alone
                continue
        return unknown

    def _learn_words(self, words: Iterable[str]) -> None:
        """Encode and cache words, many per call: encoding each alone would take twice the time."""
        known, older = self._word_ids, self._word_ids.older
        new_words = [word for word in words if word not in known and word not in older and len(word) <= _MAX_WORD_CHARS]
        known.update((word, None) for word in new_words if not _is_independent(word))
        independent = [word for word in new_words if word not in known]
        for separator in ("", _SEPARATOR):
            group = [word for word in independent if word.startswith(" ") is (separator == "")]
            rows = [group[start : start + _WORDS_PER_CALL] for start in range(0, len(group), _WORDS_PER_CALL)]
            encodings = self._backend.encode_batch([separator.join(row) for row in rows], add_special_tokens=False)
            for row, encoding in zip(rows, encodings, strict=True):
                ids, token_starts = encoding.ids, [start for start, _ in encoding.offsets]
                word_starts = accumulate([len(word) + len(separator) for word in row], initial=0)
                for word, word_start in zip(row, word_starts, strict=False):
                    start, end = (
                        bisect_left(token_starts, word_start),
                        bisect_left(token_starts, word_start + len(word)),
                    )
                    known[word] = tuple(ids[start:end])


def _split_words(text: str) -> list[str]:
    """Split a text into words; all but the first include the space before them."""
    return text.replace(" ", "\0 ").split("\0")


def _is_independent(word: str) -> bool:
    word = word.removeprefix(" ")
    return _starts_at_boundary(word) and _starts_at_boundary(word[-1])


def _ends_at_boundary(head: str) -> bool:
    return head.endswith("\n") and not any(unicodedata.category(char)[0] == "N" for char in head)


def _starts_at_boundary(text: str) -> bool:
    """Return whether the first character is certainly not white space, in every Unicode version."""
    first = text[:1]
    return first.isalnum() or (bool(first) and unicodedata.category(first)[0] in "LMNPS")


def supports_incremental(content: dict[str, Any]) -> bool:
    """Return whether tokenizer.json guarantees that the tokenizer splits between a head and a text."""
    model = content.get("model") or {}
    if content.get("normalizer") or model.get("type") != "BPE" or model.get("dropout"):
        return False
    pre_tokenizer = content.get("pre_tokenizer") or {}
    steps = pre_tokenizer.get("pretokenizers", []) if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    splits_words = False
    for step in steps:
        if step.get("type") == "ByteLevel" and step is not steps[-1]:
            return False  # later steps would see other characters
        alternatives = _alternatives(step)
        if alternatives is None or not (
            splits_words or r"\s+" in alternatives or set(alternatives) <= set(_RUN_PATTERNS)
        ):
            return False
        splits_words = splits_words or r"\s+" in alternatives
    return splits_words


def _alternatives(step: dict[str, Any]) -> list[str] | None:
    """Return the alternatives of a pre-tokenizer step's pattern; None if one of them is unknown."""
    if step.get("type") == "ByteLevel" and step.get("add_prefix_space") is False:
        return list(_GPT2_PATTERNS) if step.get("use_regex", True) else []
    pattern = (step.get("pattern") or {}).get("Regex")
    if step.get("type") != "Split" or step.get("behavior") != "Isolated" or step.get("invert") or pattern is None:
        return None
    alternatives: list[str] = []
    remaining = pattern.replace("\r", r"\r").replace("\n", r"\n") + "|"
    while remaining:
        alternative = next(
            (
                alternative
                for alternative in (*_RUN_PATTERNS, *_WORD_PATTERNS)
                if remaining.startswith(alternative + "|")
            ),
            None,
        )
        if alternative is None:
            return None
        alternatives.append(alternative)
        remaining = remaining[len(alternative) + 1 :]
    return alternatives
