"""The same kills on four designs: rows lost, doubled and torn, rows computed again, restarts that failed.

`hymt_batch` with the stub model, a script that appends and skips the ids it has, a script that appends and counts, and
datatrove with its inference checkpoints (where $DATATROVE_PYTHON names an interpreter that has it). Each computes four
rows at once, for as long as the others do; a kill falls after the same seconds of work, counted from the first row that
a process computes. Then each is run on until it is done. SIGKILL only: the machine goes on. Ends with one JSON line.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch.progress import Reporter
from jobs import translate
from tests.campaigns import command, stub, syscalls, warm

ROWS, AT_ONCE, PAUSE_S = 240, 4, 0.002  # seconds a row takes
KILLS = 6  # of each job
RESTARTS = 3  # that may fail one after another before a job counts as stuck
DATATROVE = "DATATROVE_PYTHON"
WRONG = ("lost_rows", "doubled_rows", "wrong_rows", "torn_lines", "wrong_jobs", "failed_restarts", "stuck_jobs")


def computing(log: Path, texts: list[str]) -> list[str]:
    """The engine of the scripts: it notes what it computes before it does so."""
    with log.open("a") as file:
        file.write("1\n" * len(texts))
    time.sleep(PAUSE_S * AT_ONCE)
    return [text.upper() for text in texts]


def hymt_batch(source: Path, out: Path, log: Path) -> int:
    """A row's pause is the stub's own; parts of four rows."""

    def decode(*arguments: Any) -> Any:
        with log.open("a") as file:
            file.write("1\n" * len(arguments[1]))
        return stub.decode_batch(*arguments)

    def body(job: Any, telling: Reporter) -> Any:
        stub.PAUSE_S = PAUSE_S * AT_ONCE
        return translate.translate(job, telling, prepare_model=stub.prepare, decode_batch=decode)

    return int(translate.run(warm.load(ours(source, out)), body))


def ours(source: Path, out: Path) -> list[str]:
    fixed = ["tgt_lang=fr", "model=demo", "launch.progress=off", "launch.samples=0", f"source.path={source}"]
    fixed += [f"output_dir={out}", "name=job", f"batch.part_rows={AT_ONCE}", f"batch.max_rows={AT_ONCE}"]
    return [*fixed, "launch.lease_ttl_s=1.5", "launch.lease_beat_s=0.3"]


def rows_of(source: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]


def skip_seen(source: Path, out: Path, log: Path) -> int:
    """The usual script: what has an id in the output is done; a line that cannot be read is not."""
    out.mkdir(parents=True, exist_ok=True)
    path, seen = out / "out.jsonl", set()
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    seen.add(json.loads(line)["id"])
                except ValueError:
                    continue
    left = [row for row in rows_of(source) if row["id"] not in seen]
    with path.open("a", encoding="utf-8") as file:
        for at in range(0, len(left), AT_ONCE):
            some = left[at : at + AT_ONCE]
            for row, text in zip(some, computing(log, [row["text"] for row in some]), strict=True):
                file.write(json.dumps({**row, "translation": text}) + "\n")
    return 0


def count_rows(source: Path, out: Path, log: Path) -> int:
    """Another usual script: rows are appended and flushed, then their number is noted beside them."""
    out.mkdir(parents=True, exist_ok=True)
    path, note, rows = out / "out.jsonl", out / "count", rows_of(source)
    done = int(note.read_text() or "0") if note.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        while done < len(rows):
            some = rows[done : done + AT_ONCE]
            for row, text in zip(some, computing(log, [row["text"] for row in some]), strict=True):
                file.write(json.dumps({**row, "translation": text}) + "\n")
            file.flush()
            done += len(some)
            note.write_text(str(done))
    return 0


def datatrove(source: Path, out: Path, log: Path) -> int:
    program = str(Path(__file__).with_name("datatrove_job.py"))
    words = [os.environ[DATATROVE], program, str(source.parent), str(out), str(log), str(PAUSE_S)]
    os.execv(words[0], words)


Side = Callable[[Path, Path, Path], int]
SIDES: dict[str, Side] = {
    "hymt_batch": hymt_batch,
    "skip_seen": skip_seen,
    "count_rows": count_rows,
    "datatrove": datatrove,
}


def read(side: str, out: Path) -> tuple[list[tuple[str, str]], int]:
    """Ids with their translations, as they can be read; lines that cannot."""
    places = {"hymt_batch": "job/translated/*", "datatrove": "rows/*"}
    found, unreadable = [], 0
    for path in sorted(out.glob(places.get(side, "out.jsonl"))):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                text = row["metadata"]["rollout_results"][0]["text"] if side == "datatrove" else row["translation"]
                found.append((row["id"], text))
            except (ValueError, KeyError, IndexError):
                unreadable += 1
    return found, unreadable


def computed(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def judge(side: str, out: Path, wanted: dict[str, str], counts: Counter[str]) -> None:
    """Compare what can be read with what is wanted."""
    found, unreadable = read(side, out)
    times = Counter(id for id, _ in found)
    counts["jobs"] += 1
    counts["rows"] += len(wanted)
    counts["lost_rows"] += len(wanted.keys() - times.keys())
    counts["doubled_rows"] += sum(count - 1 for count in times.values())
    counts["wrong_rows"] += sum(wanted.get(id) != text for id, text in found)
    counts["torn_lines"] += unreadable
    counts["wrong_jobs"] += bool(unreadable or sorted(found) != sorted(wanted.items()))


def one_job(side: str, schedule: list[float], source: Path, out: Path, wanted: dict[str, str]) -> Counter[str]:
    """Kill a job as the schedule says, run it to its end, and count."""
    log, told, counts = out.with_suffix(".log"), out.with_suffix(".told"), Counter[str]()
    start = partial(warm.forked, lambda: SIDES[side](source, out, log), told)
    for after_s in schedule:
        before, pid, code = computed(log), start(), None
        while computed(log) == before and (code := warm.ended(pid)) is None:
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
    counts["computed_again"] += computed(log) - len(wanted)
    judge(side, out, wanted, counts)
    return counts


def whole_without_kills(side: str, work: Path) -> str:
    """Why a design cannot be compared: what a job that nobody kills lacks; "" for nothing."""
    (work / "source").mkdir(parents=True)
    source, out, counts = work / "source" / "in.jsonl", work / side, Counter[str]()
    wanted = {str(row): f"ROW {row}" for row in range(6 * AT_ONCE)}
    source.write_text("".join(json.dumps({"id": k, "text": v.lower()}) + "\n" for k, v in wanted.items()))
    warm.load(ours(source, work / "hymt_batch"))
    code = warm.wait(warm.forked(lambda: SIDES[side](source, out, work / "log"), work / "told"))
    judge(side, out, wanted, counts)
    told = (work / "told").read_text().strip().splitlines()
    shutil.rmtree(work)
    if code:
        return f"ends with {code} where nobody kills it: {told[-1] if told else ''}"
    return f"has not each row once where nobody kills it: {dict(counts)}" if counts["wrong_jobs"] else ""


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` jobs of each design, each killed some times; only what ours does decides whether this passed."""
    warm.prepare()
    asked = [side for side in SIDES if side != "datatrove" or os.environ.get(DATATROVE)]
    left_out = {side: why for side in asked if (why := whole_without_kills(side, work / "tried"))}
    sides = [side for side in asked if side not in left_out]
    if "hymt_batch" in left_out:
        return {"passed": False, "failures": [f"hymt_batch {left_out['hymt_batch']}"]}
    whole_s, sums = ROWS * PAUSE_S, {side: Counter[str]() for side in sides}
    for number in range(size):
        rng = random.Random(f"{seed} {number}")
        schedule = [rng.uniform(0.0, 2 * whole_s / (KILLS + 1)) for _ in range(KILLS)]
        folder = work / f"job{number}"
        folder.mkdir(parents=True)
        texts = {str(row): f"row {row} {'word ' * rng.randrange(12)}" for row in range(ROWS)}
        (folder / "source").mkdir()
        source = folder / "source" / "in.jsonl"
        source.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()), encoding="utf-8")
        warm.load(ours(source, folder / "hymt_batch"))
        wanted = {id: text.upper() for id, text in texts.items()}
        for side in sides:
            sums[side] += one_job(side, schedule, source, folder / side, wanted)
        shutil.rmtree(folder)
    failures = [
        f"hymt_batch: {sums['hymt_batch'][what]} {what}"
        for what in (
            "lost_rows",
            "doubled_rows",
            "wrong_rows",
            "torn_lines",
            "wrong_jobs",
            "failed_restarts",
            "stuck_jobs",
        )
        if sums["hymt_batch"][what]
    ]
    return {
        "passed": not failures,
        "failures": failures,
        **{f"by_{side}": dict(sorted(counts.items())) for side, counts in sums.items()},
        **({"by_left_out": {f"{side} {why}": 1 for side, why in left_out.items()}} if left_out else {}),
    }


def run_boundaries(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Kill each script once at each of its system calls on the output (`size` of them; 0: all), and run it again.

    The job itself goes through the same in syscalls.py.
    """
    warm.prepare()
    folder = work / "boundaries"
    folder.mkdir(parents=True)
    source, log, trace = folder / "in.jsonl", folder / "log", folder / "strace"
    texts = {str(row): f"row {row}" for row in range(6 * AT_ONCE)}
    source.write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()), encoding="utf-8")
    wanted = {id: text.upper() for id, text in texts.items()}
    sums: dict[str, Counter[str]] = {}
    for side in ("skip_seen", "count_rows"):
        counts, out = sums.setdefault(side, Counter()), folder / side

        def begin(hold: Callable[[], object], side: str = side, out: Path = out) -> int:
            def held() -> int:
                hold()
                return SIDES[side](source, out, log)

            return warm.forked(held, folder / "told")

        syscalls.under_strace(begin, trace, syscalls.CHANGING)
        points = syscalls.on_path(trace, out)
        for call, number in points if not size else random.Random(seed).sample(points, min(size, len(points))):
            shutil.rmtree(out)
            counts["kills"] += syscalls.under_strace(begin, trace, [call], f"{call}:signal=SIGKILL:when={number}") < 0
            counts["failed_restarts"] += begin_and_wait(begin) != 0
            judge(side, out, wanted, counts)
    return {"passed": True, "failures": [], **{f"by_{side}": dict(sorted(c.items())) for side, c in sums.items()}}


def begin_and_wait(begin: Callable[[Callable[[], object]], int]) -> int:
    return warm.wait(begin(lambda: None))


OTHERS: dict[str, tuple[command.Run, str]] = {
    "boundaries": (run_boundaries, "kill the scripts at each system call instead")
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
