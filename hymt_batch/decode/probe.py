"""A short measured run: how fast batches decode, and how sure that is. Does not know a corpus."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hymt_batch.decode.engine import Decoder
from hymt_batch.records import Prompt

MIN_BATCHES = 3
"""Fewest that are measured, however long they take: two tell nothing of their spread."""


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One decoded batch."""

    rows: int
    source_tokens: int
    new_tokens: int
    seconds: float


def time_batches(
    decode: Decoder, prompts: Sequence[Prompt], batches: Sequence[Sequence[int]], seconds: float
) -> Iterator[BatchTiming]:
    """Decode batches in their order until the time is over.

    Args:
        decode: The engine of a loaded model.
        prompts: All of the sample.
        batches: Indices into `prompts`, drawn at random from the sample in the order of lengths.
        seconds: How long; one batch more than MIN_BATCHES is decoded in any case, as far as there are so many.
    """
    began = time.monotonic()
    for number, indices in enumerate(batches, 1):
        start = time.monotonic()
        made = decode.run([prompts[index] for index in indices])
        yield BatchTiming(
            len(indices),
            sum(prompts[index].num_source_tokens for index in indices),
            sum(one.num_new_tokens for one in made),
            time.monotonic() - start,
        )
        if time.monotonic() - began > seconds and number > MIN_BATCHES:
            return


def throughput_interval(batches: Sequence[BatchTiming], seed: int) -> tuple[float, float, float]:
    """Source tokens a second: 5th percentile, the measured one, 95th, over batches drawn again with replacement."""
    rng = random.Random(seed)

    def rate(drawn: Sequence[BatchTiming]) -> float:
        return sum(one.source_tokens for one in drawn) / max(1e-9, sum(one.seconds for one in drawn))

    cuts = statistics.quantiles([rate(rng.choices(batches, k=len(batches))) for _ in range(1000)], n=20)
    return cuts[0], rate(batches), cuts[-1]
