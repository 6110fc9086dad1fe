"""Run four jobs on one folder at once, without a working lease or with a lost one; no output may be wrong.

Each round starts four processes of the real job whose lease has no effect, so each also removes the temporary files of
the others; one may be killed, one may be stopped and continue later. In every tenth round the lease works, and each
runner simulates a different machine: one is stopped for longer than its lease and continues as a zombie, while the
others race to take over. For comparison, the same kills and stops hit a design that appends to a file and stores a
checkpoint of its length. Ends with one JSON line.
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
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import lease
from tests.campaigns import command, sources, warm
from tests.fakes import engine as fake_engine

WRITERS, ROWS, PART_ROWS = 4, 24, 3
TTL_S = 0.9  # of the lease, where it works
PAUSE_S = 0.004
LEASED_EVERY = 10  # rounds


class Nothing:
    """A lease that every runner gets at any time."""

    epoch = 1

    def check(self) -> None: ...

    def release(self) -> None: ...


def unlocked(job: Any, reporter: Reporter) -> Any:
    lease.acquire = lambda *_, **__: Nothing()  # type: ignore[assignment]
    return warm.STUB(job, reporter)


def on_host(name: str, pause_s: float) -> warm.Translate:
    """Return a job that appears to the lease to run on the machine `name`."""

    def body(job: Any, reporter: Reporter) -> Any:
        socket.gethostname = lambda: name
        fake_engine.PAUSE_S = pause_s
        return warm.STUB(job, reporter)

    return body


def append_and_checkpoint(source: Path, out: Path) -> int:
    """The other common design: append rows, and store the complete length of the file after every few rows."""
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    checkpoint = out.with_suffix(".checkpoint")
    done, size = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0)
    with out.open("ab") as file:
        file.truncate(size)
        while done < len(lines):
            batch = lines[done : done + PART_ROWS]
            time.sleep(PAUSE_S)
            file.write("".join(batch).upper().encode())
            file.flush()
            done, size = done + len(batch), file.tell()
            temporary = checkpoint.with_name(f"{checkpoint.name}.{os.getpid()}")
            temporary.write_text(json.dumps([done, size]))
            temporary.rename(checkpoint)
    return 0


Start = Callable[[int], int]


def run_together(rng: random.Random, start: Start) -> list[int]:
    """Start the writers, kill one, stop one for a while, both or neither; return the exit codes."""
    order = rng.sample(range(WRITERS), WRITERS)
    begin = [rng.uniform(0.0, 0.02) for _ in range(WRITERS)]
    kill_s, stop_s, stopped_s = rng.uniform(0.0, 0.08), rng.uniform(0.0, 0.06), rng.uniform(0.0, 0.1)
    kill, stop = rng.random() < 0.5, rng.random() < 0.5
    pids: dict[int, int] = {}
    events = [(at_s, "start", index) for index, at_s in enumerate(begin)]
    events += [(kill_s, "kill", order[0])] if kill else []
    events += [(stop_s, "stop", order[1]), (stop_s + stopped_s, "go on", order[1])] if stop else []
    began = time.monotonic()
    for at_s, event, index in sorted(events):
        time.sleep(max(0.0, began + at_s - time.monotonic()))
        if event == "start":
            pids[index] = start(index)
        elif index in pids:
            with suppress(ProcessLookupError):  # the process exists until it is waited for, but its group may be gone
                os.kill(pids[index], {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}.get(event, signal.SIGCONT))
    return [warm.wait(pid) for pid in pids.values()]


class Rounds:
    """A folder with an input, and the digest of an unbroken run's output."""

    def __init__(self, seed: int, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.source, self.stderr_path, self.seed = work, work / "in.txt", work / "stderr", seed
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
        if code := warm.wait(warm.start(self.job, stderr_path=self.stderr_path)):
            raise RuntimeError(f"the unbroken run ended with {code}: {self.stderr_path.read_text()}")
        self.golden = warm.digest(work / "golden")
        self.failures: list[str] = []
        self.counts: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()

    def fail(self, message: str) -> None:
        self.failures.append(message)
        stderr = self.stderr_path.read_text()[-1500:] if self.stderr_path.exists() else ""
        print(f"races: {message}\n{stderr}", file=sys.stderr, flush=True)

    def run(self, index: int) -> None:
        rng, name = random.Random(f"{self.seed} {index}"), f"round{index}"
        self.stderr_path.unlink(missing_ok=True)
        job, folder = replace(self.job, name=name), self.work / name
        leased = index % LEASED_EVERY == LEASED_EVERY - 1
        if leased:
            codes = self.zombie(rng, job)
        else:
            codes = run_together(rng, lambda _: warm.start(job, body=unlocked, stderr_path=self.stderr_path))
        self.counts["leased_rounds" if leased else "unlocked_rounds"] += 1
        for code in codes:
            self.codes[str(code)] += 1
        expected = (-signal.SIGKILL, ExitCode.COMPLETE, ExitCode.STOPPED, ExitCode.LEASE_HELD)
        if unexpected := [code for code in codes if code not in expected]:
            self.fail(f"round {index}: exit {unexpected}")
        if "Traceback" in self.stderr_path.read_text():
            self.fail(f"round {index}: a traceback")
        if 0 in codes and warm.digest(folder) != self.golden:
            # a runner killed after the others removed leftovers leaves its temporary file until the next run
            self.counts["rounds_with_a_killed_ones_file"] += 1
            if -signal.SIGKILL not in codes or warm.digest(folder, leave_out=".tmp-") != self.golden:
                self.counts["wrong_rounds"] += 1
                self.fail(f"round {index}: the bytes differ from those of the unbroken run; exits {codes}")
        if last_code := warm.wait(warm.start(job, stderr_path=self.stderr_path)):
            self.fail(f"round {index}: exits {codes}, and then {last_code}")
        elif warm.digest(folder) != self.golden:
            self.counts["wrong_at_last"] += 1
            self.fail(f"round {index}: the bytes differ after a last run; exits {codes}")
        shutil.rmtree(folder)
        if not leased:
            self.baseline(index)

    def zombie(self, rng: random.Random, job: Any) -> list[int]:
        """Stop one runner for longer than its lease; three others race for the lease, and one may be killed."""
        owner = warm.start(job, body=on_host("node0", 0.05), stderr_path=self.stderr_path)
        deadline = time.monotonic() + 30
        while not warm.MARKS.parts and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(owner, signal.SIGSTOP)
        rivals = [
            warm.start(job, body=on_host(f"node{n}", 0.05), stderr_path=self.stderr_path) for n in range(1, WRITERS)
        ]
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0.0, 1.5 * TTL_S))
            os.kill(rivals[0], signal.SIGKILL)
        time.sleep(rng.uniform(1.0, 1.6) * TTL_S)
        os.kill(owner, signal.SIGCONT)
        codes = [warm.wait(pid) for pid in (owner, *rivals)]
        self.counts["zombies_stopped"] += codes[0] == ExitCode.STOPPED
        self.counts["zombies_done"] += codes[0] == ExitCode.COMPLETE
        return codes

    def baseline(self, index: int) -> None:
        """Apply the same kills and stops to the other design, run it to its end, and count lost and duplicated rows."""
        rng, out = random.Random(f"{self.seed} {index}"), self.work / "append.txt"
        run_together(rng, lambda _: warm.fork(lambda: append_and_checkpoint(self.source, out)))
        warm.wait(warm.fork(lambda: append_and_checkpoint(self.source, out)))
        expected = [text.upper() for text in self.texts]
        lines = out.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        missing, extra = Counter(expected) - Counter(lines), Counter(lines) - Counter(expected)
        self.counts["append_lost_rows"] += missing.total()
        self.counts["append_doubled_rows"] += sum(count for text, count in extra.items() if text in expected)
        self.counts["append_torn_rows"] += sum(count for text, count in extra.items() if text not in expected)
        self.counts["append_wrong_rounds"] += lines != expected
        out.unlink()
        out.with_suffix(".checkpoint").unlink(missing_ok=True)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run `size` rounds."""
    warm.prepare()
    fake_engine.PAUSE_S = PAUSE_S
    rounds, began = Rounds(seed, work), time.monotonic()
    for index in range(size):
        rounds.run(index)
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
