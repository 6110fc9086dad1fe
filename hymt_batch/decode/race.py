"""Engines against one another: a fixed workload, interleaved rounds, exact counters, and the arithmetic floor.

Lengths are those of news sentences (log-normal, median 28 source tokens) behind a common instruction, and each row ends
at a length of its own, forced, so that every engine makes the same tokens. Knows no file and no tokenizer.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.decode.captured import Captured
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.rows import Counters
from hymt_batch.decode.sampling import Choice
from hymt_batch.decode.slots import decode_rows
from hymt_batch.model.network import Hymt

GREEDY = Choice(False, 1.0, 1.0, 0, 1.0)
INSTRUCTION_TOKENS = 13
PROMPT_ROWS = 512
GRID = (1, 2, 4, 8, 16, 24, 32, 48)  # rows at which products are timed, besides those of a full step
REPEATS = 3
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


def in_slots(
    hymt: Hymt,
    max_rows: int,
    counters: Counters,
    packed: AbstractContextManager[object],
    captured: Captured | None = None,
    read_every: int = 1,
) -> Engine:
    """Ours, with the products of `packed`, and with captured steps if asked for; the counters are of the last run."""

    def run(work: Workload) -> list[list[int]]:
        fresh = Counters()
        seeds = [0] * len(work.prompts)
        with packed:
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
                captured=captured,
                read_every=read_every,
            )
        for name in Counters.__dataclass_fields__:
            setattr(counters, name, getattr(fresh, name))
        return [row.ids for row in made]

    return run


def in_parts(engine: Engine, part_rows: int) -> Engine:
    """An engine over one part after another, as a job runs it: rows sorted by length, each part drained to its end."""

    def run(work: Workload) -> list[list[int]]:
        order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
        made: dict[int, list[int]] = {}
        for start in range(0, len(order), part_rows):
            some = order[start : start + part_rows]
            part = Workload([work.prompts[n] for n in some], [work.limits[n] for n in some])
            made.update(zip(some, engine(part), strict=True))
        return [made[n] for n in range(len(order))]

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


def in_pipeline(hymt: Hymt, max_rows: int) -> Engine:
    """transformers' own text-generation pipeline, with a tokenizer of one word a token and texts of such words."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(hymt.vocab_size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: Any = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="w0", padding_side="left", clean_up_tokenization_spaces=False
    )
    pipe: Any = transformers.pipeline("text-generation", model=hymt.network, tokenizer=tokenizer)

    def run(work: Workload) -> list[list[int]]:
        limits = [work.limits[start : start + max_rows] for start in range(0, len(work.limits), max_rows)]
        lengths: list[int] = []  # of the batches' padded prompts
        over = [True]  # the batch that the pipeline is at

        def ended(ids: Any, scores: Any, **kwargs: Any) -> Any:
            if over[0]:
                lengths.append(ids.shape[1] - 1)
            rows = torch.tensor(limits[len(lengths) - 1], device=ids.device) <= ids.shape[1] - lengths[-1]
            over[0] = bool(rows.all())
            return rows

        texts = (" ".join(f"w{token}" for token in prompt) for prompt in work.prompts)
        made = pipe(
            list(texts),
            batch_size=max_rows,
            return_tensors=True,
            do_sample=False,
            max_new_tokens=max(work.limits),
            stopping_criteria=transformers.StoppingCriteriaList([ended]),
        )
        rows = []
        for number, one in enumerate(made):
            padded = lengths[number // max_rows]
            rows.append(list(one[0]["generated_token_ids"])[padded : padded + work.limits[number]])
        return rows

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


def settle(hymt: Hymt) -> None:
    """Wait for what a GPU is still at."""
    import torch

    if hymt.device.startswith("cuda"):
        torch.cuda.synchronize(hymt.device)


def race(
    hymt: Hymt, engines: dict[str, Engine], work: Workload, rounds: int, tell: Callable[[str], object] = str
) -> tuple[dict[str, Result], Made]:
    """Run all engines in turn, round after round; the first round warms up as well as it counts.

    Args:
        hymt: The network.
        engines: What to run, by name.
        work: The rows.
        rounds: How often each runs.
        tell: Called with a line after each run.

    Returns:
        Results and the tokens of the last round, by engine.
    """
    results = {name: Result(name) for name in engines}
    made: Made = {}
    for number in range(1, rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            made[name] = engine(work)
            settle(hymt)
            results[name].seconds.append(time.perf_counter() - began)
            tell(f"round {number} of {rounds}: {name} {results[name].seconds[-1]:.2f} s")
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


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds that the matrix products of a run take alone, all else for nothing."""

    plain: float  # torch's plain products, at the very rows of each step
    best: float  # the faster of plain and packed ones
    full: float  # the faster ones, as if every step's rows cost what they cost in a full one


def floor(hymt: Hymt, counters: Counters, num_slots: int, packed: AbstractContextManager[object]) -> Floor:
    """Measure now what the products of a run cost at their very shapes; the best of `REPEATS`.

    Args:
        hymt: The network.
        counters: Of the run whose work is meant.
        num_slots: Rows of a full step.
        packed: The fastest products that are known.
    """
    import torch

    head = hymt.network.lm_head
    layers = [one for one in hymt.network.model.modules() if isinstance(one, torch.nn.Linear)]
    most = max([num_slots, *counters.steps_of_rows])
    grid = sorted({*(rows for rows in GRID if rows < most), most})

    def timed(modules: Sequence[Any], rows: int) -> float:
        widths = {one.in_features for one in modules}
        inputs = {width: torch.randn(rows, width).to(head.weight.device, head.weight.dtype) for width in widths}
        best = math.inf
        for _ in range(REPEATS):
            began = time.perf_counter()
            for one in modules:
                one(inputs[one.in_features])
            settle(hymt)
            best = min(best, time.perf_counter() - began)
        return best

    def whole() -> tuple[float, float]:
        costs = {rows: timed([*layers, head], rows) for rows in grid}
        prompts = (counters.prefill_tokens + counters.prefix_tokens) * timed(layers, PROMPT_ROWS) / PROMPT_ROWS
        first = counters.first_tokens * timed([head], num_slots) / num_slots
        steps = sum(number * between(costs, rows) for rows, number in counters.steps_of_rows.items())
        return prompts + first + steps, prompts + first + counters.row_steps * costs[most] / most

    with torch.inference_mode():
        plain, plain_full = whole()
        with packed:
            fast, fast_full = whole()
    return Floor(plain, min(plain, fast), min(plain_full, fast_full))


def between(costs: dict[int, float], rows: int) -> float:
    """Cost of so many rows, in a straight line between those that were measured."""
    above = min(one for one in costs if one >= rows)
    below = max((one for one in costs if one <= rows), default=above)
    if above == below:
        return costs[above]
    return costs[below] + (costs[above] - costs[below]) * (rows - below) / (above - below)
