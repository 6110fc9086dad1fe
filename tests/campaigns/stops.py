"""Measure what stops cost: one job stopped cleanly again and again, and jobs killed at regular intervals.

`run`: the state of the job must not grow, and its bytes must be those of an unbroken run. `run_goodput`: the time of an
unbroken run, divided by the time of all runs with kills. Ends with one JSON line.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hymt_batch.errors import ExitCode
from tests.campaigns import command, kills, warm
from tests.fakes import engine as fake_engine

PARTS_A_STOP = 15
COMMITTED = re.compile(r"p\d{5}(-r\d{5})?")
"""Names of parts, and of the runs of divided rows: what is committed is no leftover."""


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Stop one job cleanly `size` times, each time at a different moment; its state must not grow."""
    warm.prepare()
    fake_engine.PAUSE_S = kills.PAUSE_S
    rng, tally, stopped, max_extra = random.Random(f"requeue {seed}"), kills.Tally(), 0, 0
    # a stopped run first commits its current part, on a slow machine several; the job must not complete before the end
    _, victim = next(kills.stub_jobs(seed, work, parts=PARTS_A_STOP * size))
    victim.unbroken()
    stderr_path = work / "stderr"
    for index in range(size):
        signal_sent = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGUSR2)[index % 4]
        pid = warm.start(victim.job, stderr_path=stderr_path)
        while warm.MARKS.phase in ("import", "config") and warm.poll(pid) is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, victim.spans.start + 0.5 * victim.spans.part))
        os.kill(pid, signal_sent)
        code = warm.wait(pid)
        stopped += code == ExitCode.STOPPED
        if code not in (ExitCode.STOPPED, ExitCode.COMPLETE):
            tally.fail(f"requeue {index}: {signal_sent.name} gave exit {code}: {stderr_path.read_text()[-300:]}")
        extra = [name for name in kills.leftover_files(victim.output) if not COMMITTED.fullmatch(Path(name).name)]
        max_extra = max(max_extra, len(extra))
        if code == ExitCode.COMPLETE:
            tally.fail(f"the job was complete after {stopped} stops")
            break
    if code := warm.wait(warm.start(victim.job, stderr_path=stderr_path)):
        tally.fail(f"the last run ended with exit {code}")
    if warm.digest(victim.output) != victim.golden:
        tally.fail("the bytes differ from those of the unbroken run")
    if leftovers := kills.leftover_files(victim.output):
        tally.fail(f"left over: {leftovers[:5]}")
    if max_extra > 2:  # for example the lease of a job that got the signal before its handler was installed
        tally.fail(f"the state grew by {max_extra} files")
    return {
        "passed": not tally.failures,
        "failures": tally.failures,
        "requeued": stopped,
        "worst_extra_files": max_extra,
    }


def run_goodput(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill `size` jobs for each interval, every time after the time of so many parts, and compare the total time.

    The result is the time of the unbroken run, divided by the time of all runs, which includes starting each process.
    """
    warm.prepare()
    fake_engine.PAUSE_S = 0.01
    shares: dict[str, int] = {}
    tally = kills.Tally()
    for parts in (5, 10, 20, 30):
        unbroken_s, spent_s, limit = 0.0, 0.0, tally.kills + 200 * size
        for index in range(size):
            _, victim = next(kills.stub_jobs(seed + 1000 * parts + index, work / f"{parts} {index}"))
            victim.unbroken()
            spans, code = victim.spans, -1
            unbroken_s += spans.start + spans.part * victim.num_parts + spans.end
            while code:
                began, pid = time.monotonic(), warm.start(victim.job, stderr_path=work / "stderr")
                while (
                    code_now := warm.poll(pid)
                ) is None and time.monotonic() < began + spans.start + spans.part * parts:
                    time.sleep(0.001)
                if code_now is None:
                    os.killpg(pid, signal.SIGKILL)
                    code_now = warm.wait(pid)
                    tally.kills += 1
                code = code_now
                spent_s += time.monotonic() - began
                if code > 0 or tally.kills > limit:
                    tally.fail(f"a kill every {parts} parts: exit {code} after {tally.kills} kills")
                    break
            if warm.digest(victim.output) != victim.golden:
                tally.fail(f"a kill every {parts} parts: the bytes differ")
        shares[f"a kill every {parts} parts"] = round(1000 * unbroken_s / spent_s) if spent_s else 0
    return {
        "passed": not tally.failures,
        "failures": tally.failures,
        "kills": tally.kills,
        "per_mille_of_unbroken": shares,
    }


OTHERS: dict[str, tuple[command.Run, str]] = {
    "goodput": (run_goodput, "measure the cost of kills at regular intervals instead")
}


if __name__ == "__main__":
    sys.exit(
        command.main(
            __doc__,
            run,
            50,
            "stops; or jobs of each interval",
            OTHERS,
        )
    )
