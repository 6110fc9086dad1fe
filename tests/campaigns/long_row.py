"""Measure what a stop may lose of a row of 200,000 characters: the time from one committed run of it to the next.

The job is the real one with the demo model, on a row that no sentence and no space divides, whose translation ends only
at its limits: the worst case. The job is killed after some runs, which must all be there afterwards, with the rows
beside the long one. The job has one thread, so that its processor seconds are what a run takes on one idle core,
whatever else the machine does. Ends with one JSON line.
"""

from __future__ import annotations

import glob
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hymt_batch.fs import OS_FS
from hymt_batch.write import segment_run
from jobs import status
from tests.campaigns import command

ROOT = Path(__file__).parents[2]
CHARACTERS = 200_000
MAX_CPU_S = 45.0
"""Limit of the processor seconds of a run."""
HUNG_S = 1800.0  # without a run
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the processor seconds of a running process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Let a job commit `size` runs of the row, and kill it; the seed has no effect."""
    source, folder = work / "in.txt", work / "job"
    source.write_text(f"High 12.\n{'w' * CHARACTERS}\nLow 3 tonight.\n", encoding="utf-8")
    words = ["translate", f"source.path={source}", f"output_dir={work}", "name=job", "model=demo", "device_map=cpu"]
    settings = ["src_lang=en", "tgt_lang=fr", "launch.num_threads=1", "launch.progress=off", "check.max_error_rate=1"]
    process = subprocess.Popen([sys.executable, "-m", "jobs", *words, *settings], cwd=ROOT, stdout=subprocess.DEVNULL)
    moments: list[tuple[float, float]] = []  # wall and processor seconds, first when the rows beside it are committed
    began = time.monotonic()
    while process.poll() is None and len(moments) <= size and time.monotonic() - began < HUNG_S:
        parts = glob.glob(".hymt/f*/s*/p*", root_dir=folder)  # unlike Path.glob, it skips what vanishes
        if len(parts) > len(moments):
            moments.append((time.monotonic(), cpu_s(process.pid)))
            began = time.monotonic()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    runs = sorted(folder.glob(".hymt/f*/s*/p*-r*"))
    headers = [segment_run.read_header(OS_FS, path).key for path in runs]
    job_status = status.status(folder)
    wall = [later[0] - earlier[0] for earlier, later in itertools.pairwise(moments)]
    cpu = [later[1] - earlier[1] for earlier, later in itertools.pairwise(moments)]
    failures = [f"{len(runs)} of {size} runs are there"] if len(runs) != size else []
    failures += [f"{job_status.rows} of the 2 other rows are committed"] if job_status.rows != 2 else []
    failures += [f"a run took {max(cpu):.0f} s of processor time"] if cpu and max(cpu) > MAX_CPU_S else []
    return {
        "passed": not failures,
        "failures": failures,
        "runs": len(runs),
        "runs_of_the_row": headers[0].num_runs if headers else 0,
        "segments_of_a_run": max((key.last - key.first + 1 for key in headers), default=0),
        "worst_wall_s": round(max(wall, default=0.0), 1),
        "median_wall_s": round(statistics.median(wall), 1) if wall else 0.0,
        "worst_cpu_s": round(max(cpu, default=0.0), 1),
        "median_cpu_s": round(statistics.median(cpu), 1) if cpu else 0.0,
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 6, "runs of the row until the kill"))
