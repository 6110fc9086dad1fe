"""A short measured run: how fast batches decode, with a confidence interval."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hymt_batch.decode.decoder import Decoder
from hymt_batch.records import Prompt

MIN_BATCHES = 3
"""Minimum number of measured batches, however long they take; two are too few to estimate the spread."""

NUM_FIRST_ROWS = 4
"""Rows that are decoded first, to estimate how many a batch may have."""


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One decoded batch."""

    rows: int
    source_tokens: int
    new_tokens: int
    seconds: float


def make_batches(prompts: Sequence[Prompt], max_rows: int, seed: int) -> list[list[int]]:
    """Return batches of indices into `prompts`, cut from prompts sorted by length, as a shard's parts, then shuffled.

    Args:
        prompts: All prompts of the sample.
        max_rows: Rows of a batch; it has fewer if there would be too few batches to measure.
        seed: Seed of the order.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index].ids), index))
    rows = max(1, min(max_rows, len(order) // (2 * MIN_BATCHES) or 1))
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]
    random.Random(seed).shuffle(batches)
    return batches


def time_batches(
    decoder: Decoder, prompts: Sequence[Prompt], part_rows: int, seconds: float, seed: int
) -> Iterator[BatchTiming]:
    """Decode a few rows to see how fast rows are, then batches of a size that leaves time for enough of them.

    Args:
        decoder: Decodes a batch as a job decodes a part.
        prompts: All prompts of the sample.
        part_rows: Rows of a part, the maximum of a batch.
        seconds: Time to run, in seconds; MIN_BATCHES + 1 batches are decoded in any case, if there are that many.
        seed: Seed of the order.

    Yields:
        The timing of each decoded batch; the few rows at the beginning are not among them.
    """
    began = time.monotonic()
    few = random.Random(seed).sample(range(len(prompts)), min(NUM_FIRST_ROWS, len(prompts)))
    first = _time_batch(decoder, prompts, few)
    # many rows at once are faster than a few, so that the batches take less than their share of the time, not more
    rows_in_time = (seconds - first.seconds) / (MIN_BATCHES + 1) / max(1e-9, first.seconds) * first.rows
    batches = make_batches(prompts, max(1, min(part_rows, int(rows_in_time))), seed)
    for num_batches, indices in enumerate(batches, 1):
        yield _time_batch(decoder, prompts, indices)
        if time.monotonic() - began > seconds and num_batches > MIN_BATCHES:
            return


def _time_batch(decoder: Decoder, prompts: Sequence[Prompt], indices: Sequence[int]) -> BatchTiming:
    start = time.monotonic()
    translations = decoder.run([prompts[index] for index in indices])
    return BatchTiming(
        len(indices),
        sum(prompts[index].num_source_tokens for index in indices),
        sum(translation.num_new_tokens for translation in translations),
        time.monotonic() - start,
    )


def throughput_interval(batches: Sequence[BatchTiming], seed: int) -> tuple[float, float, float]:
    """Return source tokens per second (5th percentile, measured value, 95th percentile), by bootstrap over batches."""
    rng = random.Random(seed)

    def rate(drawn: Sequence[BatchTiming]) -> float:
        return sum(batch.source_tokens for batch in drawn) / max(1e-9, sum(batch.seconds for batch in drawn))

    cuts = statistics.quantiles([rate(rng.choices(batches, k=len(batches))) for _ in range(1000)], n=20)
    return cuts[0], rate(batches), cuts[-1]
