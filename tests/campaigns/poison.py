"""Rows that kill, hang or break whatever decodes them, at random places: each is given up, and no other row suffers.

Real jobs with the model that upper-cases, in 1 to 3 worker processes; a job with one worker begins in its own process
and dies with it three times first. Ends with one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.campaigns import command, stub_worker

DEADLY = ("POISON", "BUG", "HANG")

ROOT = Path(__file__).parent.parent.parent


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` jobs."""
    rng = random.Random(seed)
    failures: list[str] = []
    deadly_rows: Counter[str] = Counter()
    runs = rows = 0
    for number in range(size):
        folder = work / f"{seed}-{number}"
        folder.mkdir(parents=True)
        num_rows, workers = rng.randint(10, 60), rng.randint(1, 3)
        lines = [f"row {place} of {num_rows}" for place in range(num_rows)]
        places = rng.sample(range(num_rows), rng.randint(0, 3))
        for place in places:
            kind = rng.choice(DEADLY)
            deadly_rows[kind] += 1
            lines[place] = f"{kind} {place}"
        (folder / "in.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        settings = [
            f"source.path={folder / 'in.txt'}",
            "tgt_lang=fr",
            "name=job",
            f"output_dir={folder}",
            f"batch.part_rows={rng.randint(1, 20)}",
            f"batch.shard_rows={rng.randint(5, 60)}",
            "check.max_error_rate=1",
            "check.stop_rate=1",
            "launch.hang_s=0.5",
            "launch.progress=off",
            f"launch.workers={workers}",
        ]
        code = -1
        for _ in range(4 * len(places) + 1):
            code = subprocess.run(
                [*stub_worker.COMMAND, *settings],
                cwd=ROOT,
                capture_output=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            ).returncode
            runs += 1
            if code == 0:
                break
        rows += num_rows
        failures += _wrong(folder / "job", lines, places, code, f"seed {seed} job {number}")
    return {
        "passed": not failures,
        "failures": failures[:20],
        "jobs": size,
        "runs": runs,
        "rows": rows,
        "deadly_rows": dict(deadly_rows),
    }


def _wrong(job: Path, lines: list[str], places: list[int], code: int, name: str) -> list[str]:
    if code != 0:
        return [f"{name}: not complete, exit code {code}"]
    found = (job / "translated" / "in.txt").read_text(encoding="utf-8").split("\n")[:-1]
    wanted = ["" if place in places else line.upper() for place, line in enumerate(lines)]
    wrong = [] if found == wanted else [f"{name}: other lines"]
    path = job / "errors" / "in.txt.errors.jsonl"
    errors = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    if [(one["id"], one["status"]) for one in errors] != [
        (f"in.txt#{place + 1}", "crash_quarantined") for place in sorted(places)
    ]:
        wrong.append(f"{name}: other errors")
    if list((job / ".hymt").glob("attempts/*")):
        wrong.append(f"{name}: marks are left")
    return wrong


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 50, "jobs"))
