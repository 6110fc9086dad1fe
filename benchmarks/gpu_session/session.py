"""Run steps one after the other, each in a process of its own with a time limit; write the results after each step.

A step that fails, crashes or hangs leaves what it reported until then, and the results of all others. The process is a
fork of this one, which has imported the libraries once: an import costs some ten seconds a process, and a session has
less than ten minutes. This process itself never uses CUDA, which does not survive a fork. If the first step fails even
so, it is run again in a fresh interpreter, and so are all others.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_session.steps import DRY_RUN, GPU, Sizes, Step

POLL_S = 0.05
MIN_STEP_S = 5.0
"""A step for which less time is left is skipped."""

LOG_BYTES = 200_000
"""Bytes of the end of a step's output that are kept."""

DRY_RUN_CHECK_TOKENS = 4
DRY_RUN_PATIENCE = 4
"""How many times as long a step may take in a dry run, which may share two cores with other work."""

Results = dict[str, dict[str, Any]]
"""Step -> status (ok, failed, timeout or skipped), seconds, result, error."""


class Report:
    """What a step has found so far; written to a file with each call, so that a step that is killed leaves it."""

    def __init__(self, path: Path, work: Path, *, dry_run: bool) -> None:
        self.work, self.dry_run = work, dry_run
        self.sizes: Sizes = DRY_RUN if dry_run else GPU
        # overrides of a job: a session on a GPU must not fall back to the CPU
        self.device_words = ["device_map=cpu", "launch.num_threads=1"] if dry_run else ["device_map=single"]
        self.figures = dict[str, Any]()
        self._path = path

    def add(self, **figures: Any) -> None:
        """Add figures to the result of the step."""
        self.figures |= figures
        write_json(self._path, self.figures)


@dataclass(frozen=True, slots=True)
class Options:
    """How a session runs."""

    out: Path  # results.json and log.txt
    work: Path  # of the steps; not kept
    dry_run: bool
    limit_s: float  # of the whole session
    spawn: bool = False  # every step in a fresh interpreter
    limits_s: dict[str, float] | None = None  # other limits of steps, by name


class Session:
    """Runs steps and keeps their results."""

    def __init__(self, options: Options, began: float, on_result: Callable[[Results], dict[str, Any]]) -> None:
        """Begin a session.

        Args:
            options: How it runs.
            began: Monotonic time in seconds at which it began.
            on_result: Called with the results so far after each step; what it returns is written beside them.
        """
        self.options, self.results, self._spawn = options, dict[str, dict[str, Any]](), options.spawn
        self._deadline, self._on_result = began + options.limit_s, on_result
        self._process: subprocess.Popen[bytes] | None = None  # of a step in a fresh interpreter

    def run_all(self, steps: Sequence[Step]) -> Results:
        """Run the steps in order, as far as the time allows."""
        for index, step in enumerate(steps):
            left = self._deadline - time.monotonic() - sum(later.reserved_s for later in steps[index + 1 :])
            limit = (self.options.limits_s or {}).get(step.name, step.limit_s)
            limit = min(limit * (DRY_RUN_PATIENCE if self.options.dry_run else 1), max(left, step.reserved_s))
            limit = min(limit, self._deadline - time.monotonic())
            result = (
                {"status": "skipped", "error": "no time was left"} if limit < MIN_STEP_S else self._run(step, limit)
            )
            if index == 0 and result["status"] == "failed" and not self._spawn:
                self._spawn = True
                result = {**self._run(step, limit), "forked": {"error": result["error"]}}
            self.results[step.name] = result
            verdict = self._on_result(self.results)
            write_json(
                self.options.out / "results.json",
                {"dry_run": self.options.dry_run, "spawned": self._spawn, "steps": self.results, "verdict": verdict},
            )
            print(summarize(step.name, result), flush=True)
        return self.results

    def _run(self, step: Step, limit_s: float) -> dict[str, Any]:
        path, log_path = self.options.work / f"{step.name}.json", self.options.work / f"{step.name}.log"
        path.unlink(missing_ok=True)
        began = time.monotonic()
        with log_path.open("wb") as log:
            pid = self._start(step, path, log.fileno())
            code = wait_for(pid, began + limit_s)
        with contextlib.suppress(ProcessLookupError):  # what the step started and left behind
            os.killpg(pid, signal.SIGKILL)
        output = log_path.read_bytes()[-LOG_BYTES:]
        with (self.options.out / "log.txt").open("ab") as log:
            log.write(b"\n===== %s\n" % step.name.encode() + output)
        result: dict[str, Any] = {"status": "timeout" if code is None else "failed" if code else "ok"}
        result["seconds"] = round(time.monotonic() - began, 1)
        with contextlib.suppress(OSError, ValueError):
            result["result"] = json.loads(path.read_text(encoding="utf-8"))
        if code is None:
            result["error"] = f"it did not end within {limit_s:.0f} s"
        elif code:
            lines = output.decode("utf-8", "replace").strip().splitlines() or [f"exit status {code}, no output"]
            result["error"] = lines[-1][-500:] if code == 1 else f"exit status {code}: {lines[-1][-400:]}"
        return result

    def _start(self, step: Step, path: Path, log: int) -> int:
        """Start the process of a step, which leads a process group; return its id."""
        if self._spawn:
            command = [sys.executable, "-m", "benchmarks.gpu_session", "--step", step.name, "--result", str(path)]
            command += ["--work", str(self.options.work), *(["--dry-run"] if self.options.dry_run else [])]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            return self._process.pid
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            os.dup2(log, 1)
            os.dup2(log, 2)
            code = run_step(step, Report(path, self.options.work, dry_run=self.options.dry_run))
        finally:
            os._exit(locals().get("code", 1))


def run_step(step: Step, report: Report) -> int:
    """Run a step in this process; return its exit status."""
    module, _, function = step.run.partition(":")
    if report.dry_run:  # the checks of a load decode 16 rows of so many tokens
        importlib.import_module("hymt_batch.model.attention").NUM_TOKENS = DRY_RUN_CHECK_TOKENS  # type: ignore[attr-defined]
    try:
        getattr(importlib.import_module(module), function)(report, **step.arguments)
    except BaseException as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        sys.stderr.flush()
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    return 0


def wait_for(pid: int, deadline: float) -> int | None:
    """Wait for a process; return its exit status, negative for a signal, or None if it was killed at the deadline."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # it may not lead its group yet
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a JSON text, in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def summarize(name: str, result: dict[str, Any]) -> str:
    """Return one line about a step."""
    figures = json.dumps(result.get("result", {}), default=str)
    shown = figures if len(figures) <= 700 else f"{figures[:700]}..."
    error = f" {result['error']}" if "error" in result else ""
    return f"{name}: {result['status']} {result.get('seconds', 0)} s{error} {shown}"
