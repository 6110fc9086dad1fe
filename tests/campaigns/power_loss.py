"""Run the real write stage on a simulated file system with power losses, kills, errors, take-overs and damage.

The results are the number of distinct states that a power loss may leave, each recovered by the real code, and the
number of states that broke an invariant. A state counts once in a world (a job and a seed); states that are reached
again are counted as repeats. `by_feature` counts the states of jobs with units of several files, with divided rows and
with failed files. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults import worlds
from tests.faults.explore import Tally
from tests.faults.small import in_groups, simulated

A_WORLD = 1500  # maximum number of states of one job before the next job
DAMAGED = 0.05  # number of damaged states, divided by that of power-loss states


def run(seed: int, size: int, work: Path, only: Sequence[str] = ()) -> dict[str, Any]:
    """Explore `size` states that a power loss leaves, divided equally between the worlds, or those of some names."""
    explored = [(make, kind) for make, kind in worlds.EXPLORED if not only or make.__name__ in only]
    tally, rng, began = Tally(), random.Random(seed), time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    gc.freeze()
    gc.set_threshold(50_000)
    limit = max(20, min(A_WORLD, size // len(explored) + 1))
    with simulated():
        while tally.states < size:
            for make, kind in explored:
                if tally.states < size:
                    worlds.explore(work, rng, tally, make, kind, min(limit, size - tally.states))
            if not only:
                num_damaged = int(limit * len(explored) * DAMAGED)
                worlds.corrupt(work, rng, tally, num_damaged - num_damaged // 3)
                with in_groups():
                    worlds.corrupt(work, rng, tally, num_damaged // 3)
    return {
        "passed": not tally.broken,
        "failures": tally.broken,
        **{name.replace(" ", "_"): count for name, count in sorted(tally.counts.items())},
        "violations": sum(tally.kinds.values()),
        "milliseconds": round(1000 * (time.monotonic() - began)),
        "by_phase": dict(sorted(tally.phases.items())),
        "by_world": dict(sorted(tally.worlds.items())),
        "by_feature": dict(sorted(tally.features.items())),
        "by_invariant": dict(sorted(tally.kinds.items())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--work", type=Path)
    names = sorted({make.__name__ for make, _ in worlds.EXPLORED})
    parser.add_argument("--only", nargs="+", choices=names, default=(), metavar="WORLD", help=", ".join(names))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(arguments.seed, arguments.size, arguments.work or Path(folder), arguments.only)
    for failure in figures["failures"]:
        print(failure)
    figures["states_per_s"] = round(1000 * figures["states"] / max(1, figures["milliseconds"]))
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
