"""Apply the same kills to four designs and count lost, duplicated, torn and recomputed rows, and failed restarts.

The designs are `hymt_batch` with the stub model, a script that appends and skips the ids it already has, a script that
appends and counts, and datatrove with its inference checkpoints (if $DATATROVE_PYTHON is an interpreter that has
datatrove). All compute batches of four rows and take the same time for each batch. Each design is killed after the same
number of seconds of work, counted from the first row that a process computes. Then each design runs until it is done.
Only SIGKILL is used; the machine keeps running. Ends with one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch.decode.request import Completion, Request
from hymt_batch.run.reporter import Reporter
from jobs import translate
from tests.campaigns import command, syscalls, warm
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job

ROWS, AT_ONCE, PAUSE_S = 240, 4, 0.002  # PAUSE_S: seconds for each row
KILLS = 6  # for each job
RESTARTS = 3  # failed restarts in a row after which a job counts as stuck
DATATROVE = "DATATROVE_PYTHON"
WRONG = ("lost_rows", "doubled_rows", "wrong_rows", "torn_lines", "wrong_jobs", "failed_restarts", "stuck_jobs")


def compute(log: Path, texts: list[str]) -> list[str]:
    """The engine of the scripts: upper-case the texts; log one line for each text before computing it."""
    with log.open("a") as file:
        file.write("1\n" * len(texts))
    time.sleep(PAUSE_S * AT_ONCE)
    return [text.upper() for text in texts]


def hymt_batch(source: Path, out: Path, log: Path) -> int:
    """Run the real job with the stub model and parts of four rows; the pause is the stub's."""

    def decode(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        with log.open("a") as file:
            file.write("1\n" * len(requests))
        return fake_engine.upper(requests, check_stop)

    def body(job: Any, reporter: Reporter) -> Any:
        fake_engine.PAUSE_S = PAUSE_S * AT_ONCE
        return fake_job.translate_with(job, reporter, decode)

    with mock.patch.object(translate, "translate", body):
        return int(translate.run(warm.load(ours(source, out))))


def ours(source: Path, out: Path) -> list[str]:
    overrides = ["tgt_lang=fr", "model=demo", "launch.progress=off", "launch.samples=0", f"source.path={source}"]
    overrides += [f"output_dir={out}", "name=job", f"batch.part_rows={AT_ONCE}", f"batch.max_rows={AT_ONCE}"]
    return [*overrides, "launch.lease_ttl_s=1.5", "launch.lease_beat_s=0.3"]


def rows_of(source: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]


def skip_seen(source: Path, out: Path, log: Path) -> int:
    """A common script: a row is done if its id is in the output; a line that cannot be parsed is not done."""
    out.mkdir(parents=True, exist_ok=True)
    path, seen = out / "out.jsonl", set()
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    seen.add(json.loads(line)["id"])
                except ValueError:
                    continue
    todo = [row for row in rows_of(source) if row["id"] not in seen]
    with path.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), AT_ONCE):
            batch = todo[start : start + AT_ONCE]
            for row, text in zip(batch, compute(log, [row["text"] for row in batch]), strict=True):
                file.write(json.dumps({**row, "translation": text}) + "\n")
    return 0


def count_rows(source: Path, out: Path, log: Path) -> int:
    """Another common script: append rows and flush, then write the number of rows to a second file."""
    out.mkdir(parents=True, exist_ok=True)
    path, count_path, rows = out / "out.jsonl", out / "count", rows_of(source)
    done = int(count_path.read_text() or "0") if count_path.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        while done < len(rows):
            batch = rows[done : done + AT_ONCE]
            for row, text in zip(batch, compute(log, [row["text"] for row in batch]), strict=True):
                file.write(json.dumps({**row, "translation": text}) + "\n")
            file.flush()
            done += len(batch)
            count_path.write_text(str(done))
    return 0


def datatrove(source: Path, out: Path, log: Path) -> int:
    program = str(Path(__file__).with_name("datatrove_job.py"))
    command = [os.environ[DATATROVE], program, str(source.parent), str(out), str(log), str(PAUSE_S)]
    os.execv(command[0], command)


Side = Callable[[Path, Path, Path], int]
SIDES: dict[str, Side] = {
    "hymt_batch": hymt_batch,
    "skip_seen": skip_seen,
    "count_rows": count_rows,
    "datatrove": datatrove,
}


def read(side: str, out: Path) -> tuple[list[tuple[str, str]], int]:
    """Return the pairs of id and translation that can be parsed, and the number of lines that cannot."""
    patterns = {"hymt_batch": "job/translated/*", "datatrove": "rows/*"}
    translations, unreadable = [], 0
    for path in sorted(out.glob(patterns.get(side, "out.jsonl"))):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                text = row["metadata"]["rollout_results"][0]["text"] if side == "datatrove" else row["translation"]
                translations.append((row["id"], text))
            except (ValueError, KeyError, IndexError):
                unreadable += 1
    return translations, unreadable


def num_computed(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def judge(side: str, out: Path, expected: dict[str, str], counts: Counter[str]) -> None:
    """Compare the rows that can be read with the expected ones, and add the differences to `counts`."""
    translations, unreadable = read(side, out)
    num_of_id = Counter(id for id, _ in translations)
    counts["jobs"] += 1
    counts["rows"] += len(expected)
    counts["lost_rows"] += len(expected.keys() - num_of_id.keys())
    counts["doubled_rows"] += sum(count - 1 for count in num_of_id.values())
    counts["wrong_rows"] += sum(expected.get(id) != text for id, text in translations)
    counts["torn_lines"] += unreadable
    counts["wrong_jobs"] += bool(unreadable or sorted(translations) != sorted(expected.items()))


def one_job(side: str, schedule: list[float], source: Path, out: Path, expected: dict[str, str]) -> Counter[str]:
    """Kill a job after the given seconds of work, run it to its end, and return the counts."""
    log, stderr_path, counts = out.with_suffix(".log"), out.with_suffix(".stderr"), Counter[str]()
    start = partial(warm.fork, lambda: SIDES[side](source, out, log), stderr_path)
    for after_s in schedule:
        num_before, pid, code = num_computed(log), start(), None
        while num_computed(log) == num_before and (code := warm.poll(pid)) is None:
            time.sleep(0.001)
        if code is None:
            time.sleep(after_s)
            os.killpg(pid, signal.SIGKILL)
            code = warm.wait(pid)
        counts["kills"] += code == -signal.SIGKILL
        counts["failed_restarts"] += code > 0
    for _ in range(RESTARTS):
        if (code := warm.wait(start())) == 0:
            break
        counts["failed_restarts"] += 1
    counts["stuck_jobs"] += code != 0
    counts["computed_again"] += num_computed(log) - len(expected)
    judge(side, out, expected, counts)
    return counts


def problem_without_kills(side: str, work: Path) -> str:
    """Return why a design cannot be compared, that is, what is wrong without any kill; "" if nothing is."""
    (work / "source").mkdir(parents=True)
    source, out, counts = work / "source" / "in.jsonl", work / side, Counter[str]()
    expected = {str(row): f"ROW {row}" for row in range(6 * AT_ONCE)}
    source.write_text("".join(json.dumps({"id": k, "text": v.lower()}) + "\n" for k, v in expected.items()))
    warm.load(ours(source, work / "hymt_batch"))
    code = warm.wait(warm.fork(lambda: SIDES[side](source, out, work / "log"), work / "stderr"))
    judge(side, out, expected, counts)
    stderr_lines = (work / "stderr").read_text().strip().splitlines()
    shutil.rmtree(work)
    if code:
        return f"ends with {code} without any kill: {stderr_lines[-1] if stderr_lines else ''}"
    return f"does not have each row exactly once without any kill: {dict(counts)}" if counts["wrong_jobs"] else ""


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Run `size` jobs of each design and kill each several times; the campaign passes if `hymt_batch` does."""
    warm.prepare()
    candidates = [side for side in SIDES if side != "datatrove" or os.environ.get(DATATROVE)]
    excluded = {side: why for side in candidates if (why := problem_without_kills(side, work / "tried"))}
    sides = [side for side in candidates if side not in excluded]
    if "hymt_batch" in excluded:
        return {"passed": False, "failures": [f"hymt_batch {excluded['hymt_batch']}"]}
    whole_s, sums = ROWS * PAUSE_S, {side: Counter[str]() for side in sides}
    for index in range(size):
        rng = random.Random(f"{seed} {index}")
        schedule = [rng.uniform(0.0, 2 * whole_s / (KILLS + 1)) for _ in range(KILLS)]
        folder = work / f"job{index}"
        folder.mkdir(parents=True)
        texts = {str(row): f"row {row} {'word ' * rng.randrange(12)}" for row in range(ROWS)}
        (folder / "source").mkdir()
        source = folder / "source" / "in.jsonl"
        source.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()), encoding="utf-8")
        warm.load(ours(source, folder / "hymt_batch"))
        expected = {id: text.upper() for id, text in texts.items()}
        for side in sides:
            sums[side] += one_job(side, schedule, source, folder / side, expected)
        shutil.rmtree(folder)
    failures = [
        f"hymt_batch: {sums['hymt_batch'][count]} {count}"
        for count in (
            "lost_rows",
            "doubled_rows",
            "wrong_rows",
            "torn_lines",
            "wrong_jobs",
            "failed_restarts",
            "stuck_jobs",
        )
        if sums["hymt_batch"][count]
    ]
    return {
        "passed": not failures,
        "failures": failures,
        **{f"by_{side}": dict(sorted(counts.items())) for side, counts in sums.items()},
        **({"by_left_out": {f"{side} {why}": 1 for side, why in excluded.items()}} if excluded else {}),
    }


def run_boundaries(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill each script once at each of its system calls on the output (`size` of them; 0: all), and run it again.

    syscalls.py does the same with the real job.
    """
    warm.prepare()
    folder = work / "boundaries"
    folder.mkdir(parents=True)
    source, log, trace = folder / "in.jsonl", folder / "log", folder / "strace"
    texts = {str(row): f"row {row}" for row in range(6 * AT_ONCE)}
    source.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()), encoding="utf-8")
    expected = {id: text.upper() for id, text in texts.items()}
    sums: dict[str, Counter[str]] = {}
    for side in ("skip_seen", "count_rows"):
        counts, out = sums.setdefault(side, Counter()), folder / side

        def begin(hold: Callable[[], object], side: str = side, out: Path = out) -> int:
            def run_when_traced() -> int:
                hold()
                return SIDES[side](source, out, log)

            return warm.fork(run_when_traced, folder / "stderr")

        syscalls.under_strace(begin, trace, syscalls.CHANGING)
        points = syscalls.on_path(trace, out)
        for call, occurrence in points if not size else random.Random(seed).sample(points, min(size, len(points))):
            shutil.rmtree(out)
            counts["kills"] += (
                syscalls.under_strace(begin, trace, [call], f"{call}:signal=SIGKILL:when={occurrence}") < 0
            )
            counts["failed_restarts"] += begin_and_wait(begin) != 0
            judge(side, out, expected, counts)
    return {"passed": True, "failures": [], **{f"by_{side}": dict(sorted(c.items())) for side, c in sums.items()}}


def begin_and_wait(begin: Callable[[Callable[[], object]], int]) -> int:
    return warm.wait(begin(lambda: None))


OTHERS: dict[str, tuple[command.Run, str]] = {
    "boundaries": (run_boundaries, "kill the scripts at each of their system calls instead")
}


if __name__ == "__main__":
    sys.exit(
        command.main(
            __doc__,
            run,
            10,
            "jobs of each design",
            OTHERS,
        )
    )
