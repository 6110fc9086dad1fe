"""Engines against one another: a fixed workload, interleaved rounds, exact counters, and the arithmetic floor.

Lengths are those of news sentences (log-normal, median 28 source tokens) behind a common instruction, and each row ends
at a length of its own, forced, so that every engine makes the same tokens. Knows no file and no tokenizer.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.rows import Counters
from hymt_batch.decode.sampling import Choice
from hymt_batch.decode.slots import decode_rows
from hymt_batch.model.network import Hymt

GREEDY = Choice(False, 1.0, 1.0, 0, 1.0)
INSTRUCTION_TOKENS = 13
MEDIAN, SIGMA, SHORTEST, LONGEST = 28, 0.55, 4, 120


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded."""

    prompts: list[list[int]]
    limits: list[int]  # new tokens of each row, exactly

    @property
    def num_new_tokens(self) -> int:
        return sum(self.limits)


def workload(num: int, vocab_size: int, seed: int) -> Workload:
    """Rows of `num` segments in the order of a corpus, which is no order of lengths."""
    rng = random.Random(seed)
    instruction = [rng.randrange(1, vocab_size) for _ in range(INSTRUCTION_TOKENS)]
    prompts, limits = [], []
    for _ in range(num):
        length = min(LONGEST, max(SHORTEST, round(math.exp(rng.gauss(math.log(MEDIAN), SIGMA)))))
        prompts.append([*instruction, *(rng.randrange(1, vocab_size) for _ in range(length))])
        limits.append(min(150, max(4, round(length * rng.uniform(0.75, 1.3)) + 2)))
    return Workload(prompts, limits)


Engine = Callable[[Workload], list[list[int]]]


def in_slots(hymt: Hymt, max_rows: int, counters: Counters) -> Engine:
    """Ours. The counters are those of the last run."""

    def run(work: Workload) -> list[list[int]]:
        fresh = Counters()
        seeds = [0] * len(work.prompts)
        made, _ = decode_rows(
            hymt,
            work.prompts,
            work.limits,
            seeds,
            GREEDY,
            lambda: None,
            max_rows=max_rows,
            max_tokens=1 << 30,
            counters=fresh,
        )
        for name in Counters.__dataclass_fields__:
            setattr(counters, name, getattr(fresh, name))
        return [row.ids for row in made]

    return run


def in_batches(hymt: Hymt, max_rows: int, *, by_length: bool) -> Engine:
    """`model.generate` over batches: in the order of lengths, or in the corpus's order, as a pipeline does it.

    Each batch runs until its longest row has ended. Tokenizing is left out, which favours the pipeline.
    """

    def run(work: Workload) -> list[list[int]]:
        order = list(range(len(work.prompts)))
        if by_length:
            order.sort(key=lambda n: (-len(work.prompts[n]), n))
        made: dict[int, list[int]] = {}
        for start in range(0, len(order), max_rows):
            group = order[start : start + max_rows]
            rows = decode_batch(
                hymt,
                [work.prompts[n] for n in group],
                [work.limits[n] for n in group],
                [0] * len(group),
                GREEDY,
                lambda: None,
            )
            made.update(zip(group, (row.ids for row in rows), strict=True))
        return [made[n] for n in range(len(order))]

    return run


@dataclass(slots=True)
class Result:
    """One engine's runs."""

    name: str
    seconds: list[float] = field(default_factory=list)
    equal_rows: int = 0  # to batch-1 generate
    compared_rows: int = 0


Made = dict[str, list[list[int]]]
"""Engine -> tokens of each row."""


def race(engines: dict[str, Engine], work: Workload, rounds: int) -> tuple[dict[str, Result], Made]:
    """Run all engines in turn, round after round; the first round warms up as well as it counts.

    Returns:
        Results and the tokens of the last round, by engine.
    """
    results = {name: Result(name) for name in engines}
    made: Made = {}
    for _ in range(rounds):
        for name, engine in engines.items():
            began = time.perf_counter()
            made[name] = engine(work)
            results[name].seconds.append(time.perf_counter() - began)
    return results, made


def compare(hymt: Hymt, work: Workload, made: Made, results: dict[str, Result], rows: int) -> None:
    """Compare each engine's tokens with `generate` of one row at a time, over `rows` rows spread evenly."""
    step = max(1, len(work.prompts) // rows)
    alone = in_batches(hymt, 1, by_length=False)
    for number in range(0, len(work.prompts), step):
        (wanted,) = alone(Workload([work.prompts[number]], [work.limits[number]]))
        for name, rows_made in made.items():
            results[name].compared_rows += 1
            results[name].equal_rows += rows_made[number] == wanted


def floor_seconds(hymt: Hymt, counters: Counters, num_slots: int, repeats: int = 3) -> float:
    """Seconds that the matrix products alone take, measured now at their very shapes; the best of `repeats`.

    Args:
        hymt: The network.
        counters: Of the run whose work is meant.
        num_slots: Rows of a full step.
        repeats: How often.
    """
    import torch

    layers = [weight for name, weight in hymt.network.named_parameters() if weight.ndim == 2 and ".layers." in name]
    head = hymt.network.lm_head.weight
    dtype = head.dtype

    def timed(weights: Sequence[Any], rows: int) -> float:
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(dtype) for weight in weights}
        best = math.inf
        for _ in range(repeats):
            began = time.perf_counter()
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            best = min(best, time.perf_counter() - began)
        return best

    with torch.inference_mode():
        step = timed([*layers, head], num_slots) / num_slots
        prompt_rows = 512
        prefill = timed(layers, prompt_rows) / prompt_rows
        first = timed([head], num_slots) / num_slots
    num_rows = counters.first_tokens
    return counters.row_steps * step + (counters.prefill_tokens + counters.prefix_tokens) * prefill + num_rows * first
