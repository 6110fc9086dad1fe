"""Measure a whole corpus for a plan, in constant memory: rows, characters, tokens, duplicates and a sample.

Every row is read. Tokens are counted exactly for the first rows and for every 64th row after them, and extrapolated
from characters for the other rows. Duplicates are counted within a shard, because the job decodes the equal rows of a
shard once. The count of decoded rows can be too high: rows that differ only in how their language is written count as
different here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hymt_batch.blank import is_blank
from hymt_batch.errors import TextError
from hymt_batch.records import Document, Shard, Status

COUNT_STRIDE = 64
GROUP_ROWS = 256
"""Rows in a group; the ratio of tokens to characters of a group is one observation for the error of the estimate."""


@dataclass(slots=True)
class CorpusStats:
    """The sizes of a corpus, and a sample of its rows."""

    files: int = 0
    formats: dict[str, int] = field(default_factory=dict)  # files by format
    rows: int = 0
    blank_rows: int = 0  # copied, not translated
    refused_rows: int = 0  # too long, or not readable as text
    duplicate_rows: int = 0  # equal to an earlier row of the same shard, so not decoded again
    decoded_rows: int = 0
    characters: int = 0  # in the decoded rows
    tokens: int | None = None  # in the decoded rows; None if no tokenizer is available
    tokens_error: float = 0.0  # standard error of `tokens`, as a share of it; 0 if every row was counted
    counted_rows: int = 0  # rows whose tokens were counted
    sample: list[Document] = field(default_factory=list)  # uniform random sample of the decoded rows


def compute_corpus_stats(
    shards: Iterable[Shard],
    count_tokens: Callable[[str], int] | None,
    *,
    count_rows: int,
    num_sample: int = 0,
    seed: int = 0,
) -> CorpusStats:
    """Read a corpus once and return its sizes.

    Args:
        shards: All shards of the corpus.
        count_tokens: Returns the number of tokens of a text; None if no tokenizer is available.
        count_rows: Number of first rows whose tokens are all counted; after them every 64th row is counted.
        num_sample: Number of rows in the sample.
        seed: Seed of the sample.
    """
    counter = _Counter(count_tokens, count_rows, num_sample, random.Random(seed))
    files: dict[str, str] = {}  # `rel` -> format
    for shard in shards:
        files[shard.input.rel] = shard.input.format
        counter.seen.clear()
        for document in shard.documents:
            counter.add(document)
    counter.stats.files, counter.stats.formats = len(files), dict(Counter(files.values()))
    if count_tokens:
        counter.extrapolate_tokens()
    return counter.stats


class _Counter:
    """Adds documents to the statistics one by one; the arguments are those of `compute_corpus_stats`."""

    def __init__(
        self, count_tokens: Callable[[str], int] | None, count_rows: int, num_sample: int, rng: random.Random
    ) -> None:
        self._count_tokens, self._count_rows, self._num_sample, self._rng = count_tokens, count_rows, num_sample, rng
        self.stats = CorpusStats()
        self.seen: set[tuple[str | None, str | None, str | None]] = set()  # texts of the shard
        self._tokens = self._counted_characters = 0
        self._ratios: list[tuple[int, int]] = []  # characters and tokens of each group of counted rows

    def add(self, document: Document) -> None:
        stats, text = self.stats, document.text
        if document.status is Status.NOT_SELECTED:
            return
        stats.rows += 1
        if text is None or document.status is not Status.OK:
            stats.refused_rows += 1
            return
        if is_blank(text):
            stats.blank_rows += 1
            return
        key = (text.strip(), document.src_lang, document.tgt_lang)
        if key in self.seen:
            stats.duplicate_rows += 1
            return
        self.seen.add(key)
        stats.decoded_rows += 1
        stats.characters += len(text)
        if len(stats.sample) < self._num_sample:
            stats.sample.append(document)
        elif self._num_sample and (position := self._rng.randrange(stats.decoded_rows)) < self._num_sample:
            stats.sample[position] = document
        if stats.counted_rows < self._count_rows or stats.decoded_rows % COUNT_STRIDE == 0:
            self._add_tokens(text)

    def _add_tokens(self, text: str) -> None:
        if self._count_tokens is None:
            return
        try:
            num_tokens = self._count_tokens(text)
        except TextError:  # the job reports the row as an error
            return
        self._tokens, self._counted_characters = self._tokens + num_tokens, self._counted_characters + len(text)
        if self.stats.counted_rows % GROUP_ROWS == 0:
            self._ratios.append((0, 0))
        self._ratios[-1] = (self._ratios[-1][0] + len(text), self._ratios[-1][1] + num_tokens)
        self.stats.counted_rows += 1

    def extrapolate_tokens(self) -> None:
        """Set the number of tokens from the counted rows, and its error if some were not counted."""
        stats = self.stats
        stats.tokens = self._tokens
        if stats.counted_rows < stats.decoded_rows:
            stats.tokens = round(self._tokens * stats.characters / max(1, self._counted_characters))
            stats.tokens_error = _relative_error(self._ratios, 1 - self._counted_characters / stats.characters)


def _relative_error(groups: list[tuple[int, int]], unseen_share: float) -> float:
    """Return the standard error of a ratio of sums over groups, as a share of the ratio."""
    if len(groups) < 2:
        return 1.0
    characters, tokens = (sum(column) for column in zip(*groups, strict=True))
    if not tokens:
        return 1.0
    ratio = tokens / characters
    spread = sum((num_tokens - ratio * num_characters) ** 2 for num_characters, num_tokens in groups) / (
        len(groups) - 1
    )
    return float(unseen_share * math.sqrt(spread / len(groups)) / (tokens / len(groups)))
