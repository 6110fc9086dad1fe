"""Compare the speed and tokens of decoding engines on random weights: `hymt-batch bench shape=mid`.

Runs our slot engine, generate on sorted batches and in corpus order, and transformers' pipeline, interleaved in one
process. On request it also runs, with the same weights, transformers' continuous batching, and llama.cpp, CTranslate2
and vLLM, each in a process of its own. It compares the tokens with those of decoding one row at a time, and measures
the arithmetic lower bound. The last line of output is JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hymt_batch import streams
from hymt_batch.bench import benchmark, machine
from hymt_batch.bench.as_installed import AsInstalled
from hymt_batch.bench.baselines import slots_captured
from hymt_batch.bench.benchmark import GemmBound, Result
from hymt_batch.bench.packed_slots import IN_PARTS, InParts, PackedSlots
from hymt_batch.bench.roofline import Roofline, measure_roofline
from hymt_batch.decode import registry, slots
from hymt_batch.decode.engine import Engine
from hymt_batch.decode.registry import InBenchmark
from hymt_batch.decode.request import Request
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.device_map import table
from hymt_batch.errors import ExitCode, Problem
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.weight_packing import PackedWeights

if TYPE_CHECKING:
    from hymt_batch.schema import BenchJob


def report(message: str) -> None:
    """Print a progress line on stderr."""
    print(f"bench: {message}", file=sys.stderr, flush=True)


def bench(job: BenchJob) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        All results: times in seconds, ratios of best times, exact counters.
    """
    machine.prepare(job.device, job.num_threads)
    hymt = synthetic.make_model(job.shape, job.dtype.value, job.seed, job.device)
    work = benchmark.make_workload(job.segments, hymt.vocab_size, job.seed)
    products = PackedWeights(hymt.network)
    engines, left_out = open_engines(job, hymt, work, products)
    with ExitStack() as stack:
        for engine in engines.values():
            stack.callback(engine.close)
        results, tokens = benchmark.run_rounds(hymt, engines, work, job.rounds, report)
    captured = engines.get(slots_captured.NAME)
    if isinstance(captured, PackedSlots) and captured.engine.uncaptured_reason:  # plain steps ran instead
        left_out[slots_captured.NAME] = Problem(what=captured.engine.uncaptured_reason)
        del results[slots_captured.NAME], tokens[slots_captured.NAME], engines[slots_captured.NAME]
    report(f"comparing {job.compare_rows} rows with one row at a time, and measuring the lower bound")
    benchmark.compare_tokens(hymt, work, tokens, results, job.compare_rows)
    counters = {name: engine.engine.counters for name, engine in engines.items() if isinstance(engine, PackedSlots)}
    floor = benchmark.measure_gemm_bound(hymt, counters[slots.NAME], min(job.max_rows, job.segments), products)
    roof = measure_roofline(hymt, work, counters[slots.NAME])
    return {
        "shape": job.shape.value,
        "dtype": job.dtype.value,
        "segments": job.segments,
        "new_tokens": sum(request.max_new_tokens for request in work),
        **machine.figures(job.device),
        **speed_figures(results, work),
        "left_out": {name: ": ".join(filter(None, [problem.what, problem.fix])) for name, problem in left_out.items()},
        "findings": [{"check": name, **asdict(problem)} for name, problem in left_out.items()],
        **bound_figures(results, counters[slots.NAME], floor, roof),
        **machine.peak_memory(job.device),
        "counters": asdict(counters[slots.NAME]),
        **({"captured_counters": asdict(counters[slots_captured.NAME])} if slots_captured.NAME in counters else {}),
    }


def open_engines(
    job: BenchJob, hymt: LoadedModel, work: Sequence[Request], products: PackedWeights
) -> tuple[dict[str, Engine], dict[str, Problem]]:
    """Open the chosen engines; see `benchmark.open_engines`.

    The slot engine runs with packed weights, as in a job; all others get a network without changes of this project.
    """
    chosen = {slots.NAME, *(job.engines or registry.benchmark_choices(InBenchmark.default))}
    contexts = {
        name: benchmark.make_context(
            hymt,
            getattr(job, entry.benchmark_rows),
            job.read_every if name == slots_captured.NAME else 1,
            job.vllm_python,
        )
        for name, entry in registry.ENGINES.items()
        if name in chosen
    }
    opened, left_out = benchmark.open_engines(contexts, work)
    engines: dict[str, Engine] = {
        name: PackedSlots(engine, products) if isinstance(engine, SlotEngine) else AsInstalled(engine, hymt)
        for name, engine in opened.items()
    }
    if job.part_rows is not None:
        # an engine of its own: the reported counters are those of the run over all rows at once
        drained = SlotEngine(benchmark.make_context(hymt, job.max_rows))
        engines[IN_PARTS] = InParts(PackedSlots(drained, products), job.part_rows)
    return engines, left_out


def speed_figures(results: dict[str, Result], work: Sequence[Request]) -> dict[str, Any]:
    """Return the times of all engines, and how many of their rows are right."""
    num_new_tokens = sum(request.max_new_tokens for request in work)
    best = {name: min(result.seconds) for name, result in results.items()}
    return {
        "seconds": {name: [round(value, 3) for value in result.seconds] for name, result in results.items()},
        "tokens_per_s": {name: round(num_new_tokens / value, 1) for name, value in best.items()},
        "outputs_equal": all(result.equal_rows == result.compared_rows for result in results.values()),
        "equal_rows": {name: f"{result.equal_rows}/{result.compared_rows}" for name, result in results.items()},
        **{
            f"ratio_to_{name}": round(seconds / best[slots.NAME], 3)
            for name, seconds in best.items()
            if name != slots.NAME
        },
    }


def bound_figures(results: dict[str, Result], counters: Counters, floor: GemmBound, roof: Roofline) -> dict[str, Any]:
    """Return how close the slot engine comes to the lower bounds."""
    best = {name: min(result.seconds) for name, result in results.items()}
    return {
        "useful_row_steps_ratio": round(counters.useful_row_steps / max(1, counters.row_steps), 4),
        "prefill_pad_ratio": round(counters.prefill_padded / max(1, counters.prefill_tokens), 4),
        "floor_s": round(floor.best, 3),
        "plain_floor_s": round(floor.plain, 3),
        "full_floor_s": round(floor.full, 3),
        "fraction_of_floor": round(floor.best / best[slots.NAME], 3),
        "fraction_of_plain_floor": round(floor.plain / best[slots.NAME], 3),
        "fraction_of_full_floor": round(floor.full / best[slots.NAME], 3),
        "copy_gb_per_s": round(roof.bytes_per_s / 1e9, 1),
        "product_tflops_per_s": round(roof.flops_per_s / 1e12, 3),
        "roofline_s": round(roof.seconds, 4),
        "fraction_of_roofline": {name: round(roof.seconds / value, 3) for name, value in best.items()},
    }


def render(figures: dict[str, Any]) -> str:
    """Format the results as a table."""
    rows: list[tuple[str, ...]] = [("engine", "", "best s", "median s", "tokens/s", "equal to one row at a time")]
    for name, seconds in figures["seconds"].items():
        best, median = min(seconds), statistics.median(seconds)
        speed = figures["tokens_per_s"][name]
        rows.append((name, "", f"{best:.2f}", f"{median:.2f}", f"{speed:.0f}", figures["equal_rows"][name]))
    return "\n".join(
        [
            f"{figures['shape']} in {figures['dtype']}, {figures['segments']} segments, "
            f"{figures['new_tokens']} new tokens, {figures['threads']} threads",
            table.render(rows),
            *(f"  {name} was left out: {reason}" for name, reason in figures["left_out"].items()),
            *(
                f"  {figures[f'ratio_to_{name}']:.2f} times as fast as {name}"
                for name in figures["seconds"]
                if name not in (slots.NAME, IN_PARTS)
            ),
            *(
                f"  {100 * (figures[f'ratio_to_{name}'] - 1):.1f} % more time when parts are finished one by one"
                for name in figures["seconds"]
                if name == IN_PARTS
            ),
            f"  {100 * figures['fraction_of_floor']:.0f} % of the speed that the fastest known matrix products allow; "
            f"{100 * figures['fraction_of_plain_floor']:.0f} % with torch's plain products; "
            f"{100 * figures['fraction_of_full_floor']:.0f} % if every step were full",
        ]
    )


def run(job: BenchJob) -> ExitCode:
    """Run the benchmark, then print the table and the line of JSON."""
    figures = bench(job)
    if job.format.value == "text":
        streams.print_result(render(figures))
    streams.print_result(json.dumps(figures))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("bench")
