"""Put rows that kill, hang or break the decoder at random positions: each is quarantined, all others are translated.

Runs real jobs with the stub model and 1 to 3 worker processes. A job with one worker starts by decoding in its main
process, and dies three times before it uses a worker. Ends with one JSON line.
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

from tests.campaigns import command
from tests.fakes import worker as fake_worker

DEADLY = ("POISON", "BUG", "HANG")

ROOT = Path(__file__).parent.parent.parent


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run `size` jobs."""
    rng = random.Random(seed)
    failures: list[str] = []
    deadly_rows: Counter[str] = Counter()
    runs = rows = 0
    for index in range(size):
        folder = work / f"{seed}-{index}"
        folder.mkdir(parents=True)
        num_rows, workers = rng.randint(10, 60), rng.randint(1, 3)
        lines = [f"row {row} of {num_rows}" for row in range(num_rows)]
        deadly = rng.sample(range(num_rows), rng.randint(0, 3))
        for row in deadly:
            kind = rng.choice(DEADLY)
            deadly_rows[kind] += 1
            lines[row] = f"{kind} {row}"
        (folder / "in.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        overrides = [
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
        for _ in range(4 * len(deadly) + 1):
            code = subprocess.run(
                [*fake_worker.COMMAND, *overrides],
                cwd=ROOT,
                capture_output=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            ).returncode
            runs += 1
            if code == 0:
                break
        rows += num_rows
        failures += _wrong(folder / "job", lines, deadly, code, f"seed {seed} job {index}")
    return {
        "passed": not failures,
        "failures": failures[:20],
        "jobs": size,
        "runs": runs,
        "rows": rows,
        "deadly_rows": dict(deadly_rows),
    }


def _wrong(job: Path, lines: list[str], deadly: list[int], code: int, name: str) -> list[str]:
    if code != 0:
        return [f"{name}: not complete, exit code {code}"]
    lines_found = (job / "translated" / "in.txt").read_text(encoding="utf-8").split("\n")[:-1]
    expected = ["" if row in deadly else line.upper() for row, line in enumerate(lines)]
    problems = [] if lines_found == expected else [f"{name}: the lines differ"]
    path = job / "errors" / "in.txt.errors.jsonl"
    errors = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    if [(error["id"], error["status"]) for error in errors] != [
        (f"in.txt#{row + 1}", "crash_quarantined") for row in sorted(deadly)
    ]:
        problems.append(f"{name}: the errors differ")
    if list((job / ".hymt").glob("attempts/*")):
        problems.append(f"{name}: attempt markers remain")
    return problems


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 50, "jobs"))
