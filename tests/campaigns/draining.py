"""Measure the cost of starting and finishing each part with empty slots, by part size.

The steps are counted exactly, for the same rows in parts of each size and in one part, with a small network, since
scheduling depends only on lengths. The time of a step is measured once per number of rows on the requested shape, so
that noise does not affect the comparison of sizes. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from hymt_batch.bench import benchmark
from hymt_batch.bench.packed_slots import InParts
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.weight_packing import PackedWeights
from tests.fakes.engine import make_context, make_requests

CONTEXT = 55  # typical tokens of a prompt plus half of its translation, as in the workload
FEW, MANY, REPEATS = 3, 11, 3  # steps of the two runs whose time difference is measured, and repeats


def schedule(hymt: LoadedModel, work: Sequence[Request], part_rows: int, max_rows: int) -> Counters:
    """Count the steps of the workload in parts of `part_rows` rows, longest first, as a job plans them."""
    engine = SlotEngine(make_context(hymt, max_rows=max_rows, max_tokens=1 << 30))
    InParts(engine, part_rows).generate(work, lambda: None)
    return engine.counters


def step_seconds(hymt: LoadedModel, rows: int) -> float:
    """Return the seconds of one step over `rows` rows, the best of `REPEATS`."""
    engine = SlotEngine(make_context(hymt, max_rows=rows, max_tokens=1 << 30))

    def seconds(steps: int) -> float:
        best = math.inf
        for _ in range(REPEATS):
            began = time.perf_counter()
            prompts = [[5 + n, *range(1, CONTEXT)] for n in range(rows)]
            engine.generate(make_requests(prompts, [steps + 1] * rows, GREEDY), lambda: None)
            best = min(best, time.perf_counter() - began)
        return best

    return max(1e-9, (seconds(MANY) - seconds(FEW)) / (MANY - FEW))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="mid", choices=[shape.name for shape in synthetic.Shape])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=8192, help="rows of the workload")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--parts", type=int, nargs="*", default=[64, 96, 192, 512, 1024, 2048, 4096])
    parser.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args()
    small_model = synthetic.make_model(synthetic.Shape["demo"], "float32", options.seed)
    work = benchmark.make_workload(options.rows, small_model.vocab_size, options.seed)
    counters_by_size = {
        size: schedule(small_model, work, size, options.slots) for size in (*options.parts, options.rows)
    }
    hymt = synthetic.make_model(synthetic.Shape[options.shape], options.dtype, options.seed)
    with PackedWeights(hymt.network):
        costs = {
            rows: step_seconds(hymt, rows)
            for rows in sorted({*benchmark.GEMM_ROWS, options.slots})
            if rows <= options.slots
        }

    def total_seconds(counters: Counters) -> float:
        return sum(num_steps * benchmark.interpolate(costs, rows) for rows, num_steps in counters.steps_of_rows.items())

    one_part = total_seconds(counters_by_size[options.rows])
    figures: dict[str, Any] = {
        "shape": options.shape,
        "dtype": options.dtype,
        "rows": options.rows,
        "slots": options.slots,
        "step_ms": {str(rows): round(1000 * seconds, 2) for rows, seconds in costs.items()},
        "more_steps": {
            str(size): round(counters_by_size[size].steps / counters_by_size[options.rows].steps - 1, 4)
            for size in options.parts
        },
        "more_time": {
            str(size): round(total_seconds(counters_by_size[size]) / one_part - 1, 4) for size in options.parts
        },
    }
    for size in options.parts:
        print(f"parts of {size:5} rows: {100 * figures['more_time'][str(size)]:5.1f} % more time in steps")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
