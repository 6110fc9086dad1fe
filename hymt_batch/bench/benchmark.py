"""Compare decoding engines: a fixed workload, interleaved rounds, exact counters, and the arithmetic lower bound.

Prompt lengths follow news sentences (log-normal, median 28 source tokens) after a common instruction. Each row is
forced to end at its own length, so that every engine generates the same number of tokens. Uses no files and no
tokenizer.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from hymt_batch.bench.baselines.fixed_length import FixedLengthEngine
from hymt_batch.bench.own_process import OwnProcess
from hymt_batch.bench.timing import synchronize
from hymt_batch.decode import registry
from hymt_batch.decode.engine import Engine, EngineContext, find
from hymt_batch.decode.generate import GenerateEngine
from hymt_batch.decode.registry import InBenchmark
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.errors import Problem, first_line
from hymt_batch.model.loaded_model import LoadedModel

log = logging.getLogger(__name__)

TRIAL_ROWS = 3
INSTRUCTION_TOKENS = 13
PREFILL_ROWS = 512
GEMM_ROWS = (1, 2, 4, 8, 16, 24, 32, 48)  # row counts at which matrix products are timed, besides that of a full step
REPEATS = 3
MEDIAN_LENGTH, LENGTH_SIGMA, MIN_LENGTH, MAX_LENGTH = 28, 0.55, 4, 120


def make_workload(num: int, vocab_size: int, seed: int) -> list[Request]:
    """Make the requests that every engine decodes, in corpus order, that is, not sorted by length.

    The limit of each row is the exact number of its new tokens.
    """
    rng = random.Random(seed)
    instruction = [rng.randrange(1, vocab_size) for _ in range(INSTRUCTION_TOKENS)]
    requests = []
    for _ in range(num):
        length = min(MAX_LENGTH, max(MIN_LENGTH, round(math.exp(rng.gauss(math.log(MEDIAN_LENGTH), LENGTH_SIGMA)))))
        prompt = [*instruction, *(rng.randrange(1, vocab_size) for _ in range(length))]
        requests.append(Request(prompt, min(150, max(4, round(length * rng.uniform(0.75, 1.3)) + 2)), 0, GREEDY))
    return requests


def make_context(
    hymt: LoadedModel, max_rows: int, read_every: int = 1, vllm_python: str | None = None
) -> EngineContext:
    """Return what an engine of the benchmark is made from: one loaded network for all, greedy decoding."""
    return EngineContext(
        load=lambda: hymt,
        model=None,
        tokenizer=hymt.tokenizer,
        settings=DecodeConfig(read_every=read_every),
        sampling_params=GREEDY,
        max_rows=max_rows,
        max_tokens=1 << 30,
        python=vllm_python,
    )


def open_engines(
    contexts: Mapping[str, EngineContext], work: Sequence[Request]
) -> tuple[dict[str, Engine], dict[str, Problem]]:
    """Open the engines of a benchmark. One that runs only on request is tried on a few rows, and left out if it fails.

    Args:
        contexts: Engine name -> what it is made from.
        work: Its first rows are used for the trial.

    Returns:
        Engines by name, in the order of the contexts, and why each of the others was left out, by name.
    """
    engines: dict[str, Engine] = {}
    left_out: dict[str, Problem] = {}
    for name, context in contexts.items():
        if registry.ENGINES[name].in_benchmark is not InBenchmark.on_request:
            engines[name] = find(name, in_benchmark=True).open_engine(context)
            continue
        try:
            entry = registry.ENGINES[name]
            engine = (
                OwnProcess(context, entry.module, entry.packages)
                if entry.packages
                else find(name, in_benchmark=True).open_engine(context)
            )
            _try_out(engine, work[:TRIAL_ROWS])
        except ModuleNotFoundError as error:
            what = f"{error.name} is not installed"
            left_out[name] = Problem(what=what, fix="pip install 'hymt-batch[peers]'")
        except Exception as error:  # another project may raise anything; the engine is then left out
            log.debug("engine %s failed", name, exc_info=True)
            left_out[name] = Problem(what=first_line(error))
        else:
            engines[name] = engine
    return engines, left_out


def _try_out(engine: Engine, work: Sequence[Request]) -> None:
    """Decode some rows with an engine of another project; close it and raise if it fails."""
    if not isinstance(engine, FixedLengthEngine):
        return
    try:
        lengths = [len(completion.ids) for completion in engine.generate(work, lambda: None)]
        requested = [request.max_new_tokens for request in work]
        if lengths != requested:
            raise RuntimeError(f"it generated {lengths} tokens, but {requested} were requested")
    except BaseException:
        engine.close()
        raise


@dataclass(slots=True)
class Result:
    """Times of one engine, and how many of the compared rows are correct."""

    name: str
    seconds: list[float] = field(default_factory=list)
    equal_rows: int = 0  # compared rows whose tokens equal those of `generate`, run one row at a time
    compared_rows: int = 0


TokensByEngine = dict[str, list[list[int]]]
"""Engine name -> tokens of each row."""


def run_rounds(
    hymt: LoadedModel,
    engines: Mapping[str, Engine],
    work: Sequence[Request],
    rounds: int,
    report: Callable[[str], object] = str,
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
            completions = engine.generate(work, lambda: None)
            synchronize(hymt.device)
            results[name].seconds.append(time.perf_counter() - began)
            tokens[name] = [completion.ids for completion in completions]
            report(f"round {round_number} of {rounds}: {name} {results[name].seconds[-1]:.2f} s")
    return results, tokens


def compare_tokens(
    hymt: LoadedModel, work: Sequence[Request], tokens: TokensByEngine, results: dict[str, Result], num_rows: int
) -> None:
    """Compare each engine's tokens with `generate`, run one row at a time on about `num_rows` evenly spread rows."""
    step = max(1, len(work) // num_rows)
    reference = GenerateEngine(make_context(hymt, 1))
    for index in range(0, len(work), step):
        (expected,) = reference.generate([work[index]], lambda: None)
        for name, tokens_by_row in tokens.items():
            results[name].compared_rows += 1
            results[name].equal_rows += tokens_by_row[index] == expected.ids


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
            synchronize(hymt.device)
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
