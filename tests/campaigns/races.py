"""Four runners at once on one folder without a working lease, and a lease that is lost: nothing wrong may come of it.

Each round starts four processes of the real job whose lease does nothing, so that each also sweeps away what the others
are writing; one may be killed, one may be stopped and go on later. Every tenth round the lease works, and each runner
stands for a machine of its own: one is stopped for longer than its lease and goes on as a zombie, while the others race
to take over. Beside it, under the same kills and stops: an append file with a checkpoint of its length.
Ends with one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hymt_batch.errors import ExitCode
from hymt_batch.progress import Reporter
from hymt_batch.write import lease
from tests.campaigns import command, sources, stub, warm

WRITERS, ROWS, PART_ROWS = 4, 24, 3
TTL_S = 0.9  # of the lease, where it works
PAUSE_S = 0.004
LEASED_EVERY = 10  # rounds


class Nothing:
    """A lease that anybody gets, at any time."""

    epoch = 1

    def check(self) -> None: ...

    def release(self) -> None: ...


def unlocked(job: Any, telling: Reporter) -> Any:
    lease.acquire = lambda *_, **__: Nothing()  # type: ignore[assignment]
    return warm.STUB(job, telling)


def on_host(name: str, pause_s: float) -> warm.Translate:
    """The job on a machine of its own, as far as the lease can tell."""

    def body(job: Any, telling: Reporter) -> Any:
        socket.gethostname = lambda: name
        stub.PAUSE_S = pause_s
        return warm.STUB(job, telling)

    return body


def append_and_checkpoint(source: Path, out: Path) -> int:
    """The usual other design: rows are appended, and how far the file is complete is noted after each few."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    note = out.with_suffix(".checkpoint")
    done, size = json.loads(note.read_text()) if note.exists() else (0, 0)
    with out.open("ab") as file:
        file.truncate(size)
        while done < len(lines):
            some = lines[done : done + PART_ROWS]
            time.sleep(PAUSE_S)
            file.write("".join(some).upper().encode())
            file.flush()
            done, size = done + len(some), file.tell()
            aside = note.with_name(f"{note.name}.{os.getpid()}")
            aside.write_text(json.dumps([done, size]))
            aside.rename(note)
    return 0


Start = Callable[[int], int]


def together(rng: random.Random, start: Start) -> list[int]:
    """Start the writers, kill one or stop it for a while, or both, or neither; their exit codes."""
    order = rng.sample(range(WRITERS), WRITERS)
    begin = [rng.uniform(0.0, 0.02) for _ in range(WRITERS)]
    kill_s, stop_s, still_s = rng.uniform(0.0, 0.08), rng.uniform(0.0, 0.06), rng.uniform(0.0, 0.1)
    kill, stop = rng.random() < 0.5, rng.random() < 0.5
    pids: dict[int, int] = {}
    events = [(at, "start", number) for number, at in enumerate(begin)]
    events += [(kill_s, "kill", order[0])] if kill else []
    events += [(stop_s, "stop", order[1]), (stop_s + still_s, "go on", order[1])] if stop else []
    began = time.monotonic()
    for at, what, number in sorted(events):
        time.sleep(max(0.0, began + at - time.monotonic()))
        if what == "start":
            pids[number] = start(number)
        elif number in pids:
            with suppress(ProcessLookupError):  # a zombie until it is waited for, so only its group may be gone
                os.kill(pids[number], {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(what, signal.SIGCONT))
    return [warm.wait(pid) for pid in pids.values()]


class Rounds:
    """A folder with a source, and what an unbroken run makes of it."""

    def __init__(self, seed: int, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.source, self.told, self.seed = work, work / "in.txt", work / "told", seed
        self.texts = [f"row {row} of {seed}" for row in range(ROWS)]
        sources.write(self.source, self.texts)
        self.job = warm.load(
            [
                *("tgt_lang=fr", "model=demo", f"source.path={self.source}", f"output_dir={work}", "name=golden"),
                *(f"batch.part_rows={PART_ROWS}", f"batch.max_rows={PART_ROWS}", "batch.shard_rows=12"),
                *("launch.progress=off", "launch.samples=0", f"launch.lease_ttl_s={TTL_S}"),
                *(f"launch.lease_beat_s={TTL_S / 4}", "launch.grace_s=1"),
            ]
        )
        if code := warm.wait(warm.start(self.job, told=self.told)):
            raise RuntimeError(f"the unbroken run ended with {code}: {self.told.read_text()}")
        self.golden = warm.digest(work / "golden")
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()

    def fail(self, what: str) -> None:
        self.failures.append(what)
        told = self.told.read_text()[-1500:] if self.told.exists() else ""
        print(f"races: {what}\n{told}", file=sys.stderr, flush=True)

    def one(self, number: int) -> None:
        rng, name = random.Random(f"{self.seed} {number}"), f"round{number}"
        self.told.unlink(missing_ok=True)
        job, folder = replace(self.job, name=name), self.work / name
        leased = number % LEASED_EVERY == LEASED_EVERY - 1
        if leased:
            codes = self.zombie(rng, job)
        else:
            codes = together(rng, lambda _: warm.start(job, body=unlocked, told=self.told))
        self.counts["leased_rounds" if leased else "unlocked_rounds"] += 1
        for code in codes:
            self.codes[str(code)] += 1
        expected = (-signal.SIGKILL, ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.LEASE_HELD)
        if wrong := [code for code in codes if code not in expected]:
            self.fail(f"round {number}: exit {wrong}")
        if "Traceback" in self.told.read_text():
            self.fail(f"round {number}: a traceback")
        if 0 in codes and warm.digest(folder) != self.golden:
            # one that was killed after the others had swept leaves what it was writing, until the next run
            self.counts["rounds_with_a_killed_ones_file"] += 1
            if -signal.SIGKILL not in codes or warm.digest(folder, leave_out=".tmp-") != self.golden:
                self.counts["wrong_rounds"] += 1
                self.fail(f"round {number}: other bytes than the unbroken run's; exits {codes}")
        if again := warm.wait(warm.start(job, told=self.told)):
            self.fail(f"round {number}: exits {codes}, and then {again}")
        elif warm.digest(folder) != self.golden:
            self.counts["wrong_at_last"] += 1
            self.fail(f"round {number}: other bytes after a last run; exits {codes}")
        shutil.rmtree(folder)
        if not leased:
            self.baseline(number)

    def zombie(self, rng: random.Random, job: Any) -> list[int]:
        """One runner stands still for longer than its lease; three others race for the lease, one may be killed."""
        owner = warm.start(job, body=on_host("node0", 0.05), told=self.told)
        until = time.monotonic() + 30
        while not warm.MARKS.parts and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(owner, signal.SIGSTOP)
        others = [warm.start(job, body=on_host(f"node{n}", 0.05), told=self.told) for n in range(1, WRITERS)]
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 1.5 * TTL_S))
            os.kill(others[0], signal.SIGKILL)
        time.sleep(rng.uniform(1.0, 1.6) * TTL_S)
        os.kill(owner, signal.SIGCONT)
        codes = [warm.wait(pid) for pid in (owner, *others)]
        self.counts["zombies_stopped"] += codes[0] == ExitCode.STOPPED
        self.counts["zombies_done"] += codes[0] == ExitCode.COMPLETE
        return codes

    def baseline(self, number: int) -> None:
        """The same kills and stops on the other design, run on until it is done; rows that it lost or doubled."""
        rng, out = random.Random(f"{self.seed} {number}"), self.work / "append.txt"
        together(rng, lambda _: warm.forked(lambda: append_and_checkpoint(self.source, out)))
        warm.wait(warm.forked(lambda: append_and_checkpoint(self.source, out)))
        wanted = [text.upper() for text in self.texts]
        found = out.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        missing, more = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        self.counts["append_lost_rows"] += missing.total()
        self.counts["append_doubled_rows"] += sum(count for text, count in more.items() if text in wanted)
        self.counts["append_torn_rows"] += sum(count for text, count in more.items() if text not in wanted)
        self.counts["append_wrong_rounds"] += found != wanted
        out.unlink()
        out.with_suffix(".checkpoint").unlink(missing_ok=True)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Play `size` rounds; see the module's text."""
    warm.prepare()
    stub.PAUSE_S = PAUSE_S
    rounds, began = Rounds(seed, work), time.monotonic()
    for number in range(size):
        rounds.one(number)
    names = ("unlocked_rounds", "leased_rounds", "wrong_rounds", "wrong_at_last", "zombies_stopped", "zombies_done")
    names += (
        "rounds_with_a_killed_ones_file",
        "append_wrong_rounds",
        "append_lost_rows",
        "append_doubled_rows",
        "append_torn_rows",
    )
    return {
        "passed": not rounds.failures,
        "failures": rounds.failures[:20],
        "rounds": size,
        **{name: rounds.counts[name] for name in names},
        "milliseconds": round(1000 * (time.monotonic() - began)),
        "by_exit": dict(sorted(rounds.codes.items())),
    }


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 100, "rounds"))
