"""Kill jobs over many small files with SIGKILL at seeded random moments; the bytes must be as without kills.

The job is the real one, in a separate process, with a stub whose text of a row depends on everything that is decoded
with it: so a unit that is decoded in another composition after a kill is seen. Ends with one JSON line.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch import file_units, manifest
from hymt_batch.decode.request import Completion, Request
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.run.reporter import Reporter
from tests.campaigns import command, warm
from tests.fakes import engine
from tests.fakes import job as fake_job

MAX_KILLS = 30  # kills of one job; then it runs to its end
WORKERS = (1, 1, 2, 3)
PAUSE_S = 0.002  # time of a batch of the stub model
TTL_S = 1.5  # lease time to live


def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Upper-case, and add a digest of the whole batch."""
    batch = hashlib.sha256(repr([request.prompt_ids for request in requests]).encode()).hexdigest()[:6]
    texts = engine.upper(requests, check_stop)
    return [Completion([*completion.ids, *f" {batch}".encode()], "stop") for completion in texts]


def body(job: Any, reporter: Reporter) -> Any:
    return fake_job.translate_with(job, reporter, decode)


def write_files(rng: random.Random, folder: Path) -> None:
    """Write small files, some of them empty or blank, and one that is too large for any unit."""
    folder.mkdir()
    for index in range(rng.randrange(4, 30)):
        rows = [f"{index} {row} {'word ' * rng.randrange(9)}" for row in range(rng.choice([0, 1, 1, 2, 3, 8]))]
        text = "\n" * rng.randrange(2) if not rows else "".join(f"{row}\n" for row in rows)
        (folder / f"{index:02}.txt").write_text(text, encoding="utf-8")
    (folder / f"{rng.randrange(30):02}-large.txt").write_text("large " * 11_000 + "\n", encoding="utf-8")


def num_shared(folder: Path, source: Path) -> int:
    """Return the number of units of several files."""
    job = manifest.read_job(OS_FS, folder)
    inputs = [replace(input, size=(source / input.rel).stat().st_size) for input in job.inputs]
    return sum(len(unit) > 1 for unit in file_units.group(inputs, job.units))


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill jobs `size` times."""
    warm.prepare()
    engine.PAUSE_S = PAUSE_S
    failures: list[str] = []
    counts: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    for index in range(10**9):
        if counts["kills"] >= size:
            break
        rng = random.Random(f"{seed} {index}")
        folder = work / f"job{index}"
        folder.mkdir(parents=True)
        source = folder / "source"
        write_files(rng, source)
        settings = [
            "tgt_lang=fr",
            "model=demo",
            f"source.path={source}",
            f"output_dir={folder}",
            "batch.max_rows=100000",
        ]
        settings += [f"batch.part_tokens={rng.choice([20, 60, 200])}", f"batch.shard_rows={rng.choice([2, 4, 1000])}"]
        settings += [f"launch.workers={rng.choice(WORKERS)}", "launch.progress=off", "launch.samples=0"]
        settings += [f"launch.lease_ttl_s={TTL_S}", f"launch.lease_beat_s={TTL_S / 5}"]
        stderr_path, began = folder / "stderr", time.monotonic()
        if warm.wait(warm.start(warm.load([*settings, "name=whole"]), body=body, stderr_path=stderr_path)):
            raise RuntimeError(f"an unbroken run failed: {stderr_path.read_text()}")
        whole_s, golden = time.monotonic() - began, warm.digest(folder / "whole")
        counts["jobs"] += 1
        counts["shared_units"] += num_shared(folder / "whole", source)
        job, code, most = warm.load([*settings, "name=killed"]), -signal.SIGKILL, min(size, counts["kills"] + MAX_KILLS)
        while code in (-signal.SIGKILL, ExitCode.STOPPED):
            pid, deadline = warm.start(job, body=body, stderr_path=stderr_path), time.monotonic() + 120.0
            if counts["kills"] < most:
                kill_at = time.monotonic() + rng.uniform(0.0, 1.1 * whole_s)
                while (ended := warm.poll(pid)) is None and time.monotonic() < kill_at:
                    time.sleep(0.0005)
                if ended is None:
                    os.killpg(pid, signal.SIGKILL)
            else:
                ended = None
            code = warm.wait(pid, deadline - time.monotonic()) if ended is None else ended
            if code == -signal.SIGKILL:
                counts["kills"] += 1
                phases[warm.MARKS.phase] += 1
        if code or warm.digest(folder / "killed") != golden:
            failures.append(f"job {index}: exit {code}, or other bytes than those of the unbroken run")
        else:
            shutil.rmtree(folder)
    return {
        "passed": not failures and counts["shared_units"] > 0,
        "failures": failures[:20],
        **counts,
        "different_jobs": len(failures),
        "by_phase": dict(sorted(phases.items())),
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 1000, "kills"))
