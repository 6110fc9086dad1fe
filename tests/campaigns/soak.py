"""For minutes: jobs preempted every few seconds on a store that fails at random, beside one job that is left alone.

The jobs are the real one with the stub model, in files of three formats, with one to three workers. Each is killed,
stopped in an orderly way, or halted for longer than its lease while another runner takes over; one call of the store in
ten thousand fails. Every job must end with the bytes of an unbroken run on a sound store. The one that is left alone is
watched: neither its memory nor its open files may grow while it works. Ends with one JSON line.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hymt_batch import fs
from hymt_batch.errors import ExitCode
from hymt_batch.progress import Reporter
from tests.campaigns import command, kills, sources, stub, warm

FAILING = 0.0001  # share of the store's calls; a job that goes on makes one or two for each part that is there
CAUSES = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT)
PART_ROWS = 8
SHORTEST_S, LONGEST_S = 2.0, 8.0  # between preemptions
JOB_S = 60.0  # of work in a job that is preempted
PAUSE_S = 0.02  # of a batch
STEADY_PAUSE_S = 0.01
GROWTH = 1.05  # of the memory of the job that is left alone, from a tenth of its time to its end
MAY = (ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.LEASE_HELD, ExitCode.PREFLIGHT)
"""Exits that a failing store and other runners may cause; each run after them goes on."""


class FailingOs(fs.OsFs):
    """The operating system's files, of which a call fails now and then."""

    rng: random.Random

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or name in ("rng", "write_some"):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            if self.rng.random() < FAILING:
                cause = self.rng.choice(CAUSES)
                if name == "close":
                    found(*arguments)  # the descriptor is gone all the same
                raise OSError(cause, os.strerror(cause))
            return found(*arguments, **options)

        return call


def on_a_failing_store(seed: str) -> warm.Translate:
    """The job with the stub model; the seed makes each run fail elsewhere."""

    def body(job: Any, telling: Reporter) -> Any:
        FailingOs.rng = random.Random(seed)
        fs.OS_FS.__class__ = FailingOs  # the one object that every module has
        return warm.STUB(job, telling)

    return body


def victims(seed: int, work: Path) -> Any:
    number = 0
    while True:
        rng = random.Random(f"soak {seed} {number}")
        folder = work / f"job{number}"
        folder.mkdir(parents=True)
        workers = rng.choice([1, 1, 2, 3])
        rows = round(JOB_S / PAUSE_S) * PART_ROWS
        texts = [f"row {row} {'word ' * rng.randrange(12)}{rng.randrange(10**9):x}" for row in range(rows)]
        source = folder / kills.FORMATS[number % len(kills.FORMATS)]
        sources.write(source, texts)
        settings = [
            *("tgt_lang=fr", "model=demo", "launch.progress=off", "launch.samples=0"),
            *(f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", "batch.shard_rows=2000"),
            *(f"launch.lease_ttl_s={kills.TTL_S}", f"launch.lease_beat_s={kills.TTL_S / 5}"),
            f"launch.workers={workers}",
        ]
        yield rng, kills.Victim("job", source, texts, PART_ROWS, warm.STUB, settings, False, workers)
        number += 1


def preempted(rng: random.Random, victim: kills.Victim, until: float, tally: kills.Tally, did: Counter[str]) -> None:
    """Run one job to its end, preempted every few seconds, and judge it."""
    told = victim.source.parent / "told"
    stub.PAUSE_S = 0.0
    made = victim.unbroken()
    tally.compare(victim.name, [text.upper() for text in victim.texts], sources.read(made))
    stub.PAUSE_S = PAUSE_S
    code, run = -1, 0
    while code:
        run += 1
        sound = time.monotonic() > until or run > 200  # then it may end
        body = warm.STUB if sound else on_a_failing_store(f"{victim.source} {run}")
        if sound:
            stub.PAUSE_S = 0.0
        began, pid = time.monotonic(), warm.start(victim.job, body=body, told=told)
        lasts = 600.0 if sound else rng.uniform(SHORTEST_S, LONGEST_S)
        while (found := warm.ended(pid)) is None and time.monotonic() < began + lasts:
            time.sleep(0.01)
        if found is None:
            how = rng.choice(["killed", "stopped", "halted"])
            did[how] += 1
            found = preempt(how, pid, victim, told, rng)
        else:
            did[f"ended {found}"] += 1
        code = found
        if code != -signal.SIGKILL and code not in MAY:
            tally.fail(f"{victim.source.name}: exit {code}: {told.read_text()[-500:]}")
            return
        if sound and code:
            tally.fail(f"{victim.source.name}: a run on a sound store ended with {code}: {told.read_text()[-500:]}")
            return
    if again := warm.wait(warm.start(victim.job, told=told)):  # removes what a failing store did not let go
        tally.fail(f"{victim.source.name}: run again, the finished job ended with {again}")
    tally.jobs += 1
    tally.rows += len(victim.texts)
    tally.formats[victim.source.name] += 1
    tally.workers[str(victim.workers)] += 1
    if warm.digest(victim.output) != victim.golden:
        tally.different_jobs += 1
        tally.fail(f"{victim.source.name}: other bytes than the unbroken run's")
    if left := kills.left_over(victim.output):
        tally.leftovers += len(left)
        tally.fail(f"{victim.source.name}: left over: {left[:5]}")


def preempt(how: str, pid: int, victim: kills.Victim, told: Path, rng: random.Random) -> int:
    """Take a run off its machine; its exit code."""
    if how == "killed":
        os.killpg(pid, signal.SIGKILL)
        return warm.wait(pid)
    if how == "stopped":
        os.kill(pid, rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]))
        return warm.wait(pid)
    os.killpg(pid, signal.SIGSTOP)
    other = warm.start(victim.job, body=on_a_failing_store(f"{victim.source} other {rng.random()}"), told=told)
    time.sleep(3 * kills.TTL_S)
    os.killpg(pid, signal.SIGCONT)
    time.sleep(kills.TTL_S)
    os.killpg(other, signal.SIGKILL)
    warm.wait(other)
    os.killpg(pid, signal.SIGKILL)
    return warm.wait(pid)


def resident_kib(pid: int) -> tuple[int, int]:
    """Resident memory and open files of a process; (0, 0) once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        return kib, len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0, 0


class Steady:
    """One job that works all the time; its input is longer than it can do."""

    def __init__(self, work: Path, seconds: float) -> None:
        folder = work / "steady"
        folder.mkdir(parents=True)
        self.source = folder / "in.txt"
        self.rows = round(seconds / STEADY_PAUSE_S) * PART_ROWS
        with self.source.open("w", encoding="utf-8") as file:
            file.writelines(f"row {row} of a long corpus\n" for row in range(self.rows))
        fixed = ["tgt_lang=fr", "model=demo", "launch.progress=off", "batch.shard_rows=4096", "name=job"]
        fixed += [f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", f"source.path={self.source}"]
        self.job = warm.load([*fixed, f"output_dir={folder}"])
        self.folder, self.samples = folder, []  # type: ignore[var-annotated]
        stub.PAUSE_S = STEADY_PAUSE_S
        self.pid = warm.forked(lambda: int(warm.translate.run(self.job, warm.STUB)), folder / "told")

    def sample(self) -> None:
        self.samples.append(resident_kib(self.pid))

    def finish(self) -> tuple[int, int]:
        """Stop it, let it end quickly; exit codes of both."""
        code = warm.ended(self.pid)
        if code is None:
            os.kill(self.pid, signal.SIGTERM)
            code = warm.wait(self.pid)
        stub.PAUSE_S = 0.0
        again = warm.forked(lambda: int(warm.translate.run(self.job, warm.STUB)), self.folder / "told")
        return code, warm.wait(again, 3600.0)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` minutes."""
    import threading

    warm.prepare()
    tally, did = kills.Tally(), Counter[str]()
    began = time.monotonic()
    until, over = began + 60 * size, threading.Event()
    steady = Steady(work, 60.0 * size)

    def watch() -> None:
        while not over.wait(1.0):
            steady.sample()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    for rng, victim in victims(seed, work):
        preempted(rng, victim, until, tally, did)
        if not tally.failures:
            shutil.rmtree(victim.source.parent)
        if time.monotonic() > until or tally.failures:
            break
    worked_s = time.monotonic() - began
    over.set()
    watching.join()
    first, last = steady.finish()
    wanted = [f"row {row} of a long corpus".upper() for row in range(steady.rows)]
    if first not in (ExitCode.STOPPED, ExitCode.COMPLETE) or last != ExitCode.COMPLETE:
        tally.fail(f"the steady job ended with {first}, then {last}: {(steady.folder / 'told').read_text()[-500:]}")
    elif sources.read(steady.folder / "job" / "translated" / "in.txt") != wanted:
        tally.fail("the steady job has other rows")
    seen = [one for one in steady.samples if one[0]]
    early, late = seen[len(seen) // 10 : len(seen) // 5], seen[-max(1, len(seen) // 10) :]
    growth = max(kib for kib, _ in late) / max(1, max(kib for kib, _ in early or seen[:1]))
    if growth > GROWTH:
        tally.fail(f"the steady job's memory grew {growth:.3f} times")
    if max(fds for _, fds in late) > max(fds for _, fds in early or seen[:1]) + 2:
        tally.fail("the steady job's open files grew")
    return {
        "passed": not tally.failures,
        "failures": tally.failures[:20],
        "seconds": round(worked_s),
        "jobs": tally.jobs,
        "rows": tally.rows,
        "different_jobs": tally.different_jobs,
        "leftovers": tally.leftovers,
        "preemptions": sum(did[how] for how in ("killed", "stopped", "halted")),
        "did": dict(sorted(did.items())),
        "by_format": dict(sorted(tally.formats.items())),
        "by_workers": dict(sorted(tally.workers.items())),
        "steady_rows": steady.rows,
        "max_steady_per_mille_of_early_memory": round(1000 * growth),
        "max_steady_kib": max(kib for kib, _ in seen),
        "max_steady_open_files": max(fds for _, fds in seen),
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 30, "minutes"))
