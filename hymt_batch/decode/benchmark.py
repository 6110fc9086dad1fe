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

from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.model.prepare import LoadedModel

GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)
INSTRUCTION_TOKENS = 13
PREFILL_ROWS = 512
GEMM_ROWS = (1, 2, 4, 8, 16, 24, 32, 48)  # rows at which products are timed, besides those of a full step
REPEATS = 3
MEDIAN_LENGTH, LENGTH_SIGMA, MIN_LENGTH, MAX_LENGTH = 28, 0.55, 4, 120


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded."""

    prompts: list[list[int]]
    output_lengths: list[int]  # new tokens of each row, exactly

    @property
    def num_new_tokens(self) -> int:
        return sum(self.output_lengths)


def make_workload(num: int, vocab_size: int, seed: int) -> Workload:
    """Rows of `num` segments in the order of a corpus, which is no order of lengths."""
    rng = random.Random(seed)
    instruction = [rng.randrange(1, vocab_size) for _ in range(INSTRUCTION_TOKENS)]
    prompts, limits = [], []
    for _ in range(num):
        length = min(MAX_LENGTH, max(MIN_LENGTH, round(math.exp(rng.gauss(math.log(MEDIAN_LENGTH), LENGTH_SIGMA)))))
        prompts.append([*instruction, *(rng.randrange(1, vocab_size) for _ in range(length))])
        limits.append(min(150, max(4, round(length * rng.uniform(0.75, 1.3)) + 2)))
    return Workload(prompts, limits)


Engine = Callable[[Workload], list[list[int]]]


def slot_engine(
    hymt: LoadedModel,
    max_rows: int,
    counters: Counters,
    packed: AbstractContextManager[object],
    graph_runner: CudaGraphRunner | None = None,
    read_every: int = 1,
) -> Engine:
    """Ours, with the products of `packed`, and with captured steps if asked for; the counters are of the last run."""

    def run(work: Workload) -> list[list[int]]:
        fresh = Counters()
        seeds = [0] * len(work.prompts)
        with packed:
            made, _ = decode_prompts(
                hymt,
                work.prompts,
                work.output_lengths,
                seeds,
                GREEDY,
                lambda: None,
                max_rows=max_rows,
                max_tokens=1 << 30,
                counters=fresh,
                graph_runner=graph_runner,
                read_every=read_every,
            )
        for name in Counters.__dataclass_fields__:
            setattr(counters, name, getattr(fresh, name))
        return [row.ids for row in made]

    return run


def part_engine(engine: Engine, part_rows: int) -> Engine:
    """An engine over one part after another, as a job runs it: rows sorted by length, each part drained to its end."""

    def run(work: Workload) -> list[list[int]]:
        order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
        made: dict[int, list[int]] = {}
        for start in range(0, len(order), part_rows):
            some = order[start : start + part_rows]
            part = Workload([work.prompts[n] for n in some], [work.output_lengths[n] for n in some])
            made.update(zip(some, engine(part), strict=True))
        return [made[n] for n in range(len(order))]

    return run


def batch_engine(hymt: LoadedModel, max_rows: int, *, by_length: bool) -> Engine:
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
                [work.output_lengths[n] for n in group],
                [0] * len(group),
                GREEDY,
                lambda: None,
            )
            made.update(zip(group, (row.ids for row in rows), strict=True))
        return [made[n] for n in range(len(order))]

    return run


def pipeline_engine(hymt: LoadedModel, max_rows: int) -> Engine:
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
        limits = [
            work.output_lengths[start : start + max_rows] for start in range(0, len(work.output_lengths), max_rows)
        ]
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
            max_new_tokens=max(work.output_lengths),
            stopping_criteria=transformers.StoppingCriteriaList([ended]),
        )
        rows = []
        for number, one in enumerate(made):
            padded = lengths[number // max_rows]
            rows.append(list(one[0]["generated_token_ids"])[padded : padded + work.output_lengths[number]])
        return rows

    return run


@dataclass(slots=True)
class Result:
    """One engine's runs."""

    name: str
    seconds: list[float] = field(default_factory=list)
    equal_rows: int = 0  # to batch-1 generate
    compared_rows: int = 0


TokensByEngine = dict[str, list[list[int]]]
"""Engine -> tokens of each row."""


def synchronize(hymt: LoadedModel) -> None:
    """Wait for what a GPU is still at."""
    import torch

    if hymt.device.startswith("cuda"):
        torch.cuda.synchronize(hymt.device)


def run_rounds(
    hymt: LoadedModel, engines: dict[str, Engine], work: Workload, rounds: int, report: Callable[[str], object] = str
) -> tuple[dict[str, Result], TokensByEngine]:
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
    made: TokensByEngine = {}
    for number in range(1, rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            made[name] = engine(work)
            synchronize(hymt)
            results[name].seconds.append(time.perf_counter() - began)
            report(f"round {number} of {rounds}: {name} {results[name].seconds[-1]:.2f} s")
    return results, made


def compare_tokens(
    hymt: LoadedModel, work: Workload, tokens: TokensByEngine, results: dict[str, Result], num_rows: int
) -> None:
    """Compare each engine's tokens with `generate` of one row at a time, over `rows` rows spread evenly."""
    step = max(1, len(work.prompts) // num_rows)
    alone = batch_engine(hymt, 1, by_length=False)
    for number in range(0, len(work.prompts), step):
        (wanted,) = alone(Workload([work.prompts[number]], [work.output_lengths[number]]))
        for name, rows_made in tokens.items():
            results[name].compared_rows += 1
            results[name].equal_rows += rows_made[number] == wanted


@dataclass(frozen=True, slots=True)
class GemmBound:
    """Seconds that the matrix products of a run take alone, all else for nothing."""

    plain: float  # torch's plain products, at the very rows of each step
    best: float  # the faster of plain and packed ones
    full: float  # the faster ones, as if every step's rows cost what they cost in a full one


def measure_gemm_bound(
    hymt: LoadedModel, counters: Counters, num_slots: int, packed: AbstractContextManager[object]
) -> GemmBound:
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
    grid = sorted({*(rows for rows in GEMM_ROWS if rows < most), most})

    def timed(modules: Sequence[Any], rows: int) -> float:
        widths = {one.in_features for one in modules}
        inputs = {width: torch.randn(rows, width).to(head.weight.device, head.weight.dtype) for width in widths}
        best = math.inf
        for _ in range(REPEATS):
            began = time.perf_counter()
            for one in modules:
                one(inputs[one.in_features])
            synchronize(hymt)
            best = min(best, time.perf_counter() - began)
        return best

    def whole() -> tuple[float, float]:
        costs = {rows: timed([*layers, head], rows) for rows in grid}
        prompts = (counters.prefill_tokens + counters.prefix_tokens) * timed(layers, PREFILL_ROWS) / PREFILL_ROWS
        first = counters.first_tokens * timed([head], num_slots) / num_slots
        steps = sum(number * interpolate(costs, rows) for rows, number in counters.steps_of_rows.items())
        return prompts + first + steps, prompts + first + counters.row_steps * costs[most] / most

    with torch.inference_mode():
        plain, plain_full = whole()
        with packed:
            fast, fast_full = whole()
    return GemmBound(plain, min(plain, fast), min(plain_full, fast_full))


def interpolate(costs: dict[int, float], num_rows: int) -> float:
    """Cost of so many rows, in a straight line between those that were measured."""
    above = min(one for one in costs if one >= num_rows)
    below = max((one for one in costs if one <= num_rows), default=above)
    if above == below:
        return costs[above]
    return costs[below] + (costs[above] - costs[below]) * (num_rows - below) / (above - below)
