"""Measure what many small files cost. Ends with one JSON line.

Processor time: a job with the stub model in a process of its own, above the same rows in one file, syncs included; the
best of several rounds counts. Peak memory: of such jobs over more and more files of one row, above a job over one of
these files. A job over one file with all the rows is no measure for it: it holds shards of 32,768 rows, which take more
than the files do. Decode steps: counted exactly, in a job with the demo model and its engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from hymt_batch import config
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.demo import grammar
from hymt_batch.run.reporter import Reporter
from jobs.translate import translate

MAX_CPU_MS, MAX_MIB, MAX_STEPS = 0.8, 250.0, 1.1
"""Limits: processor milliseconds a file, memory of all files, and decode steps as a multiple of those of one file."""


def write_corpus(folder: Path, files: int, rows: int) -> tuple[Path, Path]:
    """Write distinct rows into one file and, the same, into many; return their paths."""
    one, many = folder / "one.txt", folder / "sources"
    many.mkdir()
    texts = [bulletin.en for bulletin in grammar.sample(3, 1000)]
    with one.open("w", encoding="utf-8") as whole:
        for file in range(files):
            text = "".join(f"{file * rows + row} {texts[(file * rows + row) % len(texts)]}\n" for row in range(rows))
            (many / f"{file:06}.txt").write_text(text, encoding="utf-8")
            whole.write(text)
    return one, many


class Usage(NamedTuple):
    """What a job used."""

    user_s: float
    system_s: float
    mib: float  # peak of resident memory


def run_stub(source: Path, folder: Path, name: str) -> Usage:
    """Run a job with the stub model; return what it used."""
    settings = ["tgt_lang=fr", "model=demo", f"source.path={source}", f"output_dir={folder}", f"name={name}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.job", *settings, "launch.progress=off", "launch.samples=0"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the job {name} ended with {process.returncode}")
    shutil.rmtree(folder / name)
    return Usage(usage.ru_utime, usage.ru_stime, usage.ru_maxrss / 1024)


def cpu_costs(files: int, rows: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the processor time of each of `files` files of `rows` rows above one file, in milliseconds."""
    one, many = write_corpus(folder, files, rows)
    pairs = [(run_stub(one, folder, f"one{i}"), run_stub(many, folder, f"many{i}")) for i in range(rounds)]
    each = [
        (1000 * (all_files.user_s - once.user_s) / files, 1000 * (all_files.system_s - once.system_s) / files)
        for once, all_files in pairs
    ]
    user, system = min(each, key=sum)
    return {
        "files": files,
        "rows_of_a_file": rows,
        "ms_per_file": round(user + system, 3),
        "user_ms_per_file": round(user, 3),
        "system_ms_per_file": round(system, 3),
        "ms_per_file_all": [round(sum(pair), 3) for pair in each],
    }


def memory_costs(files: int, folder: Path) -> dict[str, Any]:
    """Return the peak memory of jobs over a hundredth, a tenth and all of `files` files of a row, above one file."""
    curve = {}
    for number in sorted({1, files // 100, files // 10, files} - {0}):
        corpus = folder / f"of{number}"
        corpus.mkdir()
        curve[number] = run_stub(write_corpus(corpus, number, 1)[1], folder, f"job{number}").mib
    above = {str(number): round(mib - curve[1], 1) for number, mib in curve.items()}
    return {"files": files, "mib_of_one_file": round(curve[1], 1), "mib_above_one_file": above}


def count_steps(source: Path, folder: Path, name: str) -> int:
    """Return the decode steps of a job with the demo model."""
    engines: list[SlotEngine] = []
    original = SlotEngine.generate

    def generate(self: SlotEngine, *arguments: Any) -> Any:
        engines.append(self)
        return original(self, *arguments)

    settings = ["src_lang=en", "tgt_lang=fr", "model=demo", f"source.path={source}", f"output_dir={folder}"]
    job = config.load("translate", [*settings, f"name={name}", "decode.engine=slots"])
    with mock.patch.object(SlotEngine, "generate", generate), Reporter("off") as reporter:
        translate(job, reporter)
    return sum(engine.counters.steps for engine in set(engines))


def steps(files: int, rows: int, folder: Path) -> dict[str, Any]:
    """Return the decode steps of the same bulletins in one file and in many."""
    one, many = folder / "bulletins.txt", folder / "bulletins"
    many.mkdir()
    lines = [f"{bulletin.en}\n" for bulletin in grammar.sample(11, files * rows)]
    one.write_text("".join(lines), encoding="utf-8")
    for file in range(files):
        (many / f"{file:06}.txt").write_text("".join(lines[file * rows : (file + 1) * rows]), encoding="utf-8")
    once, whole = count_steps(one, folder, "steps-one"), count_steps(many, folder, "steps-many")
    return {"files": files, "rows": files * rows, "one": once, "many": whole, "ratio": round(whole / once, 3)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5000, help="files of the measurement of processor time")
    parser.add_argument("--rows", type=int, default=5, help="rows of each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory-files", type=int, default=100_000, help="files of the measurement of memory; 0: none")
    options = parser.parse_args(arguments)
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        figures["cpu"] = cpu_costs(options.files, options.rows, options.rounds, Path(folder))
    print(json.dumps(figures["cpu"]), file=sys.stderr, flush=True)
    if options.memory_files:
        with tempfile.TemporaryDirectory() as folder:
            figures["memory"] = memory_costs(options.memory_files, Path(folder))
        print(json.dumps(figures["memory"]), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        figures["steps"] = steps(100, 5, Path(folder))
    figures["passed"] = (
        figures["cpu"]["ms_per_file"] <= MAX_CPU_MS
        and ("memory" not in figures or max(figures["memory"]["mib_above_one_file"].values()) <= MAX_MIB)
        and figures["steps"]["ratio"] <= MAX_STEPS
    )
    print(json.dumps(figures))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
