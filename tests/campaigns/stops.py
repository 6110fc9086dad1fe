"""What stops cost: one job stopped in an orderly way again and again, and jobs killed at regular intervals.

`run`: the state of the job may not grow, and its bytes are those of an unbroken run. `run_goodput`: the share of the
unbroken run's time. Ends with one JSON line.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hymt_batch.errors import ExitCode
from tests.campaigns import command, kills, stub, warm

PARTS_A_STOP = 10
NAMES_OF_PARTS = frozenset(f"p{number:05}" for number in range(1000))


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Stop one job in an orderly way `size` times, each at another moment; its state may not grow by that."""
    warm.prepare()
    stub.PAUSE_S = kills.PAUSE_S
    rng, tally, stopped, most = random.Random(f"requeue {seed}"), kills.Tally(), 0, 0
    # a run commits what it was at when it was stopped, on a slow machine some parts more: it may never be complete
    _, victim = next(kills.stub_jobs(seed, work, parts=PARTS_A_STOP * size))
    victim.unbroken()
    told = work / "told"
    for number in range(size):
        named = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGUSR2)[number % 4]
        pid = warm.start(victim.job, told=told)
        while warm.MARKS.phase in ("import", "config") and warm.ended(pid) is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, victim.spans.start + 0.5 * victim.spans.part))
        os.kill(pid, named)
        code = warm.wait(pid)
        stopped += code == ExitCode.STOPPED
        if code not in (ExitCode.STOPPED, ExitCode.COMPLETE):
            tally.fail(f"requeue {number}: {named.name} gave exit {code}: {told.read_text()[-300:]}")
        extra = [name for name in kills.left_over(victim.output) if Path(name).name not in NAMES_OF_PARTS]
        most = max(most, len(extra))
        if code == ExitCode.COMPLETE:
            tally.fail(f"the job was complete after {stopped} stops")
            break
    if code := warm.wait(warm.start(victim.job, told=told)):
        tally.fail(f"the last run ended with {code}")
    if warm.digest(victim.output) != victim.golden:
        tally.fail("other bytes than the unbroken run's")
    if left := kills.left_over(victim.output):
        tally.fail(f"left over: {left[:5]}")
    if most > 2:  # such as the lease of a job that a signal met before its handler
        tally.fail(f"the state grew by {most} files")
    return {"passed": not tally.failures, "failures": tally.failures, "requeued": stopped, "worst_extra_files": most}


def run_goodput(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill a job each time it worked for some parts' time, in `size` jobs of each interval, and compare its time.

    The share is the time of the unbroken run over the time of all runs, start of each process included.
    """
    warm.prepare()
    stub.PAUSE_S = 0.01
    shares: dict[str, int] = {}
    tally = kills.Tally()
    for parts in (5, 10, 20, 30):
        whole_s, spent_s, limit = 0.0, 0.0, tally.kills + 200 * size
        for number in range(size):
            _, victim = next(kills.stub_jobs(seed + 1000 * parts + number, work / f"{parts} {number}"))
            victim.unbroken()
            spans, code = victim.spans, -1
            whole_s += spans.start + spans.part * victim.num_parts + spans.end
            while code:
                began, pid = time.monotonic(), warm.start(victim.job, told=work / "told")
                while (
                    code_now := warm.ended(pid)
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
                tally.fail(f"a kill every {parts} parts: other bytes")
        shares[f"a kill every {parts} parts"] = round(1000 * whole_s / spent_s) if spent_s else 0
    return {
        "passed": not tally.failures,
        "failures": tally.failures,
        "kills": tally.kills,
        "per_mille_of_unbroken": shares,
    }


OTHERS: dict[str, tuple[command.Run, str]] = {"goodput": (run_goodput, "what kills at regular intervals cost instead")}


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
