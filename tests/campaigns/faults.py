"""Run all fault campaigns in chunks. After a stop at any moment, the same command continues with the remaining chunks.

Each chunk is a separate process with a separate seed (seed + index of the chunk). Its result is one line of
WORK/results.jsonl, and a chunk that has a line there does not run again. `--quick` runs one small chunk of each
campaign. Prints a table of the results and ends with one JSON line. Exits with 0 if all chunks ran and passed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHUNK_S = 3600.0  # a chunk that takes longer counts as hung
ALL = 0  # the size of a campaign that finds out for itself how many cases there are


@dataclass(frozen=True)
class Campaign:
    name: str
    unit: str
    full: int
    chunk: int
    quick: int  # 0: not in the quick run
    module: str = ""
    function: str = "run"

    @property
    def home(self) -> str:
        return f"tests.campaigns.{self.module or self.name}"

    def chunks(self, quick: bool) -> list[int]:
        """Return the sizes of the chunks, in the order in which they run."""
        if quick:
            return [self.quick] if self.quick else []
        if self.full == ALL:
            return [ALL]
        whole, rest = divmod(self.full, self.chunk)
        return [self.chunk] * whole + ([rest] if rest else [])


CAMPAIGNS = [
    Campaign("seeded_bugs", "states for each bug and harness", 400, 400, 0),  # quick: test_mutants.py
    Campaign("syscalls", "syscall boundaries", ALL, ALL, 12),
    Campaign("syscall_errors", "errors at syscalls", 2_000, 250, 8, module="syscalls", function="run_errors"),
    Campaign(
        "slow_store", "ms added to each sync, link and rename", 100, 100, 5, module="syscalls", function="run_slow"
    ),
    Campaign("poison", "jobs with rows that kill or hang", 100, 20, 1),
    Campaign("demo_kills", "kills of the demo model", 200, 50, 2, module="kills", function="run_demo"),
    Campaign("requeue", "orderly stops of one job", 50, 50, 0, module="stops"),
    Campaign("goodput", "jobs killed at each of four intervals", 3, 3, 0, module="stops", function="run_goodput"),
    Campaign("comparison", "jobs of each design", 20, 20, 0),
    Campaign("boundaries", "designs killed at each of their system calls", ALL, ALL, 0, "comparison", "run_boundaries"),
    Campaign("same_text", "rows compared with the row alone, over engines, slots, files, workers, stops", 500, 250, 6),
    Campaign("long_row", "runs of a row of 200,000 characters", 6, 6, 0),
    Campaign("engine", "rows of 1 to 2,000 tokens, running out of memory at random", 10_000, 10_000, 0),
    Campaign("soak", "minutes of preemptions on a file system that fails at random", 30, 30, 0),
    Campaign("unit_kills", "kills of jobs over small files", 2_000, 500, 10),
    Campaign("task_kills", "kills of tasks and merges", 1_000, 250, 3),
    Campaign("races", "rounds of 4 writers", 1_000, 100, 4),
    Campaign("kills", "kills", 10_000, 1_000, 100),
    Campaign("codes", "places for each kind of error and document", 1_000, 125, 3),
    Campaign("injection", "hostile strings", 1_000_000, 100_000, 4_000),
    Campaign("fuzz", "hostile rows", 1_000_000, 100_000, 8_000),
    Campaign("power_loss", "states after a power loss", 1_000_000, 25_000, 2_000),
]


def commit() -> str:
    described = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return described.stdout.strip() or "unknown"


def hardware() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} x {model or platform.machine()}, {system}"


def one_chunk(campaign: Campaign, seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run a chunk in a separate process and return its record."""
    command = [sys.executable, "-m", "tests.campaigns.faults", "--chunk", campaign.name]
    command += ["--seed", str(seed), "--size", str(size), "--work", str(work)]
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=CHUNK_S)
        result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        result = {"passed": False, "failures": [f"did not end within {CHUNK_S:.0f} s"]}
    except (IndexError, ValueError):
        result = {"passed": False, "failures": [f"died with {ran.returncode}: {ran.stderr[-2000:]}"]}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {
        "campaign": campaign.name,
        "seed": seed,
        "size": size,
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit(),
        "result": result,
    }


def added(sums: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Add the figures of a chunk to the sums; keys that begin with "worst" or "max" keep the largest value."""
    for key, value in result.items():
        if isinstance(value, bool) or key in ("passed", "failures"):
            continue
        if isinstance(value, dict):
            sums[key] = added(sums.get(key, {}), value)
        elif isinstance(value, int | float):
            old = sums.get(key, 0)
            sums[key] = max(old, value) if key.startswith(("worst", "max")) else old + value
    return sums


def read(path: Path) -> list[dict[str, Any]]:
    """Parse the results file and skip lines that are not valid JSON; the last line may be torn."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def plan(campaigns: list[Campaign], seed: int, quick: bool) -> Iterator[tuple[Campaign, int, int]]:
    for campaign in campaigns:
        for index, size in enumerate(campaign.chunks(quick)):
            yield campaign, seed + index, size


def run_all(campaigns: list[Campaign], seed: int, quick: bool, work: Path, hours: float, jobs: int) -> list[Any]:
    """Run the remaining chunks until the time is up; return all results, including those of earlier runs."""
    path, lock, deadline = work / "results.jsonl", threading.Lock(), time.monotonic() + 3600 * hours
    work.mkdir(parents=True, exist_ok=True)
    done = {(r["campaign"], r["seed"], r["size"]): r for r in read(path)}
    todo = list(plan(campaigns, seed, quick))

    def run_chunk(chunk: tuple[Campaign, int, int]) -> None:
        campaign, chunk_seed, size = chunk
        key = (campaign.name, chunk_seed, size)
        if key in done or time.monotonic() > deadline:
            return
        record = one_chunk(campaign, chunk_seed, size, work / f"{campaign.name}-{chunk_seed}")
        with lock:
            done[key] = record
            with path.open("ab") as file:
                file.write(b"\n" if torn(path) else b"")
                file.write(json.dumps(record).encode() + b"\n")
            word = "passed" if record["result"]["passed"] else "FAILED"
            print(f"{campaign.name} seed={chunk_seed} size={size} {word} in {record['seconds']} s", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(run_chunk, todo))
    return [
        done[campaign.name, chunk_seed, size]
        for campaign, chunk_seed, size in todo
        if (campaign.name, chunk_seed, size) in done
    ]


def torn(path: Path) -> bool:
    data = path.read_bytes() if path.exists() else b""
    return bool(data) and not data.endswith(b"\n")


def report(campaigns: list[Campaign], results: list[Any], seed: int, quick: bool) -> dict[str, Any]:
    """Print a table and the failures, and return the figures of each campaign."""
    figures: dict[str, Any] = {}
    print("\n| campaign | done | of | violations | seconds | seeds |\n|---|---|---|---|---|---|")
    for campaign in campaigns:
        records = [record for record in results if record["campaign"] == campaign.name]
        sizes = campaign.chunks(quick)
        if not sizes:
            continue
        sums: dict[str, Any] = {}
        failures = [f"{campaign.name} seed {r['seed']}: {text}" for r in records for text in r["result"]["failures"]]
        for record in records:
            added(sums, record["result"])
        figures[campaign.name] = {
            "passed": all(record["result"]["passed"] for record in records) and len(records) == len(sizes),
            "chunks": len(records),
            "of": len(sizes),
            "failures": failures[:20],
            "seconds": round(sum(record["seconds"] for record in records), 1),
            "commits": sorted({record["commit"] for record in records}),
            **sums,
        }
        size = "all" if sizes == [ALL] else f"{sum(sizes):,}"
        done = "all" if records and size == "all" else f"{sum(record['size'] for record in records):,}"
        seeds = f"{seed}..{seed + len(sizes) - 1}" if len(sizes) > 1 else str(seed)
        bad = len(failures) if len(records) == len(sizes) else f"{len(failures)}, not complete"
        name, seconds = f"{campaign.name}: {campaign.unit}", figures[campaign.name]["seconds"]
        print(f"| {name} | {done} | {size} | {bad} | {seconds} | {seeds} |")
    for record in figures.values():
        for failure in record["failures"]:
            print(failure)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20261124)
    parser.add_argument(
        "--work", type=Path, help="folder of the results (default: build/faults; with --quick a new one)"
    )
    parser.add_argument("--hours", type=float, default=4.0, help="start no chunk after this many hours")
    parser.add_argument("--jobs", type=int, default=2, help="number of chunks that run at the same time")
    parser.add_argument("--quick", action="store_true", help="run one small chunk of each campaign")
    parser.add_argument("--only", nargs="*", choices=[item.name for item in CAMPAIGNS], help="run only these campaigns")
    parser.add_argument("--chunk", help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.chunk:
        campaign = next(item for item in CAMPAIGNS if item.name == arguments.chunk)
        run = getattr(importlib.import_module(campaign.home), campaign.function)
        print("\n" + json.dumps(run(arguments.seed, arguments.size, arguments.work)))
        return 0
    selected = [item for item in CAMPAIGNS if not arguments.only or item.name in arguments.only]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or (Path(folder) if arguments.quick else ROOT / "build" / "faults")
        results = run_all(selected, arguments.seed, arguments.quick, work, arguments.hours, arguments.jobs)
    figures = report(selected, results, arguments.seed, arguments.quick)
    passed = all(item["passed"] for item in figures.values())
    print(f"\n{hardware()}; commit {commit()}; seed {arguments.seed}; {time.monotonic() - began:.0f} s")
    print(json.dumps({"passed": passed, "seed": arguments.seed, "hardware": hardware(), "campaigns": figures}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
