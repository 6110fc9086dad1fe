"""A small job whose every system call on the output path is, one by one, its last (SIGKILL) or one that fails.

strace counts the calls of an unbroken run, and then kills or fails the N-th one, for each N. After a kill the next run
must end with the bytes of an unbroken one, and repeat at most one part. After an error the job either ends with these
bytes, or with a documented exit code and a one-line cause, and the next run ends with them. Ends with one JSON line.
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
from hymt_batch.progress import Reporter
from tests.campaigns import command, kills, sources, stub, warm

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
    """What happens at which call of a job: the number-th of this name in its main thread."""

    call: str
    number: int
    what: str  # KILL, or the name of an error
    stays: bool = False  # every call from this one on fails

    @property
    def inject(self) -> str:
        what = "signal=SIGKILL" if self.what == KILL else f"error={self.what}"
        return f"{self.call}:{what}:when={self.number}{'+' if self.stays else ''}"

    def __str__(self) -> str:
        return f"{self.what} at {self.call} {self.number}{' and after' if self.stays else ''}"


def under_strace(
    begin: Callable[[Callable[[], object]], int], log: Path, calls: Sequence[str], inject: str = ""
) -> int:
    """Trace a process from the moment on in which it calls what it is given; its exit code."""
    ready, go = os.pipe()
    pid = begin(lambda: os.read(ready, 1))
    words = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(calls)}"]
    words += ["-e", f"inject={inject}"] if inject else []
    with subprocess.Popen([*words, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as strace:
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


def on_path(log: Path, place: Path) -> list[tuple[str, int]]:
    """Traced calls of the main thread on a path, with their numbers among those of the same name."""
    seen: Counter[tuple[str, str]] = Counter()
    found, main = [], ""
    for line in log.read_text(errors="replace").splitlines():
        if (match := re.match(r"(\d+) +(\w+)\(", line)) is None:
            continue
        main = main or match[1]
        seen[match[1], match[2]] += 1
        if match[1] == main and str(place) in line:
            found.append((match[2], seen[match[1], match[2]]))
    return found


class Stage:
    """A job on a store, under strace."""

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.source, self.log, self.told = work, work / "in.txt", work / "strace", work / "told"
        sources.write(self.source, TEXTS)
        settings = ["tgt_lang=fr", "model=demo", f"source.path={self.source}", f"output_dir={work}", "name=job"]
        settings += [f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", "batch.shard_rows=6"]
        settings += ["launch.progress=off", "launch.samples=1", "launch.lease_ttl_s=1.5", "launch.lease_beat_s=0.5"]
        self.job = warm.load(settings)
        self.output = work / "job"
        if code := self.run():
            raise RuntimeError(f"the unbroken run ended with {code}: {self.told.read_text()}")
        self.rows = warm.MARKS.rows
        self.golden = warm.digest(self.output)
        self.final = (self.output / "translated" / "in.txt").read_bytes()
        found = sources.read(self.output / "translated" / "in.txt")
        if found != [text.upper() for text in TEXTS]:
            raise RuntimeError(f"the unbroken run wrote {found}")

    def run(self) -> int:
        self.told.unlink(missing_ok=True)
        return warm.wait(warm.start(self.job, told=self.told))

    def clear(self) -> None:
        shutil.rmtree(self.output, ignore_errors=True)

    def traced(self, calls: list[str], inject: str = "") -> int:
        """Run the job under strace; its exit code. The log is one line a call."""
        self.told.unlink(missing_ok=True)

        def begin(hold: Callable[[], object]) -> int:
            def body(job: Any, telling: Reporter) -> Any:
                hold()
                return warm.STUB(job, telling)

            return warm.start(self.job, body=body, told=self.told)

        return under_strace(begin, self.log, calls, inject)

    def calls(self, names: list[str]) -> list[tuple[str, int]]:
        """Calls of the main thread on paths of the output, with their numbers among those of the same name."""
        self.clear()
        if code := self.traced(names):
            raise RuntimeError(f"the traced run ended with {code}: {self.told.read_text()}")
        return on_path(self.log, self.output)

    def hit(self) -> bool:
        """Whether the last injection fell on a path of the output."""
        lines = self.log.read_text(errors="replace").splitlines()
        if any("(INJECTED)" in line for line in lines):
            return any("(INJECTED)" in line and str(self.output) in line for line in lines)
        return any("killed by SIGKILL" in line for line in lines)


def judge(stage: Stage, point: Point, counts: Counter[str], codes: Counter[str]) -> str:
    """Do what a point says, and run again; what was wrong, or ""."""
    stage.clear()
    code = stage.traced([point.call], point.inject)
    told = stage.told.read_text() if stage.told.exists() else ""
    begun = warm.MARKS.rows
    counts["injected" if stage.hit() else "missed"] += 1
    codes[f"{point.what} exit {code}"] += 1
    if "Traceback" in told or "Logging error" in told:
        return f"{point}: a traceback: {told[-1500:]}"
    if point.what == KILL:
        if code not in (-9, 0):
            return f"{point}: exit {code}: {told[-300:]}"
    elif code not in ALLOWED:
        return f"{point}: exit {code}: {told[-300:]}"
    elif (
        code
        and not (point.stays and point.call == "write")
        and not re.search(r"^hymt-batch: .{20,}", told.splitlines()[-1] if told else "")
    ):
        return f"{point}: exit {code} without a cause: {told[-300:]}"
    published = stage.output / "translated" / "in.txt"
    if published.exists() and published.read_bytes() != stage.final:
        return f"{point}: exit {code}, and a file is published that is not whole"
    if code == 0 and warm.digest(stage.output) != stage.golden:
        return f"{point}: exit 0 with other bytes"
    if again := stage.run():
        return f"{point}: exit {code}, and then {again}: {stage.told.read_text()[-500:]}"
    if warm.digest(stage.output) != stage.golden:
        return f"{point}: exit {code}, and then other bytes"
    if point.what == KILL and begun + warm.MARKS.rows - stage.rows > PART_ROWS:
        return f"{point}: {begun + warm.MARKS.rows - stage.rows} rows were decoded again"
    left = [name for name in kills.left_over(stage.output) if "/quarantine/" not in name]
    return f"{point}: left over: {left[:3]}" if left else ""


def sweep(points: list[Point], stage: Stage) -> dict[str, Any]:
    began, failures = time.monotonic(), []
    counts: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    for point in points:
        calls[f"{point.call} {point.what}"] += 1
        if wrong := judge(stage, point, counts, codes):
            failures.append(wrong)
            print(f"syscalls: {wrong}", file=sys.stderr, flush=True)
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


def prepared(work: Path) -> Stage:
    warm.prepare(sync=True)
    stub.PAUSE_S = 0.0
    return Stage(work)


def chosen(points: list[Point], seed: int, size: int) -> list[Point]:
    """All points, or a seeded sample of them."""
    return points if not size or size >= len(points) else random.Random(seed).sample(points, size)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """SIGKILL at `size` seeded boundaries of the job's system calls; 0: at each."""
    stage = prepared(work)
    points = [Point(call, number, KILL) for call, number in stage.calls(CHANGING)]
    return {**sweep(chosen(points, seed, size), stage), "max_boundaries": len(points)}


def run_errors(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` seeded errors of the store, each once or from one call on; 0: each error at each call."""
    stage = prepared(work)
    calls = stage.calls([*CHANGING, *READING])
    points = [Point(*call, error, stays) for call in calls for error in ERRORS for stays in (False, True)]
    return {**sweep(chosen(points, seed, size), stage), "max_boundaries": len(calls)}


def run_slow(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Each sync, link and rename takes `size` milliseconds longer: the same bytes, no lost lease."""
    stage = prepared(work)
    calls, began = ["fsync", "linkat", "rename"], time.monotonic()
    stage.clear()
    code = stage.traced(calls, f"{','.join(calls)}:delay_exit={size * 1000}")
    told = stage.told.read_text()
    slowed = stage.log.read_text().count("(DELAYED)")
    wrong = f"exit {code}: {told}" if code else "" if warm.digest(stage.output) == stage.golden else "other bytes"
    wrong = wrong or ("" if slowed > 20 else f"only {slowed} calls were slow")
    took = round(1000 * (time.monotonic() - began))
    return {"passed": not wrong, "failures": [wrong] if wrong else [], "slowed": slowed, "milliseconds": took}


if __name__ == "__main__":
    sys.exit(
        command.main(
            __doc__,
            run,
            0,
            "points; 0: all",
            {
                "errors": (run_errors, "errors of the store instead of kills"),
                "slow": (run_slow, "delays of so many ms instead"),
            },
        )
    )
