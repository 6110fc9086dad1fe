"""Measure decoding engines against one another on a made-up network: `hymt-batch bench shape=mid`.

Ours, generate over sorted batches, and generate in the corpus's order as a pipeline does it, interleaved in one
process; tokens compared with one row at a time; the arithmetic floor measured on the spot. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hymt_batch.decode import race
from hymt_batch.decode.rows import Counters
from hymt_batch.device_map import table
from hymt_batch.errors import ExitCode
from hymt_batch.model import made_up

if TYPE_CHECKING:
    from hymt_batch.schema import BenchJob

OURS, SORTED, PIPELINE = "slots", "sorted_generate", "pipeline"


def bench(job: BenchJob) -> dict[str, Any]:
    """Run the benchmark.

    Returns:
        All figures: times in seconds, ratios of best times, exact counters.
    """
    import torch

    if job.num_threads is not None:
        torch.set_num_threads(job.num_threads)
    hymt = made_up.network(job.shape, job.dtype.value, job.seed)
    work = race.workload(job.segments, hymt.vocab_size, job.seed)
    counters = Counters()
    engines = {
        OURS: race.in_slots(hymt, job.max_rows, counters),
        SORTED: race.in_batches(hymt, job.generate_rows, by_length=True),
        PIPELINE: race.in_batches(hymt, job.generate_rows, by_length=False),
    }
    results, made = race.race(engines, work, job.rounds)
    race.compare(hymt, work, made, results, job.compare_rows)
    floor = race.floor_seconds(hymt, counters, min(job.max_rows, job.segments))
    best = {name: min(result.seconds) for name, result in results.items()}
    return {
        "shape": job.shape.value,
        "dtype": job.dtype.value,
        "segments": job.segments,
        "new_tokens": work.num_new_tokens,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
        "seconds": {name: [round(one, 3) for one in result.seconds] for name, result in results.items()},
        "tokens_per_s": {name: round(work.num_new_tokens / one, 1) for name, one in best.items()},
        "outputs_equal": all(result.equal_rows == result.compared_rows for result in results.values()),
        "equal_rows": {name: f"{result.equal_rows}/{result.compared_rows}" for name, result in results.items()},
        "useful_row_steps_ratio": round(counters.useful_row_steps / max(1, counters.row_steps), 4),
        "prefill_pad_ratio": round(counters.prefill_padded / max(1, counters.prefill_tokens), 4),
        "ratio_to_pipeline": round(best[PIPELINE] / best[OURS], 2),
        "ratio_to_sorted_generate": round(best[SORTED] / best[OURS], 2),
        "floor_s": round(floor, 3),
        "fraction_of_floor": round(floor / best[OURS], 3),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "counters": asdict(counters),
    }


def render(figures: dict[str, Any]) -> str:
    """The figures as a table."""
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
            f"  {figures['ratio_to_sorted_generate']}x sorted generate, "
            f"{figures['ratio_to_pipeline']}x the pipeline's order, "
            f"{100 * figures['fraction_of_floor']:.0f} % of the matrix products' own speed",
        ]
    )


def run(job: BenchJob) -> ExitCode:
    """Print the table and the line of JSON."""
    figures = bench(job)
    if job.format.value == "text":
        print(render(figures))
    print(json.dumps(figures))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("bench")
