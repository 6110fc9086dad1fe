"""Compare the speed and tokens of decoding engines on random weights: `hymt-batch bench shape=mid`.

Runs our slot engine, generate on sorted batches and in corpus order, and transformers' pipeline, interleaved in one
process. On request it also runs transformers' continuous batching, llama.cpp and CTranslate2 with the same weights. It
compares the tokens with those of decoding one row at a time, and measures the arithmetic lower bound. The last line of
output is JSON.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hymt_batch import streams
from hymt_batch.bench import benchmark
from hymt_batch.bench.baselines.factory import make_baselines
from hymt_batch.bench.roofline import measure_roofline
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner, unsupported_reason
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters
from hymt_batch.device_map import table
from hymt_batch.errors import ExitCode, PreflightError
from hymt_batch.model import synthetic
from hymt_batch.model.weight_packing import PackedWeights

if TYPE_CHECKING:
    from hymt_batch.schema import BenchJob

SLOTS, SLOTS_IN_PARTS, SLOTS_CAPTURED = "slots", "slots_in_parts", "slots_captured"
SORTED_GENERATE, GENERATE_IN_ORDER, PIPELINE = "sorted_generate", "generate_in_order", "pipeline"


def report(message: str) -> None:
    """Print a progress line on stderr."""
    print(f"bench: {message}", file=sys.stderr, flush=True)


def bench(job: BenchJob) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        All results: times in seconds, ratios of best times, exact counters.
    """
    import torch

    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    if job.device != "cpu" and int(job.device.partition(":")[2]) >= torch.cuda.device_count():
        raise PreflightError(
            f"device={job.device}: torch finds {torch.cuda.device_count()} GPUs here. Set device=cpu, or run "
            "`hymt-batch doctor` to see why."
        )
    hymt = synthetic.make_model(job.shape, job.dtype.value, job.seed, job.device)
    work = benchmark.make_workload(job.segments, hymt.vocab_size, job.seed)
    counters, captured_counters = Counters(), Counters()
    products = PackedWeights(hymt.network)
    engines = {
        SLOTS: benchmark.slot_engine(hymt, job.max_rows, counters, products),
        SORTED_GENERATE: benchmark.batch_engine(hymt, job.generate_rows, by_length=True),
        GENERATE_IN_ORDER: benchmark.batch_engine(hymt, job.generate_rows, by_length=False),
        PIPELINE: benchmark.pipeline_engine(hymt, job.generate_rows),
    }
    chosen = set(job.engines or engines)
    engines = {name: engine for name, engine in engines.items() if name in chosen or name == SLOTS}
    baselines, left_out = make_baselines(chosen, hymt, job.max_rows, work)
    engines.update(baselines)
    if job.part_rows is not None:
        # separate counters: the reported ones are those of the run over all rows at once
        drained = benchmark.slot_engine(hymt, job.max_rows, Counters(), products)
        engines[SLOTS_IN_PARTS] = benchmark.part_engine(drained, job.part_rows)
    graph_runner: CudaGraphRunner | None = None
    if SLOTS_CAPTURED in chosen and (reason := unsupported_reason(hymt, stages=1)):
        left_out[SLOTS_CAPTURED] = reason
    elif SLOTS_CAPTURED in chosen:
        graph_runner = CudaGraphRunner(hymt, GREEDY)
        engines[SLOTS_CAPTURED] = benchmark.slot_engine(
            hymt, job.max_rows, captured_counters, products, graph_runner, job.read_every
        )
    results, tokens = benchmark.run_rounds(hymt, engines, work, job.rounds, report)
    if graph_runner is not None and graph_runner.disabled_reason:  # plain steps ran instead
        left_out[SLOTS_CAPTURED] = graph_runner.disabled_reason
        del results[SLOTS_CAPTURED], tokens[SLOTS_CAPTURED], engines[SLOTS_CAPTURED]
    report(f"comparing {job.compare_rows} rows with one row at a time, and measuring the lower bound")
    benchmark.compare_tokens(hymt, work, tokens, results, job.compare_rows)
    floor = benchmark.measure_gemm_bound(hymt, counters, min(job.max_rows, job.segments), products)
    roof = measure_roofline(hymt, work, counters)
    best = {name: min(result.seconds) for name, result in results.items()}
    return {
        "shape": job.shape.value,
        "dtype": job.dtype.value,
        "device": job.device if job.device == "cpu" else torch.cuda.get_device_name(job.device),
        "segments": job.segments,
        "new_tokens": work.num_new_tokens,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
        "seconds": {name: [round(value, 3) for value in result.seconds] for name, result in results.items()},
        "tokens_per_s": {name: round(work.num_new_tokens / value, 1) for name, value in best.items()},
        "outputs_equal": all(result.equal_rows == result.compared_rows for result in results.values()),
        "left_out": left_out,
        "equal_rows": {name: f"{result.equal_rows}/{result.compared_rows}" for name, result in results.items()},
        "useful_row_steps_ratio": round(counters.useful_row_steps / max(1, counters.row_steps), 4),
        "prefill_pad_ratio": round(counters.prefill_padded / max(1, counters.prefill_tokens), 4),
        **{f"ratio_to_{name}": round(seconds / best[SLOTS], 3) for name, seconds in best.items() if name != SLOTS},
        "floor_s": round(floor.best, 3),
        "plain_floor_s": round(floor.plain, 3),
        "full_floor_s": round(floor.full, 3),
        "fraction_of_floor": round(floor.best / best[SLOTS], 3),
        "fraction_of_plain_floor": round(floor.plain / best[SLOTS], 3),
        "fraction_of_full_floor": round(floor.full / best[SLOTS], 3),
        "copy_gb_per_s": round(roof.bytes_per_s / 1e9, 1),
        "product_tflops_per_s": round(roof.flops_per_s / 1e12, 3),
        "roofline_s": round(roof.seconds, 4),
        "fraction_of_roofline": {name: round(roof.seconds / value, 3) for name, value in best.items()},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_gpu_bytes": 0 if job.device == "cpu" else torch.cuda.max_memory_allocated(job.device),
        "counters": asdict(counters),
        **({"captured_counters": asdict(captured_counters)} if SLOTS_CAPTURED in engines else {}),
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
                if name not in (SLOTS, SLOTS_IN_PARTS)
            ),
            *(
                f"  {100 * (figures[f'ratio_to_{name}'] - 1):.1f} % more time when parts are finished one by one"
                for name in figures["seconds"]
                if name == SLOTS_IN_PARTS
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
