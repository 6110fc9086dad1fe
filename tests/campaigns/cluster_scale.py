"""Simulate large jobs on a cluster by discrete events: 1 to 4,096 GPUs, 10^6 to 10^11 rows. Ends with one JSON line.

What is simulated: GPUs that decode parts, commit them, renew their claims and begin shards, and one server of the
shared file system that answers 500 requests a second, in their order. The requests of each step and the processor
time of `prepare` and `merge` were measured (cluster_costs.py); the speed of a GPU and of the server are assumptions.
Nothing here ran on a cluster. docs/scale.md shows the tables and curves.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch import state_layout
from tests.campaigns import curve

SERVER_PER_S = 500.0  # requests that the file system answers
ROWS_PER_S = 100.0  # of a GPU
SHARD_ROWS = 32768
LOAD_S = 60.0
WINDOW_S = 1800.0  # simulated, after the GPUs have begun
GPUS = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096)
ROWS = tuple(10.0**power for power in range(6, 12))
FILE_ROWS = 10**4  # of each file, where a corpus is in many
ROW_BYTES = 100
MAX_NAMES = 5000


@dataclass(frozen=True, slots=True)
class Costs:
    """What cluster_costs.py measured on 2026-11-29: requests that a client cannot answer itself, and processor time."""

    part: float = 12.5
    shard: float = 28.0
    task: float = 10.0
    beat: float = 4.0
    missing_shard: float = 1.2
    merge_shard: float = 3.2
    prepare_us_per_row: float = 3.1
    prepare_us_per_shard: float = 7.1
    prepare_memory_per_shard: float = 300.0  # bytes; an estimate, see docs/scale.md
    plan_bytes_per_shard: float = 88.0
    merge_us_per_row: float = 9.3
    merge_us_per_shard: float = 338.0
    plan_memory_per_shard: float = 300.0  # bytes, of what reads the plan; an estimate


COSTS = Costs()


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user can choose."""

    part_s: float = 20.0
    beat_s: float = 20.0
    shard_rows: int = SHARD_ROWS
    shards_in_task: int = 11  # an hour at 100 rows/s


class Server:
    """Answers requests in their order; one at a time."""

    def __init__(self) -> None:
        self.free_at, self.num = 0.0, 0.0

    def ask(self, now: float, num: float) -> float:
        """Return when the last of `num` requests is answered."""
        self.num += num
        self.free_at = max(now, self.free_at) + num / SERVER_PER_S
        return self.free_at


def simulate(num_gpus: int, chosen: Settings, costs: Costs, seed: int) -> dict[str, float]:
    """Run some time of a job in which every GPU has work; return its requests a second and the share spent decoding."""
    rng, server = random.Random(f"{seed} {num_gpus} {chosen}"), Server()
    shard_s = chosen.shard_rows / ROWS_PER_S
    events: list[tuple[float, int, str]] = []
    left = [0.0] * num_gpus  # seconds of the shard that a GPU decodes
    num_shards = [rng.randrange(chosen.shards_in_task) for _ in range(num_gpus)]
    for gpu in range(num_gpus):  # in the middle of their work, not all at once
        left[gpu] = rng.uniform(0.0, shard_s)
        heapq.heappush(events, (rng.uniform(0.0, chosen.part_s), gpu, "part"))
        heapq.heappush(events, (rng.uniform(0.0, chosen.beat_s), gpu, "beat"))
    decoded_s = 0.0
    while events[0][0] < WINDOW_S:
        now, gpu, what = heapq.heappop(events)
        if what == "beat":
            answered = server.ask(now, costs.beat)
            heapq.heappush(events, (max(now + chosen.beat_s, answered), gpu, "beat"))
            continue
        if what == "begin":
            begins_at = server.ask(now, costs.task) if num_shards[gpu] == 0 else now
        else:
            begins_at = server.ask(now, costs.part)
        if left[gpu] <= 0.0:
            begins_at = server.ask(begins_at, costs.shard)
            left[gpu], num_shards[gpu] = shard_s, (num_shards[gpu] + 1) % chosen.shards_in_task
            if num_shards[gpu] == 0:
                heapq.heappush(events, (begins_at + LOAD_S, gpu, "begin"))
                continue
        part_s = min(left[gpu], chosen.part_s * rng.uniform(0.8, 1.2))
        left[gpu] -= part_s if left[gpu] - part_s > 1.0 else left[gpu]
        decoded_s += part_s
        heapq.heappush(events, (begins_at + part_s, gpu, "part"))
    return {"requests_per_s": server.num / WINDOW_S, "decoding": min(1.0, decoded_s / (WINDOW_S * num_gpus))}


def size_of(num_rows: float, chosen: Settings, costs: Costs, *, num_jobs: int = 1) -> dict[str, float]:
    """Return what the steps before and after the tasks cost, for one of `num_jobs` jobs of equal size."""
    rows = num_rows / num_jobs
    shards = max(1.0, rows / chosen.shard_rows)
    prepare_s = (rows * costs.prepare_us_per_row + shards * costs.prepare_us_per_shard) / 1e6
    merge_s = (rows * costs.merge_us_per_row + shards * costs.merge_us_per_shard) / 1e6
    return {
        "prepare_s": prepare_s,
        "merge_s": merge_s + shards * costs.merge_shard / SERVER_PER_S,
        "missing_s": shards * costs.missing_shard / SERVER_PER_S,
        **{name: float(number) for name, number in names(rows, chosen).items()},
        "plan_bytes": shards * costs.plan_bytes_per_shard,
        "prepare_memory": shards * costs.prepare_memory_per_shard,
        "merge_memory": shards * costs.plan_memory_per_shard,
    }


def names(rows: float, chosen: Settings) -> dict[str, int]:
    """Return the names in the largest folder of the state of a job: in one file, in many; and without groups."""
    shards, files = math.ceil(rows / chosen.shard_rows), math.ceil(rows / FILE_ROWS)
    one = state_layout.choose(1, math.ceil(rows * ROW_BYTES / chosen.shard_rows))
    many = state_layout.choose(files, math.ceil(rows * ROW_BYTES / chosen.shard_rows))
    in_group = one.group_size or shards
    groups = 16**many.file_digits
    return {
        "names_one_file": min(shards, in_group) + max(0, math.ceil(shards / in_group) - 1),
        "names_files": files if groups == 1 else max(groups, math.ceil(files / groups)),
        "names_one_file_flat": shards,
        "names_files_flat": files,
    }


PLANS = {
    "as set by default": Settings(),
    "part_s=120": Settings(part_s=120.0),
    "part_s=300": Settings(part_s=300.0),
    "part_s=300, lease_beat_s=120, shard_rows=131072": Settings(300.0, 120.0, 131072, 3),
}


def panels(load: dict[str, list[dict[str, float]]], sizes: dict[str, list[dict[str, float]]]) -> list[curve.Panel]:
    """Return the diagrams."""

    def by_gpus(key: str) -> list[tuple[str, list[tuple[float, float]]]]:
        return [
            (name, [(gpus, point[key]) for gpus, point in zip(GPUS, points, strict=True)])
            for name, points in load.items()
        ]

    def by_rows(*lines: tuple[str, str, str]) -> list[tuple[str, list[tuple[float, float]]]]:
        return [
            (label, [(rows, max(point[key], 1e-3)) for rows, point in zip(ROWS, sizes[plan], strict=True)])
            for label, plan, key in lines
        ]

    default, ten = "one job", "ten jobs"
    day = ("a day", 86400.0)
    return [
        curve.Panel("requests to the file system a second", "GPUs", by_gpus("requests_per_s"), ("500", 500.0)),
        curve.Panel("share of the time in which a GPU decodes", "GPUs", by_gpus("decoding"), legend_left=True),
        curve.Panel(
            "prepare, seconds",
            "rows",
            by_rows((default, default, "prepare_s"), (f"{ten}, each", ten, "prepare_s")),
            day,
        ),
        curve.Panel(
            "merge, seconds",
            "rows",
            by_rows(
                (default, default, "merge_s"), (f"{ten}, each", ten, "merge_s"),
                ("missing, one job", default, "missing_s"),
            ),
            day,
        ),
        curve.Panel(
            "names in the largest folder",
            "rows",
            by_rows(
                ("one file", default, "names_one_file"), ("one file, without groups", default, "names_one_file_flat"),
                ("files of 10^4 rows", default, "names_files"),
                ("the same, without groups", default, "names_files_flat"),
            ),
            (f"{MAX_NAMES:,}", float(MAX_NAMES)),
        ),
        curve.Panel(
            "memory for the shards, and plan.json, bytes",
            "rows",
            by_rows(
                ("prepare and merge", default, "merge_memory"),
                ("plan.json", default, "plan_bytes"),
            ),
            ("4 GiB", float(4 << 30)),
        ),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument("--gpus", type=int, nargs="*", default=GPUS)
    parser.add_argument("--svg", type=Path, help="where to write the curves")
    options = parser.parse_args()
    load = {
        name: [simulate(num_gpus, chosen, COSTS, options.seed) for num_gpus in options.gpus]
        for name, chosen in PLANS.items()
    }
    plans = {
        "one job": (Settings(), 1),
        "ten jobs": (Settings(), 10),
    }
    sizes = {
        name: [size_of(rows, chosen, COSTS, num_jobs=num_jobs) for rows in ROWS]
        for name, (chosen, num_jobs) in plans.items()
    }
    if options.svg is not None:
        options.svg.write_text(curve.draw(panels(load, sizes)), encoding="utf-8")
    figures: dict[str, Any] = {"gpus": options.gpus, "load": load, "rows": ROWS, "sizes": sizes}
    print(json.dumps(figures, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
