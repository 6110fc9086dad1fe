"""Kill and suspend tasks of prepared jobs, and their merges, at seeded random moments; bytes as without.

Each job is prepared once. Several real task processes work on its shards at once, with a stub model; some are killed
with SIGKILL, some are stopped for longer than a claim lives, so that another task takes over and two write one shard.
What `missing` names is run again until nothing is missing, and the merge is killed too. Ends with one JSON line.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hymt_batch import config
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import shard_plan
from hymt_batch.write.unit_progress import UnitProgress
from jobs import __main__ as front
from jobs import translate
from tests.campaigns import command, warm
from tests.fakes import engine
from tests.fakes import job as fake_job

TASKS = 4
PAUSE_S = 0.01  # time of a batch of the stub model
TTL_S = 0.6  # time to live of a claim
MAX_KILLS = 12  # of one job
MAX_ROUNDS = 60  # until nothing is missing


def write_files(rng: random.Random, folder: Path) -> int:
    """Write a file of some shards, and small ones; return the number of rows."""
    folder.mkdir()
    counts = [rng.randrange(30, 90), *(rng.randrange(0, 5) for _ in range(rng.randrange(4)))]
    for index, num_rows in enumerate(counts):
        text = "".join(f"{index} {row} {'word ' * rng.randrange(6)}\n" for row in range(num_rows))
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    return sum(counts)


def run_task(settings: Sequence[str], units: Sequence[int]) -> int:
    job = config.load("translate", [*settings, f"shard.index={' '.join(map(str, units))}"])
    with Reporter("off") as reporter, fake_job.installed():
        translate.translate_shards(job, reporter)
    return 0


def run_verb(words: Sequence[str]) -> int:
    with fake_job.installed():
        return front.main(list(words))


def start_tasks(rng: random.Random, settings: Sequence[str], missing: Sequence[int], log: Path) -> list[int]:
    """Start tasks that share the missing units; one of them may get units of another one too."""
    pids = []
    for index in range(TASKS):
        units = list(missing[index::TASKS])
        if rng.random() < 0.2:
            units = sorted({*units, rng.choice(missing)})
        if units:
            pids.append(warm.fork(lambda index=index, units=units: as_process(index, run_task, settings, units), log))  # type: ignore[misc]
    return pids


def as_process(index: int, work: Callable[..., int], *arguments: Any) -> int:
    warm.MARKS.process = index + 1
    return work(*arguments)


def disturb(rng: random.Random, pids: list[int], counts: Counter[str], most: int, span_s: float) -> set[int]:
    """Kill and suspend some of the processes within `span_s`; return the exit codes of all when they have ended."""
    codes: set[int] = set()
    began = time.monotonic()
    kill_at = {pid: began + rng.uniform(0.0, span_s) for pid in pids if rng.random() < 0.5}
    stop_at = {pid: began + rng.uniform(0.0, span_s) for pid in pids if rng.random() < 0.3}
    resume_at: dict[int, float] = {}
    running = set(pids)
    while running:
        now = time.monotonic()
        for pid in list(running):
            if (code := warm.poll(pid)) is not None:
                running.remove(pid)
                codes.add(code)
            elif now > kill_at.get(pid, now) and counts["kills"] < most:
                del kill_at[pid]
                os.kill(pid, signal.SIGKILL)
                counts["kills"] += 1
            elif now > stop_at.get(pid, now):
                del stop_at[pid]
                os.kill(pid, signal.SIGSTOP)
                counts["suspended"] += 1
                resume_at[pid] = now + rng.uniform(0.0, 2 * TTL_S)
            elif now > resume_at.get(pid, now):
                del resume_at[pid]
                os.kill(pid, signal.SIGCONT)
        if now > began + 120.0:
            raise TimeoutError(f"tasks {running} did not end")
        time.sleep(0.005)
    return codes


def run_job(rng: random.Random, folder: Path, counts: Counter[str], most: int) -> str:
    """Run one job; return what is wrong, "" if nothing is."""
    num_rows, log = write_files(rng, folder / "source"), folder / "stderr"
    part_rows = rng.choice([2, 3, 5])
    settings = [
        "tgt_lang=fr",
        "model=demo",
        f"source.path={folder / 'source'}",
        f"output_dir={folder}",
        f"batch.part_rows={part_rows}",
        f"batch.shard_rows={rng.choice([7, 12, 1000])}",
        "launch.samples=0",
        f"launch.lease_ttl_s={TTL_S}",
        f"launch.lease_beat_s={TTL_S / 5}",
    ]
    inspect = [f"output_dir={folder}", "name=tasks"]
    began = time.monotonic()
    whole = warm.fork(lambda: run_verb(["translate", *settings, "name=whole", "launch.progress=off"]), log)
    code, span_s = warm.wait(whole), time.monotonic() - began
    if code or warm.wait(warm.fork(lambda: run_verb(["prepare", *settings, "name=tasks"]), log)):
        return f"an unbroken run failed: {log.read_text()}"
    plan = shard_plan.read(OS_FS, folder / "tasks")
    warm.MARKS.clear()
    for _ in range(MAX_ROUNDS):
        missing = list(UnitProgress(OS_FS, folder / "tasks", plan).missing())
        if not missing:
            break
        codes = disturb(rng, start_tasks(rng, [*settings, "name=tasks"], missing, log), counts, most, span_s)
        allowed = {0, -signal.SIGKILL, int(ExitCode.STOPPED), int(ExitCode.LEASE_HELD)}
        if wrong := codes - allowed:
            return f"tasks end with {wrong}: {log.read_text()[-2000:]}"
        counts["tasks"] += len(codes)
    counts["rows"] += num_rows
    counts["rows_decoded"] += warm.MARKS.rows
    for _ in range(MAX_ROUNDS):
        code = min(disturb(rng, [warm.fork(lambda: run_verb(["merge", *inspect]), log)], counts, most, span_s))
        if code not in (-signal.SIGKILL, int(ExitCode.STOPPED), int(ExitCode.LEASE_HELD)):
            break
    if code or warm.digest(folder / "tasks") != warm.digest(folder / "whole"):
        return f"the merge ends with {code}, or with other bytes: {log.read_text()[-2000:]}"
    return ""


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill tasks and merges `size` times."""
    warm.prepare()
    engine.PAUSE_S = PAUSE_S
    failures: list[str] = []
    counts: Counter[str] = Counter()
    for index in range(10**9):
        if counts["kills"] >= size:
            break
        folder = work / f"job{index}"
        folder.mkdir(parents=True)
        most = min(size, counts["kills"] + MAX_KILLS)
        wrong = run_job(random.Random(f"{seed} {index}"), folder, counts, most)
        counts["jobs"] += 1
        if wrong:
            failures.append(f"job {index}: {wrong}")
        else:
            shutil.rmtree(folder)
    return {"passed": not failures, "failures": failures[:20], **counts}


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 200, "kills of tasks and merges"))
