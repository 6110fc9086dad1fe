"""A look at a whole corpus for a plan: rows, characters, tokens, duplicates, a sample. Memory does not grow with it.

Every row is read; tokens are counted exactly for the first rows and for every 64th after them, and the rest is reckoned
from characters. Duplicates are counted within a shard, as the job decodes equal rows once; a row that differs only in
white space around it or in how its language is written may count as one more than the job will decode.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hymt_batch.blank import is_blank
from hymt_batch.errors import TextError
from hymt_batch.records import Document, Shard, Status

COUNT_STRIDE = 64
GROUP_ROWS = 256
"""Rows whose ratio of tokens to characters is one observation, for the error of the estimate."""


@dataclass(slots=True)
class CorpusStats:
    """What was found."""

    files: int = 0
    rows: int = 0
    blank_rows: int = 0  # copied, not translated
    refused_rows: int = 0  # too long, or not readable as text
    duplicate_rows: int = 0  # equal to an earlier row of their shard, decoded once with it
    decoded_rows: int = 0
    characters: int = 0  # of the rows that are decoded
    tokens: int | None = None  # of the rows that are decoded; None where the tokenizer is not at hand
    tokens_error: float = 0.0  # standard error of `tokens`, as a share; 0 where every row was counted
    counted_rows: int = 0  # whose tokens were counted
    sample: list[Document] = field(default_factory=list)  # drawn evenly from the rows that are decoded


def compute_corpus_stats(
    shards: Iterable[Shard],
    count_tokens: Callable[[str], int] | None,
    *,
    count_rows: int,
    num_sample: int = 0,
    seed: int = 0,
) -> CorpusStats:
    """Read a corpus once.

    Args:
        shards: All of it.
        count_tokens: Tokens of a text; None where the tokenizer is not at hand.
        count_rows: Rows whose tokens are counted before only every 64th is.
        num_sample: Rows to draw for a measured run.
        seed: Of that draw.
    """
    found, rng = CorpusStats(), random.Random(seed)
    tokens = counted_characters = 0
    ratios: list[tuple[int, int]] = []  # characters and tokens of each group of counted rows
    files = set()
    for shard in shards:
        files.add(shard.input.rel)
        seen: set[tuple[str | None, str | None, str | None]] = set()
        for document in shard.documents:
            found.rows += 1
            text = document.text
            if text is None or document.status is not Status.OK:
                found.refused_rows += 1
                continue
            if is_blank(text):
                found.blank_rows += 1
                continue
            key = (text.strip(), document.src_lang, document.tgt_lang)
            if key in seen:
                found.duplicate_rows += 1
                continue
            seen.add(key)
            found.decoded_rows += 1
            found.characters += len(text)
            if len(found.sample) < num_sample:
                found.sample.append(document)
            elif num_sample and (place := rng.randrange(found.decoded_rows)) < num_sample:
                found.sample[place] = document
            if count_tokens and (found.counted_rows < count_rows or found.decoded_rows % COUNT_STRIDE == 0):
                try:
                    number = count_tokens(text)
                except TextError:  # the job will refuse the row
                    continue
                tokens, counted_characters = tokens + number, counted_characters + len(text)
                if found.counted_rows % GROUP_ROWS == 0:
                    ratios.append((0, 0))
                ratios[-1] = (ratios[-1][0] + len(text), ratios[-1][1] + number)
                found.counted_rows += 1
    found.files = len(files)
    if count_tokens:
        found.tokens = tokens
        if found.counted_rows < found.decoded_rows:
            found.tokens = round(tokens * found.characters / max(1, counted_characters))
            found.tokens_error = _relative_error(ratios, 1 - counted_characters / found.characters)
    return found


def _relative_error(groups: list[tuple[int, int]], unseen_share: float) -> float:
    """Standard error of a ratio of sums over groups, as a share of it."""
    if len(groups) < 2:
        return 1.0
    characters, tokens = (sum(column) for column in zip(*groups, strict=True))
    if not tokens:
        return 1.0
    ratio = tokens / characters
    spread = sum((number - ratio * size) ** 2 for size, number in groups) / (len(groups) - 1)
    return float(unseen_share * math.sqrt(spread / len(groups)) / (tokens / len(groups)))
