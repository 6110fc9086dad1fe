"""A sweep that is killed and run again: it ends with the bytes of an unbroken one, and then does nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch.model import detect_devices
from tests.campaigns.sweep_kills import NO_TORCH, published
from tests.test_sweep_model import Counts, counts, outputs, run_sweep  # noqa: F401  (counts is a fixture)

ROOT = Path(__file__).parent.parent
ROWS = 24
POINTS = ("seed=1,2,3", "segment.max_tokens=16,2048")

KILLED = """
import os, signal, sys
from tests.fakes import engine, job

log, num_kept = sys.argv[1], int(sys.argv[2])

def decode(requests, check_stop):
    done = engine.upper(requests, check_stop)
    if open(log).read().count("\\n") >= num_kept:
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as file:
        file.write(f"{len(requests)}\\n")
    return done

sys.exit(job.run(sys.argv[3:], decode))
"""
"""Runs a sweep with the stub model, and dies in the batch after a number of batches, counted over all runs."""


def start(program: str, *words: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def words_for(folder: Path, out: str) -> list[str]:
    source = folder / "in.txt"
    if not source.exists():
        source.write_text("".join(f"Row {n} goes on. It has two sentences of {n} words.\n" for n in range(ROWS)))
    fixed = ["tgt_lang=fr", "model=demo", "name=s", "batch.part_rows=6", "launch.progress=off"]
    return ["-m", f"source.path={source}", f"output_dir={folder / out}", *fixed, *POINTS]


def test_a_sweep_killed_twice_equals_the_unbroken_one_and_a_further_call_does_nothing(tmp_path: Path) -> None:
    log, other_log = tmp_path / "batches", tmp_path / "unbroken"
    log.touch()
    other_log.touch()
    assert start(KILLED, str(other_log), "1000000", *words_for(tmp_path, "unbroken_out")) == 0
    num_batches = len(other_log.read_text().splitlines())
    for kept in (num_batches // 4, num_batches * 2 // 3):  # in the second point, and in the fifth or so
        assert start(KILLED, str(log), str(kept), *words_for(tmp_path, "out")) == -signal.SIGKILL
        assert len(log.read_text().splitlines()) == kept
    complete = list((tmp_path / "out" / "s").glob("*/manifest.json"))
    assert 0 < len(complete) < 6
    times = {path: path.stat().st_mtime_ns for path in complete}
    assert start(KILLED, str(log), "1000000", *words_for(tmp_path, "out")) == 0
    assert {path: path.stat().st_mtime_ns for path in complete} == times, "a finished point was touched"
    swept, unbroken = published(tmp_path / "out" / "s"), published(tmp_path / "unbroken_out" / "s")
    assert len([name for name in swept if name.endswith("manifest.json")]) == 6
    assert swept == unbroken
    decoded = sum(map(int, log.read_text().split()))
    assert decoded - sum(map(int, other_log.read_text().split())) <= 2 * 12  # at most the parts that were killed
    lines = log.read_text()
    assert start(KILLED, str(log), "0", *words_for(tmp_path, "out")) == 0  # dies if it decodes anything
    assert log.read_text() == lines


@pytest.mark.usefixtures("counts")
def test_six_points_of_one_model_load_it_once_and_a_further_call_imports_no_torch(
    tmp_path: Path,
    counts: Counts,  # noqa: F811
) -> None:
    swept = ["tgt_lang=fr", "decode.new_tokens_extra=16,32,64", "segment.max_tokens=64,2048"]
    assert run_sweep(tmp_path, *swept) == 0
    assert (counts.loads, len(outputs(tmp_path))) == (1, 6)
    words = [f"source.path={tmp_path / 'in.txt'}", f"output_dir={tmp_path / 'out'}", "name=s", "model=demo"]
    again = ["translate", "-m", *words, "decode.engine=slots", "launch.progress=off", *swept]
    if not detect_devices.may_have_gpu():  # torch alone knows which dtype a GPU makes of `auto`
        assert start(NO_TORCH, *again) == 0
