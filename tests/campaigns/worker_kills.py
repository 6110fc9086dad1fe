"""Workers killed from outside at random moments, one after the other: the job ends with 0 and every row is there.

Real processes: `hymt-batch translate` with two workers of the stub model (`run`) or the demo model (`run_demo`). Which
worker is killed, and when, is chance; a worker that is loading is hit as one that decodes. No row is to blame, so none
may be given up, and the bytes are those of a job that nobody disturbed. Ends with one JSON line.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.campaigns import command, stub_worker

ROOT = Path(__file__).parent.parent.parent
ENDED_S = 300.0


def children(pid: int) -> list[int]:
    """Processes that a process has started and that still run."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    return [int(one) for one in found]


def disturbed(words: Sequence[str], rng: random.Random, kills: int, pause_s: float) -> tuple[int, str, int]:
    """Run a job and kill one of its workers after the other; its exit code, its stderr, and how many were killed."""
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    )
    done, until = 0, time.monotonic() + ENDED_S
    while process.poll() is None and done < kills and time.monotonic() < until:
        time.sleep(rng.uniform(0.0, 2 * pause_s))
        if workers := children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                done += 1
    _, told = process.communicate(timeout=ENDED_S)
    return process.returncode, told, done


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def campaign(words: Sequence[str], seed: int, size: int, work: Path, pause_s: float) -> dict[str, Any]:
    rng = random.Random(seed)
    settings = [f"output_dir={work}", "launch.progress=off", "check.max_error_rate=0"]
    calm = subprocess.run([*words, *settings, "name=calm"], cwd=ROOT, capture_output=True, text=True, check=False)
    failures = [] if calm.returncode == 0 else [f"undisturbed: exit {calm.returncode}: {calm.stderr[-500:]}"]
    killed = jobs = 0
    while killed < size and not failures:
        name = f"job{jobs}"
        jobs += 1
        more = [*words, *settings, f"name={name}", "launch.workers=2"]
        code, told, done = disturbed(more, rng, size - killed, pause_s)
        killed += done
        if code != 0:
            failures.append(f"{name}: exit {code} after {done} kills: {told[-500:]}")
        elif list((work / name).glob("errors/*")):
            failures.append(f"{name}: rows without a translation after {done} kills")
        elif outputs(work / name) != outputs(work / "calm"):
            failures.append(f"{name}: other bytes than the undisturbed job's")
    return {"passed": not failures, "failures": failures, "kills": killed, "jobs": jobs}


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "translated").iterdir())}


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` kills of workers with the stub model."""
    source = work / "in.txt"
    source.write_text("".join(f"row {row} of the corpus\n" for row in range(240)), encoding="utf-8")
    os.environ["STUB_PAUSE_S"] = "0.05"
    words = [*stub_worker.COMMAND, f"source.path={source}", "src_lang=en", "tgt_lang=fr", "batch.part_rows=4"]
    return campaign(words, seed, size, work, pause_s=0.5)


def run_demo(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` kills of workers with the demo model."""
    from hymt_batch.demo import grammar

    source = work / "in.txt"
    source.write_text("".join(f"{one.en}\n" for one in grammar.sample(seed, 1_500)), encoding="utf-8")
    words = [sys.executable, "-m", "jobs", "translate", f"source.path={source}", "model=demo", "device_map=cpu"]
    words += ["src_lang=en", "tgt_lang=fr", "batch.part_rows=24", "batch.max_rows=8", "launch.num_threads=1"]
    return campaign(words, seed, size, work, pause_s=2.5)


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 30, "kills", {"demo": (run_demo, "the demo model instead of the stub")}))
