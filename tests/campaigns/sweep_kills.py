"""Kill a sweep of the demo model with SIGKILL, and run it again until it ends: its bytes must be as without kills.

The sweep has six points, of which the sampled ones have different seeds. Each kill comes when a number of parts is
committed, drawn by the seed, so that it may hit any point. A point that was complete before a kill must not be touched
by the next run; a last call of the complete sweep must decode nothing and import no heavy library. Ends with one JSON
line.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hymt_batch import manifest

PROGRAM = [sys.executable, "-m", "hymt_batch.jobs", "translate", "-m"]
ROWS, PART_ROWS = 60, 10
SWEPT = ("decode=greedy,recommended", "seed=1,2,3")
HOT = ("model.sampling.temperature=2", "model.sampling.top_p=1", "model.sampling.top_k=0")
"""Sampling that makes mistakes, so that the seeds give different texts."""

NO_TORCH = """
import sys
from jobs import __main__ as front

code = front.main(sys.argv[1:])
heavy = {"torch", "transformers", "accelerate", "datasets", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""
"""Runs a command line, which must not import a heavy library."""

HUNG_S = 600.0
NUM_POINTS, NUM_PARTS = 6, 6 * ROWS // PART_ROWS


def published(folder: Path) -> dict[str, bytes]:
    """Return all that is reproducible in the folder of a sweep."""
    kept = ("translated", "errors", "review")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name == "manifest.json" or set(path.relative_to(folder).parts[1:2]) & set(kept)
    }


def count_parts(folder: Path) -> int:
    """Return how many parts of a sweep are committed: of a point whose only shard is recorded, all of them."""
    num = 0
    for point in folder.glob("*"):
        state = manifest.state_folder(point)
        records, parts = (  # unlike Path.rglob, it skips what vanishes meanwhile
            glob.glob(f"**/{pattern}", root_dir=state, recursive=True) for pattern in ("*.rows", "s*/p?????")
        )
        num += ROWS // PART_ROWS if records else len(parts)
    return num


class Sweep:
    """A sweep in a folder, and its runs in processes of their own."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder / "sweep"
        self.words = [f"source.path={source}", "src_lang=en", "tgt_lang=de", "model=demo", *SWEPT, *HOT]
        self.words += [f"output_dir={folder}", "name=sweep", f"batch.part_rows={PART_ROWS}", "launch.num_threads=1"]
        self.words += ["launch.progress=off", "launch.report=false", "launch.lease_ttl_s=2", "launch.lease_beat_s=0.5"]

    def run(self, log: Path, kill_at: int | None = None) -> int:
        """Run the sweep and return its exit code; kill it as soon as this many parts are committed."""
        started = time.monotonic()
        with open(log, "ab") as out, subprocess.Popen([*PROGRAM, *self.words], stdout=out, stderr=out) as process:
            while process.poll() is None and time.monotonic() - started < HUNG_S:
                if kill_at is not None and count_parts(self.folder) >= kill_at:
                    process.kill()
                time.sleep(0.005)
            if process.poll() is None:
                process.kill()
                raise SystemExit(f"the sweep did not end within {HUNG_S:g} s")
        return process.returncode

    def complete_points(self) -> dict[Path, int]:
        """Return manifest -> time of its last change in ns, of the points that are complete."""
        return {path: path.stat().st_mtime_ns for path in self.folder.glob("*/manifest.json")}


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill a sweep `size` times, and compare it with one that was not killed."""
    rng, failures = random.Random(f"sweep_kills {seed}"), list[str]()
    sample = ["--seed", str(seed), "--num", str(ROWS), "--tgt-lang", "de", "--out", str(work / "sample")]
    subprocess.run([sys.executable, "-m", "hymt_batch.demo", "sample", *sample], check=True, stdout=sys.stderr)
    source, log = work / "sample" / "src.txt", work / "log"
    unbroken, killed = Sweep(source, work / "unbroken"), Sweep(source, work / "killed")
    if code := unbroken.run(log):
        raise SystemExit(f"the unbroken sweep ended with exit {code}: {log.read_text()[-500:]}")
    kills, points_hit = sorted(rng.sample(range(1, NUM_PARTS), min(size, NUM_PARTS - 1))), set[int]()
    for kill_at in kills:
        before = killed.complete_points()
        code = killed.run(log, kill_at)
        if code != -9:
            failures.append(f"the run to be killed at part {kill_at} ended with exit {code}")
        points_hit.add(len(killed.complete_points()))
        if any(path.stat().st_mtime_ns != changed for path, changed in before.items()):
            failures.append("a complete point was written again")
    if code := killed.run(log):
        failures.append(f"the last run ended with exit {code}")
    if len(killed.complete_points()) != NUM_POINTS:
        failures.append(f"{len(killed.complete_points())} of {NUM_POINTS} points are complete")
    of_killed, of_unbroken = published(killed.folder), published(unbroken.folder)
    if of_killed != of_unbroken:
        failures.append(
            f"other bytes in {sorted(name for name in of_unbroken if of_killed.get(name) != of_unbroken[name])}"
        )
    texts = {data for name, data in of_unbroken.items() if "/translated/" in name}
    if len(texts) != 4:  # one of the greedy points, which no seed changes, and three of the sampled ones
        failures.append(f"the points have {len(texts)} different texts, not 4")
    again = [sys.executable, "-c", NO_TORCH, "translate", "-m", *killed.words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    if subprocess.run(again, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr).returncode:
        failures.append("a call of the complete sweep failed, or imported a heavy library")
    return {
        "campaign": "sweep_kills", "seed": seed, "points": NUM_POINTS, "rows": ROWS, "parts": NUM_PARTS,
        "kills": len(kills), "killed_at": kills, "points_hit": len(points_hit), "failures": failures,
        "passed": not failures,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2, help="kills")
    parser.add_argument("--seed", type=int, default=20261130)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments.seed, arguments.size, Path(folder))
    print(json.dumps(result))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
