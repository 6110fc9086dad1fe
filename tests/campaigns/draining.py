"""What it costs that each part is decoded from empty slots to drained ones, by the size of the parts.

The schedule is counted exactly: the same rows in parts of each size and in one, with a small network, since scheduling
depends on lengths alone. What a step of so many rows takes is measured on the shape that is asked for, so that noise
does not decide between sizes. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import Any

from hymt_batch.decode import benchmark
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.model import synthetic
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.weight_packing import PackedWeights

CONTEXT = 55  # tokens of a prompt and half of its translation, as in the workload
FEW, MANY, REPEATS = 3, 11, 3  # steps of the two runs whose difference is measured


def schedule(hymt: LoadedModel, work: benchmark.Workload, part_rows: int, max_rows: int) -> Counters:
    """Steps of the workload in parts of so many rows, the longest first, as a job plans them."""
    counters = Counters()
    order = sorted(range(len(work.prompts)), key=lambda n: (-len(work.prompts[n]), n))
    for start in range(0, len(order), part_rows):
        some = order[start : start + part_rows]
        decode_prompts(
            hymt,
            [work.prompts[n] for n in some],
            [work.output_lengths[n] for n in some],
            [0] * len(some),
            benchmark.GREEDY,
            lambda: None,
            max_rows=max_rows,
            max_tokens=1 << 30,
            counters=counters,
        )
    return counters


def step_seconds(hymt: LoadedModel, rows: int) -> float:
    """Seconds of one step over so many rows, the best of some."""

    def seconds(steps: int) -> float:
        best = math.inf
        for _ in range(REPEATS):
            began = time.perf_counter()
            prompts = [[5 + n, *range(1, CONTEXT)] for n in range(rows)]
            decode_prompts(
                hymt,
                prompts,
                [steps + 1] * rows,
                [0] * rows,
                benchmark.GREEDY,
                lambda: None,
                max_rows=rows,
                max_tokens=1 << 30,
            )
            best = min(best, time.perf_counter() - began)
        return best

    return max(1e-9, (seconds(MANY) - seconds(FEW)) / (MANY - FEW))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="mid", choices=[one.name for one in synthetic.Shape])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=8192, help="rows of the workload")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--parts", type=int, nargs="*", default=[64, 96, 192, 512, 1024, 2048, 4096])
    parser.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args()
    small = synthetic.make_model(synthetic.Shape["demo"], "float32", options.seed)
    work = benchmark.make_workload(options.rows, small.vocab_size, options.seed)
    counted = {size: schedule(small, work, size, options.slots) for size in (*options.parts, options.rows)}
    hymt = synthetic.make_model(synthetic.Shape[options.shape], options.dtype, options.seed)
    with PackedWeights(hymt.network):
        costs = {
            rows: step_seconds(hymt, rows)
            for rows in sorted({*benchmark.GEMM_ROWS, options.slots})
            if rows <= options.slots
        }

    def whole(counters: Counters) -> float:
        return sum(number * benchmark.interpolate(costs, rows) for rows, number in counters.steps_of_rows.items())

    undrained = whole(counted[options.rows])
    figures: dict[str, Any] = {
        "shape": options.shape,
        "dtype": options.dtype,
        "rows": options.rows,
        "slots": options.slots,
        "step_ms": {str(rows): round(1000 * seconds, 2) for rows, seconds in costs.items()},
        "more_steps": {
            str(size): round(counted[size].steps / counted[options.rows].steps - 1, 4) for size in options.parts
        },
        "more_time": {str(size): round(whole(counted[size]) / undrained - 1, 4) for size in options.parts},
    }
    for size in options.parts:
        print(f"parts of {size:5} rows: {100 * figures['more_time'][str(size)]:5.1f} % more time in steps")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
