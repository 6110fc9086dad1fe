"""Kill workers from outside at random moments, one at a time: the job must end with exit 0 and lose no row.

Real processes: `hymt-batch translate` with two workers of the stub model (`run`) or the demo model (`run_demo`). Which
worker is killed, and when, is random, so a worker may also be hit while it loads. No row causes these deaths, so none
may be quarantined, and the bytes must be those of an undisturbed job. Ends with one JSON line.
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

from tests.campaigns import command
from tests.fakes import worker as fake_worker

ROOT = Path(__file__).parent.parent.parent
ENDED_S = 300.0


def children(pid: int) -> list[int]:
    """Return the ids of the running child processes of a process."""
    try:
        child_ids = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []
    return [int(child_id) for child_id in child_ids]


def disturbed(command: Sequence[str], rng: random.Random, kills: int, pause_s: float) -> tuple[int, str, int]:
    """Run a job and kill its workers one at a time; return its exit code, its stderr and the number of kills."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **ONE_THREAD},
    )
    num_killed, deadline = 0, time.monotonic() + ENDED_S
    while process.poll() is None and num_killed < kills and time.monotonic() < deadline:
        time.sleep(rng.uniform(0.0, 2 * pause_s))
        if workers := children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
                num_killed += 1
    _, stderr = process.communicate(timeout=ENDED_S)
    return process.returncode, stderr, num_killed


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def campaign(command: Sequence[str], seed: int, size: int, work: Path, pause_s: float) -> dict[str, Any]:
    rng = random.Random(seed)
    overrides = [f"output_dir={work}", "launch.progress=off", "check.max_error_rate=0"]
    calm = subprocess.run([*command, *overrides, "name=calm"], cwd=ROOT, capture_output=True, text=True, check=False)
    failures = [] if calm.returncode == 0 else [f"undisturbed: exit {calm.returncode}: {calm.stderr[-500:]}"]
    killed = jobs = 0
    while killed < size and not failures:
        name = f"job{jobs}"
        jobs += 1
        arguments = [*command, *overrides, f"name={name}", "launch.workers=2"]
        code, stderr, num_killed = disturbed(arguments, rng, size - killed, pause_s)
        killed += num_killed
        if code != 0:
            failures.append(f"{name}: exit {code} after {num_killed} kills: {stderr[-500:]}")
        elif list((work / name).glob("errors/*")):
            failures.append(f"{name}: rows without a translation after {num_killed} kills")
        elif outputs(work / name) != outputs(work / "calm"):
            failures.append(f"{name}: the bytes differ from those of the undisturbed job")
    return {"passed": not failures, "failures": failures, "kills": killed, "jobs": jobs}


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "translated").iterdir())}


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill `size` workers with the stub model."""
    source = work / "in.txt"
    source.write_text("".join(f"row {row} of the corpus\n" for row in range(240)), encoding="utf-8")
    os.environ["STUB_PAUSE_S"] = "0.05"
    command = [*fake_worker.COMMAND, f"source.path={source}", "src_lang=en", "tgt_lang=fr", "batch.part_rows=4"]
    return campaign(command, seed, size, work, pause_s=0.5)


def run_demo(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill `size` workers with the demo model."""
    from hymt_batch.demo import grammar

    source = work / "in.txt"
    source.write_text("".join(f"{example.en}\n" for example in grammar.sample(seed, 1_500)), encoding="utf-8")
    command = [sys.executable, "-m", "jobs", "translate", f"source.path={source}", "model=demo", "device_map=cpu"]
    command += ["src_lang=en", "tgt_lang=fr", "batch.part_rows=24", "batch.max_rows=8", "launch.num_threads=1"]
    return campaign(command, seed, size, work, pause_s=2.5)


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 30, "kills", {"demo": (run_demo, "use the demo model instead of the stub")}))
