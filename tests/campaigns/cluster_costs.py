"""Measure what a large job costs in this program: the inputs of cluster_scale.py. Ends with one JSON line.

Processor time of prepare and merge, and the system calls by which a task uses the folder of its job, each as the
difference of two sizes, with a stub model. Needs strace. Times are those of the processor, not of the clock, so that
other work on the machine changes them little.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "tests.fakes.front")
CALLS = (
    "openat",
    "linkat",
    "unlinkat",
    "renameat",
    "renameat2",
    "mkdirat",
    "newfstatat",
    "statx",
    "getdents64",
    "fsync",
)
"""System calls that ask the server of a shared file system, for names, attributes or durability."""
LINE = "x" * 99


def run(folder: Path, job: str, *words: str, trace: Path | None = None) -> tuple[float, int]:
    """Run a job; return its processor time in seconds and its peak memory in KiB."""
    strace = ["strace", "-f", "-y", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"] if trace else []
    process = subprocess.Popen(
        [*strace, *PROGRAM, job, f"output_dir={folder}", "name=n", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 8):  # 8: shards are missing
        raise SystemExit(f"{job} {words} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


def settings(folder: Path, num_rows: int, shard_rows: int, part_rows: int = 1) -> list[str]:
    """Write an input; return the overrides of a job."""
    shutil.rmtree(folder / "n", ignore_errors=True)
    (folder / "in.txt").write_text("".join(f"{row} {LINE}\n" for row in range(num_rows)))
    return [
        *(f"source.path={folder / 'in.txt'}", "tgt_lang=fr", "model=demo", "launch.samples=0"),
        *(f"batch.shard_rows={shard_rows}", f"batch.part_rows={part_rows}", "launch.progress=off"),
    ]


def operations(trace: Path, folder: Path) -> Counter[str]:
    """Return how often each kind of call named the folder of the job."""
    counts: Counter[str] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        match = re.search(r"\b(\w+)\(", line)
        if match and match[1] in CALLS and str(folder / "n") in line:
            counts[_kind(match[1], line)] += 1
    return counts


def _kind(call: str, line: str) -> str:
    if call in ("newfstatat", "statx"):
        return "attributes of an open file" if ', "", ' in line else "attributes"
    if call == "openat":
        return "open folder" if "O_DIRECTORY" in line else "create" if "O_CREAT" in line else "open file"
    return call


CACHED = ("open folder", "attributes", "attributes of an open file")
"""Kinds that a client mostly answers by itself; the others ask the server each time."""


def differences(small: Counter[str], large: Counter[str], num: int) -> Counter[str]:
    """Return the calls of one of `num` things that the second trace has more than the first."""
    return Counter({name: (large[name] - small[name]) / num for name in small | large})  # type: ignore[misc]


def count_operations(folder: Path) -> dict[str, Counter[str]]:
    """Return the calls of a part, a shard and a task, of a shard in `missing` and in `merge`, and of a heartbeat."""
    path = folder / "trace"

    def trace(num_shards: int, parts_in_shard: int) -> list[Counter[str]]:
        words = settings(folder, num_shards * parts_in_shard, parts_in_shard)
        run(folder, "prepare", *words)
        counts = []
        for verb in (["translate", *words, f"shard.index=0-{num_shards - 1}"], ["missing"], ["merge"]):
            run(folder, *verb, trace=path)
            counts.append(operations(path, folder))
        return counts

    one, more_parts, more_shards = trace(4, 10), trace(4, 20), trace(12, 10)
    part = differences(one[0], more_parts[0], 40)
    shard = differences(one[0], more_shards[0], 8)
    for name in part:
        shard[name] -= 10 * part[name]  # type: ignore[assignment]
    task = Counter({name: one[0][name] - 40 * part[name] - 4 * shard[name] for name in one[0]})
    beats = []
    for num in (1, 21):
        words = [sys.executable, "-c", BEAT, str(folder / "n"), str(num)]
        strace = ["strace", "-f", "-y", "-o", str(path), "-e", f"trace={','.join(CALLS)}"]
        subprocess.run([*strace, *words], cwd=ROOT, check=True)
        beats.append(operations(path, folder))
    return {
        "part": part,
        "shard": shard,
        "task": task,
        "missing_shard": differences(one[1], more_shards[1], 8),
        "merge_shard": differences(one[2], more_shards[2], 8),
        "beat": differences(*beats, 20),
    }


BEAT = """
import pathlib, sys
from hymt_batch.fs import OS_FS
from hymt_batch.state_layout import FLAT
from hymt_batch.write.claim import Claims
folder = pathlib.Path(sys.argv[1])
claims = Claims(OS_FS.within(folder), folder, FLAT, 600.0, 200.0)
claims.take(0)
for _ in range(int(sys.argv[2])):
    claims.refresh()
claims.release_all()
"""


def processor_time(folder: Path) -> dict[str, float]:
    """Return processor time and memory of prepare and merge by row and by shard."""
    few_rows = run(folder, "prepare", *settings(folder, 20_000, 32768))
    many_rows = run(folder, "prepare", *settings(folder, 420_000, 32768))
    few_shards = run(folder, "prepare", *settings(folder, 1000, 1))
    few_bytes = (folder / "n/.hymt/plan.json").stat().st_size
    few_missing = run(folder, "missing")
    many_shards = run(folder, "prepare", *settings(folder, 201_000, 1))
    many_bytes = (folder / "n/.hymt/plan.json").stat().st_size
    many_missing = run(folder, "missing")  # reads the plan as the merge does

    def merge(num_rows: int, shard_rows: int) -> tuple[float, int]:
        words = settings(folder, num_rows, shard_rows, part_rows=1000)
        run(folder, "prepare", *words)
        run(folder, "translate", *words, f"shard.index=0-{-(-num_rows // shard_rows) - 1}")
        return run(folder, "merge")

    row_us = 1e6 * (many_rows[0] - few_rows[0]) / 400_000
    base, more_rows, more_shards = merge(2000, 2000), merge(42_000, 42_000), merge(2000, 4)
    return {
        "prepare_us_per_row": round(row_us, 2),
        "prepare_us_per_shard": round(1e6 * (many_shards[0] - few_shards[0]) / 200_000 - row_us, 1),
        "prepare_memory_per_shard": round(1024 * (many_shards[1] - few_shards[1]) / 200_000),
        "plan_bytes_per_shard": round((many_bytes - few_bytes) / 200_000, 1),
        "merge_us_per_row": round(1e6 * (more_rows[0] - base[0]) / 40_000, 2),
        "merge_us_per_shard": round(1e6 * (more_shards[0] - base[0]) / 499, 1),
        "plan_memory_per_shard": round(1024 * (many_missing[1] - few_missing[1]) / 200_000),
    }


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        operations_of = count_operations(folder)
        figures: dict[str, Any] = {"calls": operations_of}
        figures["asked"], figures["cached"] = (
            {
                name: round(sum(count for kind, count in counts.items() if (kind in CACHED) is is_cached), 1)
                for name, counts in operations_of.items()
            }
            for is_cached in (False, True)
        )
        print(json.dumps(figures), file=sys.stderr, flush=True)
        figures |= processor_time(folder)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
