"""Steps of a GPU session that end well, fail, crash or hang; as a program, it runs them and prints nothing else."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_session import session
from benchmarks.gpu_session.steps import Step


def end_well(report: Any, value: int = 1) -> None:
    report.add(value=value)


def fail(report: Any) -> None:
    report.add(value=2)
    raise ValueError("the third product is wrong")


def crash(report: Any) -> None:
    report.add(value=3)
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(report: Any) -> None:
    """Start a process that would live on, and hang."""
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    report.add(value=4, child=child)
    time.sleep(60)


def main(out: Path, limit_s: float) -> None:
    """Run one step of each kind; the first of them has a process that cannot be forked on a machine with a GPU."""
    names = ("end_well", "fail", "crash", "hang")
    steps = [Step(name, f"tests.fakes.gpu_steps:{name}", 30) for name in names]
    steps.append(Step("last", "tests.fakes.gpu_steps:end_well", 30, 10, {"value": 5}))
    options = session.Options(out, out, dry_run=False, limit_s=limit_s, limits_s={"hang": 6.0})
    session.Session(options, time.monotonic(), lambda results: {"so_far": len(results)}).run_all(steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
