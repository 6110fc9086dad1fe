"""For some minutes, preempt jobs every few seconds on a file system that fails at random; watch one undisturbed job.

The jobs are the real one with the stub model, with files of several formats and one to three workers. Each is killed,
stopped cleanly, or halted for longer than its lease while another runner takes over; one file system call in ten
thousand fails. Every job must end with the bytes of an unbroken run without such errors. One more job runs undisturbed:
neither its memory nor the number of its open files may grow. Ends with one JSON line.
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
from hymt_batch.run.reporter import Reporter
from tests.campaigns import command, kills, sources, warm
from tests.fakes import engine as fake_engine

FAILING = 0.0001  # share of file system calls that fail; a resumed job makes one or two for each existing part
CAUSES = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.EDQUOT)
PART_ROWS = 8
SHORTEST_S, LONGEST_S = 2.0, 8.0  # between preemptions
JOB_S = 60.0  # of work in a job to be preempted
PAUSE_S = 0.02  # of a batch
STEADY_PAUSE_S = 0.01
GROWTH = 1.05  # allowed growth of the undisturbed job's memory, from a tenth of its time to its end
MAY = (ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.LEASE_HELD, ExitCode.PREFLIGHT)
"""Exit codes that file system errors and other runners may cause; the next run continues."""


class FailingOs(fs.OsFs):
    """The operating system's files, with calls that fail at random."""

    rng: random.Random

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name.startswith("_") or name in ("rng", "write_some"):
            return attribute

        def call(*arguments: Any, **options: Any) -> Any:
            if self.rng.random() < FAILING:
                cause = self.rng.choice(CAUSES)
                if name == "close":
                    attribute(*arguments)  # the descriptor is closed even when close reports an error
                raise OSError(cause, os.strerror(cause))
            return attribute(*arguments, **options)

        return call


def on_failing_fs(seed: str) -> warm.Translate:
    """Return the job with the stub model on a failing file system; the seed decides which calls fail."""

    def body(job: Any, reporter: Reporter) -> Any:
        FailingOs.rng = random.Random(seed)
        fs.OS_FS.__class__ = FailingOs  # the one object that all modules share
        return warm.STUB(job, reporter)

    return body


def victims(seed: int, work: Path) -> Any:
    index = 0
    while True:
        rng = random.Random(f"soak {seed} {index}")
        folder = work / f"job{index}"
        folder.mkdir(parents=True)
        workers = rng.choice([1, 1, 2, 3])
        rows = round(JOB_S / PAUSE_S) * PART_ROWS
        texts = [f"row {row} {'word ' * rng.randrange(12)}{rng.randrange(10**9):x}" for row in range(rows)]
        source = folder / kills.FORMATS[index % len(kills.FORMATS)]
        sources.write(source, texts)
        overrides = [
            *("tgt_lang=fr", "model=demo", "launch.progress=off", "launch.samples=0"),
            *(f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", "batch.shard_rows=2000"),
            *(f"launch.lease_ttl_s={kills.TTL_S}", f"launch.lease_beat_s={kills.TTL_S / 5}"),
            f"launch.workers={workers}",
        ]
        yield rng, kills.Victim("job", source, texts, PART_ROWS, warm.STUB, overrides, False, workers)
        index += 1


def run_preempted(
    rng: random.Random, victim: kills.Victim, until: float, tally: kills.Tally, did: Counter[str]
) -> None:
    """Run one job to its end, preempt it every few seconds, and check its output."""
    stderr_path = victim.source.parent / "stderr"
    fake_engine.PAUSE_S = 0.0
    output_path = victim.unbroken()
    tally.compare(victim.name, [text.upper() for text in victim.texts], sources.read(output_path))
    fake_engine.PAUSE_S = PAUSE_S
    code, run = -1, 0
    while code:
        run += 1
        undisturbed = time.monotonic() > until or run > 200  # then the job runs undisturbed to its end
        body = warm.STUB if undisturbed else on_failing_fs(f"{victim.source} {run}")
        if undisturbed:
            fake_engine.PAUSE_S = 0.0
        began, pid = time.monotonic(), warm.start(victim.job, body=body, stderr_path=stderr_path)
        run_s = 600.0 if undisturbed else rng.uniform(SHORTEST_S, LONGEST_S)
        while (ended_with := warm.poll(pid)) is None and time.monotonic() < began + run_s:
            time.sleep(0.01)
        if ended_with is None:
            how = rng.choice(["killed", "stopped", "halted"])
            did[how] += 1
            ended_with = preempt(how, pid, victim, stderr_path, rng)
        else:
            did[f"ended {ended_with}"] += 1
        code = ended_with
        if code != -signal.SIGKILL and code not in MAY:
            tally.fail(f"{victim.source.name}: exit {code}: {stderr_path.read_text()[-500:]}")
            return
        if undisturbed and code:
            tally.fail(f"{victim.source.name}: an undisturbed run ended with {code}: {stderr_path.read_text()[-500:]}")
            return
    if last_code := warm.wait(
        warm.start(victim.job, stderr_path=stderr_path)
    ):  # removes what earlier runs could not remove
        tally.fail(f"{victim.source.name}: the finished job, run again, ended with {last_code}")
    tally.jobs += 1
    tally.rows += len(victim.texts)
    tally.formats[victim.source.name] += 1
    tally.workers[str(victim.workers)] += 1
    if warm.digest(victim.output) != victim.golden:
        tally.different_jobs += 1
        tally.fail(f"{victim.source.name}: the bytes differ from those of the unbroken run")
    if leftovers := kills.leftover_files(victim.output):
        tally.leftovers += len(leftovers)
        tally.fail(f"{victim.source.name}: left over: {leftovers[:5]}")


def preempt(how: str, pid: int, victim: kills.Victim, stderr_path: Path, rng: random.Random) -> int:
    """Preempt a run in the given way; return its exit code."""
    if how == "killed":
        os.killpg(pid, signal.SIGKILL)
        return warm.wait(pid)
    if how == "stopped":
        os.kill(pid, rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]))
        return warm.wait(pid)
    os.killpg(pid, signal.SIGSTOP)
    rival_pid = warm.start(
        victim.job, body=on_failing_fs(f"{victim.source} other {rng.random()}"), stderr_path=stderr_path
    )
    time.sleep(3 * kills.TTL_S)
    os.killpg(pid, signal.SIGCONT)
    time.sleep(kills.TTL_S)
    os.killpg(rival_pid, signal.SIGKILL)
    warm.wait(rival_pid)
    os.killpg(pid, signal.SIGKILL)
    return warm.wait(pid)


def resident_kib(pid: int) -> tuple[int, int]:
    """Return the resident memory in KiB and the number of open files of a process; (0, 0) once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        kib = next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        return kib, len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0, 0


class Steady:
    """A job that works all the time; its input is longer than it can finish."""

    def __init__(self, work: Path, seconds: float) -> None:
        folder = work / "steady"
        folder.mkdir(parents=True)
        self.source = folder / "in.txt"
        self.rows = round(seconds / STEADY_PAUSE_S) * PART_ROWS
        with self.source.open("w", encoding="utf-8") as file:
            file.writelines(f"row {row} of a long corpus\n" for row in range(self.rows))
        overrides = ["tgt_lang=fr", "model=demo", "launch.progress=off", "batch.shard_rows=4096", "name=job"]
        overrides += [f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", f"source.path={self.source}"]
        self.job = warm.load([*overrides, f"output_dir={folder}"])
        self.folder, self.samples = folder, []  # type: ignore[var-annotated]
        fake_engine.PAUSE_S = STEADY_PAUSE_S
        self.pid = warm.fork(lambda: warm.run(self.job), folder / "stderr")

    def sample(self) -> None:
        self.samples.append(resident_kib(self.pid))

    def finish(self) -> tuple[int, int]:
        """Stop the job, then run it to its end without pauses; return the exit codes of both runs."""
        code = warm.poll(self.pid)
        if code is None:
            os.kill(self.pid, signal.SIGTERM)
            code = warm.wait(self.pid)
        fake_engine.PAUSE_S = 0.0
        pid = warm.fork(lambda: warm.run(self.job), self.folder / "stderr")
        return code, warm.wait(pid, 3600.0)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run for `size` minutes."""
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
        run_preempted(rng, victim, until, tally, did)
        if not tally.failures:
            shutil.rmtree(victim.source.parent)
        if time.monotonic() > until or tally.failures:
            break
    worked_s = time.monotonic() - began
    over.set()
    watching.join()
    first, last = steady.finish()
    expected = [f"row {row} of a long corpus".upper() for row in range(steady.rows)]
    if first not in (ExitCode.STOPPED, ExitCode.COMPLETE) or last != ExitCode.COMPLETE:
        tally.fail(f"the steady job ended with {first}, then {last}: {(steady.folder / 'stderr').read_text()[-500:]}")
    elif sources.read(steady.folder / "job" / "translated" / "in.txt") != expected:
        tally.fail("the steady job has wrong rows")
    samples = [sample for sample in steady.samples if sample[0]]
    early, late = samples[len(samples) // 10 : len(samples) // 5], samples[-max(1, len(samples) // 10) :]
    growth = max(kib for kib, _ in late) / max(1, max(kib for kib, _ in early or samples[:1]))
    if growth > GROWTH:
        tally.fail(f"the steady job's memory grew {growth:.3f} times")
    if max(fds for _, fds in late) > max(fds for _, fds in early or samples[:1]) + 2:
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
        "max_steady_kib": max(kib for kib, _ in samples),
        "max_steady_open_files": max(fds for _, fds in samples),
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 30, "minutes"))
