"""Kill a small job at each of its system calls on the output path, or let that call fail.

strace counts the calls of an unbroken run, then kills the process at the N-th call or fails that call, for each N.
After a kill the next run must end with the bytes of an unbroken run, and decode at most one part again. After an error
the job must end with these bytes, or with a documented exit code and a cause in one line; then the next run must end
with these bytes. Ends with one JSON line.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.errors import ExitCode
from hymt_batch.run.reporter import Reporter
from tests.campaigns import command, kills, sources, warm
from tests.fakes import engine as fake_engine

CHANGING = ["openat", "write", "pwrite64", "fsync", "fdatasync", "close", "?link", "linkat", "?rename", "renameat"]
CHANGING += ["renameat2", "?unlink", "unlinkat", "?mkdir", "mkdirat", "?rmdir", "ftruncate"]
READING = ["read", "pread64", "getdents64", "?lstat", "newfstatat", "fstat"]
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "ESTALE", "EROFS")
ALLOWED = (ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.PREFLIGHT)
TEXTS = ["one", "two", "three", "empty", "five", "six", "seven"]
PART_ROWS = 3  # three parts
KILL = "kill"


@dataclass(frozen=True)
class Point:
    """A fault to inject at the `number`-th call of this name in the main thread of the job."""

    call: str
    number: int
    what: str  # KILL, or the name of an errno
    stays: bool = False  # True: every call from this one on fails

    @property
    def inject(self) -> str:
        what = "signal=SIGKILL" if self.what == KILL else f"error={self.what}"
        return f"{self.call}:{what}:when={self.number}{'+' if self.stays else ''}"

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.number}{' and after' if self.stays else ''}"


def under_strace(
    begin: Callable[[Callable[[], object]], int], log: Path, calls: Sequence[str], inject: str = ""
) -> int:
    """Attach strace to a process while it waits in the function passed to `begin`; return its exit code."""
    ready, go = os.pipe()
    pid = begin(lambda: os.read(ready, 1))
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(calls)}"]
    command += ["-e", f"inject={inject}"] if inject else []
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        for line in strace.stderr:
            if "attached" in line:
                break
        os.write(go, b".")
        code = warm.wait(pid)
        strace.stderr.read()
    os.close(ready)
    os.close(go)
    return code


def on_path(log: Path, path: Path) -> list[tuple[str, int]]:
    """Return the main thread's traced calls on a path, each with its index (from 1) among the calls of that name."""
    num_of_call: Counter[tuple[str, str]] = Counter()
    calls, main = [], ""
    for line in log.read_text(errors="replace").splitlines():
        if (match := re.match(r"(\d+) +(\w+)\(", line)) is None:
            continue
        main = main or match[1]
        num_of_call[match[1], match[2]] += 1
        if match[1] == main and str(path) in line:
            calls.append((match[2], num_of_call[match[1], match[2]]))
    return calls


class TracedJob:
    """A job that can run under strace."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.source, self.log, self.stderr_path = work, work / "in.txt", work / "strace", work / "stderr"
        sources.write(self.source, TEXTS)
        overrides = ["tgt_lang=fr", "model=demo", f"source.path={self.source}", f"output_dir={work}", "name=job"]
        overrides += [f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", "batch.shard_rows=6"]
        overrides += ["launch.progress=off", "launch.samples=1", "launch.lease_ttl_s=1.5", "launch.lease_beat_s=0.5"]
        self.job = warm.load(overrides)
        self.output = work / "job"
        if code := self.run():
            raise RuntimeError(f"the unbroken run ended with {code}: {self.stderr_path.read_text()}")
        self.rows = warm.MARKS.rows
        self.golden = warm.digest(self.output)
        self.final = (self.output / "translated" / "in.txt").read_bytes()
        translations = sources.read(self.output / "translated" / "in.txt")
        if translations != [text.upper() for text in TEXTS]:
            raise RuntimeError(f"the unbroken run wrote {translations}")

    def run(self) -> int:
        self.stderr_path.unlink(missing_ok=True)
        return warm.wait(warm.start(self.job, stderr_path=self.stderr_path))

    def clear(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)

    def traced(self, calls: list[str], inject: str = "") -> int:
        """Run the job under strace and return its exit code; the log has one line for each call."""
        self.stderr_path.unlink(missing_ok=True)

        def begin(hold: Callable[[], object]) -> int:
            def body(job: Any, reporter: Reporter) -> Any:
                hold()
                return warm.STUB(job, reporter)

            return warm.start(self.job, body=body, stderr_path=self.stderr_path)

        return under_strace(begin, self.log, calls, inject)

    def calls(self, names: list[str]) -> list[tuple[str, int]]:
        """Return the main thread's calls on output paths, each with its index (from 1) among the calls of that name."""
        self.clear()
        if code := self.traced(names):
            raise RuntimeError(f"the traced run ended with {code}: {self.stderr_path.read_text()}")
        return on_path(self.log, self.output)

    def hit(self) -> bool:
        """Return whether the last injection hit a call on an output path."""
        lines = self.log.read_text(errors="replace").splitlines()
        if any("(INJECTED)" in line for line in lines):
            return any("(INJECTED)" in line and str(self.output) in line for line in lines)
        return any("killed by SIGKILL" in line for line in lines)


def judge(traced_job: TracedJob, point: Point, counts: Counter[str], codes: Counter[str]) -> str:
    """Inject one fault, run the job again, and return what was wrong, or ""."""
    traced_job.clear()
    code = traced_job.traced([point.call], point.inject)
    stderr = traced_job.stderr_path.read_text() if traced_job.stderr_path.exists() else ""
    num_decoded = warm.MARKS.rows
    counts["injected" if traced_job.hit() else "missed"] += 1
    codes[f"{point.what} exit {code}"] += 1
    if "Traceback" in stderr or "Logging error" in stderr:
        return f"{point}: a traceback: {stderr[-1500:]}"
    if point.what == KILL:
        if code not in (-9, 0):
            return f"{point}: exit {code}: {stderr[-300:]}"
    elif code not in ALLOWED:
        return f"{point}: exit {code}: {stderr[-300:]}"
    elif (
        code
        and not (point.stays and point.call == "write")
        and not re.search(r"^hymt-batch: .{20,}", stderr.splitlines()[-1] if stderr else "")
    ):
        return f"{point}: exit {code} without a cause: {stderr[-300:]}"
    published = traced_job.output / "translated" / "in.txt"
    if published.exists() and published.read_bytes() != traced_job.final:
        return f"{point}: exit {code}, and an incomplete file was published"
    if code == 0 and warm.digest(traced_job.output) != traced_job.golden:
        return f"{point}: exit 0, but the bytes differ"
    if next_code := traced_job.run():
        return f"{point}: exit {code}, and then {next_code}: {traced_job.stderr_path.read_text()[-500:]}"
    if warm.digest(traced_job.output) != traced_job.golden:
        return f"{point}: exit {code}, and the bytes differ after the next run"
    if point.what == KILL and num_decoded + warm.MARKS.rows - traced_job.rows > PART_ROWS:
        return f"{point}: {num_decoded + warm.MARKS.rows - traced_job.rows} rows were decoded again"
    leftovers = [name for name in kills.leftover_files(traced_job.output) if "/quarantine/" not in name]
    return f"{point}: left over: {leftovers[:3]}" if leftovers else ""


def sweep(points: list[Point], traced_job: TracedJob) -> dict[str, Any]:
    began, failures = time.monotonic(), []
    counts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for point in points:
        calls[f"{point.call} {point.what}"] += 1
        if failure := judge(traced_job, point, counts, codes):
            failures.append(failure)
            print(f"syscalls: {failure}", file=sys.stderr, flush=True)
    return {
        "passed": not failures,
        "failures": failures[:20],
        "points": len(points),
        "points_passed": len(points) - len(failures),
        "injected": counts["injected"],
        "missed": counts["missed"],
        "milliseconds": round(1000 * (time.monotonic() - began)),
        "by_call": dict(sorted(calls.items())),
        "by_exit": dict(sorted(codes.items())),
    }


def prepare_job(work: Path) -> TracedJob:
    warm.prepare(sync=True)
    fake_engine.PAUSE_S = 0.0
    return TracedJob(work)


def choose(points: list[Point], seed: int, size: int) -> list[Point]:
    """Return all points, or a seeded sample of `size` points."""
    return points if not size or size >= len(points) else random.Random(seed).sample(points, size)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill the job at `size` system calls, chosen by the seed; 0: at each of them."""
    traced_job = prepare_job(work)
    points = [Point(call, number, KILL) for call, number in traced_job.calls(CHANGING)]
    return {**sweep(choose(points, seed, size), traced_job), "max_boundaries": len(points)}


def run_errors(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Inject `size` errors, chosen by the seed, into one call or all calls from then on; 0: each error at each call."""
    traced_job = prepare_job(work)
    calls = traced_job.calls([*CHANGING, *READING])
    points = [Point(*call, error, stays) for call in calls for error in ERRORS for stays in (False, True)]
    return {**sweep(choose(points, seed, size), traced_job), "max_boundaries": len(calls)}


def run_slow(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Delay each sync, link and rename by `size` milliseconds: the bytes must be the same, and no lease is lost."""
    traced_job = prepare_job(work)
    calls, began = ["fsync", "linkat", "rename"], time.monotonic()
    traced_job.clear()
    code = traced_job.traced(calls, f"{','.join(calls)}:delay_exit={size * 1000}")
    stderr = traced_job.stderr_path.read_text()
    slowed = traced_job.log.read_text().count("(DELAYED)")
    failure = (
        f"exit {code}: {stderr}"
        if code
        else ""
        if warm.digest(traced_job.output) == traced_job.golden
        else "the bytes differ"
    )
    failure = failure or ("" if slowed > 20 else f"only {slowed} calls were delayed")
    milliseconds = round(1000 * (time.monotonic() - began))
    return {
        "passed": not failure,
        "failures": [failure] if failure else [],
        "slowed": slowed,
        "milliseconds": milliseconds,
    }


if __name__ == "__main__":
    sys.exit(
        command.main(
            __doc__,
            run,
            0,
            "calls; 0: all",
            {
                "errors": (run_errors, "inject errors of the file system instead of kills"),
                "slow": (run_slow, "delay calls by so many milliseconds instead"),
            },
        )
    )
