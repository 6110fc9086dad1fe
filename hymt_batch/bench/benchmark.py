"""Compare decoding engines: a fixed workload, interleaved rounds, exact counters, and the arithmetic lower bound.

Prompt lengths follow news sentences (log-normal, median 28 source tokens) after a common instruction. Each row is
forced to end at its own length, so that every engine generates the same number of tokens. Uses no files and no
tokenizer.
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
from hymt_batch.decode.engine import EngineContext
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.model.prepare import LoadedModel

INSTRUCTION_TOKENS = 13
PREFILL_ROWS = 512
GEMM_ROWS = (1, 2, 4, 8, 16, 24, 32, 48)  # row counts at which matrix products are timed, besides that of a full step
REPEATS = 3
MEDIAN_LENGTH, LENGTH_SIGMA, MIN_LENGTH, MAX_LENGTH = 28, 0.55, 4, 120


@dataclass(frozen=True, slots=True)
class Workload:
    """The rows that every engine decodes."""

    prompts: list[list[int]]
    output_lengths: list[int]  # exact number of new tokens of each row

    @property
    def num_new_tokens(self) -> int:
        return sum(self.output_lengths)


def make_workload(num: int, vocab_size: int, seed: int) -> Workload:
    """Make `num` rows in corpus order, that is, not sorted by length."""
    rng = random.Random(seed)
    instruction = [rng.randrange(1, vocab_size) for _ in range(INSTRUCTION_TOKENS)]
    prompts, limits = [], []
    for _ in range(num):
        length = min(MAX_LENGTH, max(MIN_LENGTH, round(math.exp(rng.gauss(math.log(MEDIAN_LENGTH), LENGTH_SIGMA)))))
        prompts.append([*instruction, *(rng.randrange(1, vocab_size) for _ in range(length))])
        limits.append(min(150, max(4, round(length * rng.uniform(0.75, 1.3)) + 2)))
    return Workload(prompts, limits)


def requests(work: Workload) -> list[Request]:
    return [Request(ids, num, 0, GREEDY) for ids, num in zip(work.prompts, work.output_lengths, strict=True)]


Engine = Callable[[Workload], list[list[int]]]


def slot_engine(
    hymt: LoadedModel,
    max_rows: int,
    counters: Counters,
    packed: AbstractContextManager[object],
    graph_runner: CudaGraphRunner | None = None,
    read_every: int = 1,
) -> Engine:
    """Make an engine that runs our slot engine inside `packed`, with captured steps if `graph_runner` is given.

    `counters` holds the counts of the last run.
    """

    context = EngineContext(
        load=lambda: hymt,
        model=None,
        tokenizer=hymt.tokenizer,
        settings=DecodeConfig(read_every=read_every),
        sampling_params=GREEDY,
        max_rows=max_rows,
        max_tokens=1 << 30,
    )
    engine = SlotEngine(context, graph_runner)

    def run(work: Workload) -> list[list[int]]:
        engine.counters = Counters()
        with packed:
            completions = engine.generate(requests(work), lambda: None)
        for name in Counters.__dataclass_fields__:
            setattr(counters, name, getattr(engine.counters, name))
        return [row.ids for row in completions]

    return run


def part_engine(engine: Engine, part_rows: int) -> Engine:
    """Make an engine that runs `engine` part by part, as a job does: rows sorted by length, parts one after another."""

    def run(work: Workload) -> list[list[int]]:
        order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
        tokens: dict[int, list[int]] = {}
        for start in range(0, len(order), part_rows):
            indices = order[start : start + part_rows]
            part = Workload([work.prompts[n] for n in indices], [work.output_lengths[n] for n in indices])
            tokens.update(zip(indices, engine(part), strict=True))
        return [tokens[n] for n in range(len(order))]

    return run


def batch_engine(hymt: LoadedModel, max_rows: int, *, by_length: bool) -> Engine:
    """Make an engine that runs `model.generate` on batches, sorted by length or in corpus order (as a pipeline does).

    Each batch runs until its longest row has ended. Tokenization time is not included; this favours the pipeline.
    """

    def run(work: Workload) -> list[list[int]]:
        order = list(range(len(work.prompts)))
        if by_length:
            order.sort(key=lambda n: (-len(work.prompts[n]), n))
        tokens: dict[int, list[int]] = {}
        for start in range(0, len(order), max_rows):
            group = order[start : start + max_rows]
            rows = decode_batch(hymt, [requests(work)[n] for n in group], lambda: None)
            tokens.update(zip(group, (row.ids for row in rows), strict=True))
        return [tokens[n] for n in range(len(order))]

    return run


def pipeline_engine(hymt: LoadedModel, max_rows: int) -> Engine:
    """Make an engine from transformers' text-generation pipeline; its tokenizer has one word for each token id."""
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
        lengths: list[int] = []  # padded prompt length of each batch
        over = [True]  # True once the current batch has ended

        def ended(ids: Any, scores: Any, **kwargs: Any) -> Any:
            if over[0]:
                lengths.append(ids.shape[1] - 1)
            rows = torch.tensor(limits[len(lengths) - 1], device=ids.device) <= ids.shape[1] - lengths[-1]
            over[0] = bool(rows.all())
            return rows

        texts = (" ".join(f"w{token}" for token in prompt) for prompt in work.prompts)
        outputs = pipe(
            list(texts),
            batch_size=max_rows,
            return_tensors=True,
            do_sample=False,
            max_new_tokens=max(work.output_lengths),
            stopping_criteria=transformers.StoppingCriteriaList([ended]),
        )
        rows = []
        for index, output in enumerate(outputs):
            padded = lengths[index // max_rows]
            rows.append(list(output[0]["generated_token_ids"])[padded : padded + work.output_lengths[index]])
        return rows

    return run


@dataclass(slots=True)
class Result:
    """Times of one engine, and how many of the compared rows are correct."""

    name: str
    seconds: list[float] = field(default_factory=list)
    equal_rows: int = 0  # compared rows whose tokens equal those of `generate`, run one row at a time
    compared_rows: int = 0


TokensByEngine = dict[str, list[list[int]]]
"""Engine name -> tokens of each row."""


def synchronize(hymt: LoadedModel) -> None:
    """Wait until a GPU has finished its queued work."""
    import torch

    if hymt.device.startswith("cuda"):
        torch.cuda.synchronize(hymt.device)


def run_rounds(
    hymt: LoadedModel, engines: dict[str, Engine], work: Workload, rounds: int, report: Callable[[str], object] = str
) -> tuple[dict[str, Result], TokensByEngine]:
    """Run all engines in turn, round after round; the first round is the warm-up, but its times are kept too.

    Args:
        hymt: The network.
        engines: Engines to run, by name.
        work: The rows.
        rounds: Number of runs of each engine.
        report: Called with a progress line after each run.

    Returns:
        The results, and the tokens of the last round, both by engine name.
    """
    results = {name: Result(name) for name in engines}
    tokens: TokensByEngine = {}
    for round_number in range(1, rounds + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            tokens[name] = engine(work)
            synchronize(hymt)
            results[name].seconds.append(time.perf_counter() - began)
            report(f"round {round_number} of {rounds}: {name} {results[name].seconds[-1]:.2f} s")
    return results, tokens


def compare_tokens(
    hymt: LoadedModel, work: Workload, tokens: TokensByEngine, results: dict[str, Result], num_rows: int
) -> None:
    """Compare each engine's tokens with `generate`, run one row at a time on about `num_rows` evenly spread rows."""
    step = max(1, len(work.prompts) // num_rows)
    alone = batch_engine(hymt, 1, by_length=False)
    for index in range(0, len(work.prompts), step):
        (expected,) = alone(Workload([work.prompts[index]], [work.output_lengths[index]]))
        for name, tokens_by_row in tokens.items():
            results[name].compared_rows += 1
            results[name].equal_rows += tokens_by_row[index] == expected


@dataclass(frozen=True, slots=True)
class GemmBound:
    """Lower bounds on the seconds of a run: its matrix products alone, as if all other work took no time."""

    plain: float  # torch's plain products, at the exact row count of each step
    best: float  # the faster of plain and packed products
    full: float  # the faster products, if each row cost as much as it does in a full step


def measure_gemm_bound(
    hymt: LoadedModel, counters: Counters, num_slots: int, packed: AbstractContextManager[object]
) -> GemmBound:
    """Time the matrix products of a run at their exact shapes; each time is the best of `REPEATS`.

    Args:
        hymt: The network.
        counters: Counters of the run whose work is measured.
        num_slots: Rows of a full step.
        packed: Context in which the network uses the fastest known products.
    """
    import torch

    head = hymt.network.lm_head
    layers = [module for module in hymt.network.model.modules() if isinstance(module, torch.nn.Linear)]
    largest = max([num_slots, *counters.steps_of_rows])
    grid = sorted({*(rows for rows in GEMM_ROWS if rows < largest), largest})

    def timed(modules: Sequence[Any], rows: int) -> float:
        widths = {module.in_features for module in modules}
        inputs = {width: torch.randn(rows, width).to(head.weight.device, head.weight.dtype) for width in widths}
        best = math.inf
        for _ in range(REPEATS):
            began = time.perf_counter()
            for module in modules:
                module(inputs[module.in_features])
            synchronize(hymt)
            best = min(best, time.perf_counter() - began)
        return best

    def total_seconds() -> tuple[float, float]:
        costs = {rows: timed([*layers, head], rows) for rows in grid}
        prompts = (counters.prefill_tokens + counters.prefix_tokens) * timed(layers, PREFILL_ROWS) / PREFILL_ROWS
        first = counters.first_tokens * timed([head], num_slots) / num_slots
        steps = sum(num_steps * interpolate(costs, rows) for rows, num_steps in counters.steps_of_rows.items())
        return prompts + first + steps, prompts + first + counters.row_steps * costs[largest] / largest

    with torch.inference_mode():
        plain, plain_full = total_seconds()
        with packed:
            fast, fast_full = total_seconds()
    return GemmBound(plain, min(plain, fast), min(plain_full, fast_full))


def interpolate(costs: dict[int, float], num_rows: int) -> float:
    """Return the cost of `num_rows` rows, linearly interpolated between the measured row counts."""
    above = min(measured for measured in costs if measured >= num_rows)
    below = max((measured for measured in costs if measured <= num_rows), default=above)
    if above == below:
        return costs[above]
    return costs[below] + (costs[above] - costs[below]) * (num_rows - below) / (above - below)
