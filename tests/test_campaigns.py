"""A small, seeded part of each campaign; a make target runs the whole campaign."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def campaign(name: str, *arguments: str) -> dict[str, Any]:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    figures: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def test_jobs_killed_at_random_moments_end_with_the_bytes_of_an_unbroken_one() -> None:
    figures = campaign("kills", "--demo", "--size", "4", "--seed", "11")
    assert figures["passed"], figures["failures"]  # different bytes count as a failure
    assert figures["kills"] >= 4
    assert figures["worst_parts_again"] <= 1


def test_peak_memory_does_not_grow_with_the_input() -> None:
    figures = campaign("memory", "--sizes", "40000", "100000", "--shard-rows", "8192")
    assert figures["ratio"] <= 1.10


def test_one_process_feeds_workers_at_a_low_cost_for_each_row() -> None:
    """The limit of `make worker-overhead` is 80 us; tests share the machine, so theirs is loose."""
    figures = campaign("worker_overhead", "--rows", "12000", "--workers", "2", "--rounds", "1", "--limit-us", "320")
    assert 10 < figures["cpu_us_per_row"] <= 320


def test_a_model_with_synthetic_weights_loads_and_keeps_every_row(tmp_path: Path) -> None:
    figures = campaign("full_size", "--scale", "tiny", "--folder", str(tmp_path), "--rows", "3", "--tokens", "4")
    assert figures["ours_peak_gib"] > figures["weights_gib"] / 2
    assert figures["rows"] == 3


def test_the_matrix_of_faults_matches_the_tests() -> None:
    """If this fails, RELIABILITY.md is out of date: run `make matrix`."""
    figures = campaign("matrix", "--check")
    tested, faults, documented, _ = map(int, re.findall(r"\d+", figures["summary"]))
    assert faults == 84
    assert tested + documented >= 80


def test_a_fault_whose_tests_fail_are_skipped_or_missing_keeps_the_matrix_from_being_written() -> None:
    from tests.campaigns import fault_list, matrix

    collector = matrix.Collector()
    for number in fault_list.FAULTS:
        collector.tests[number]["test_all.py::test_it"].add("passed")
    assert matrix.unproved(collector) == []
    collector.tests[1]["test_all.py::test_it"].add("failed")
    collector.tests[3] = {"test_all.py::test_it": {"skipped"}}
    del collector.tests[4], collector.tests[60]  # fault 60 has a documented reason
    problems = matrix.unproved(collector)
    assert [problem.split(":")[0] for problem in problems] == ["fault 1", "fault 3", "fault 4"]
    assert sum(line.startswith("| 60 |") and "| documented |" in line for line in matrix.matrix(collector)) == 1
    assert sum(line.startswith("| 4 |") and "| open |" in line for line in matrix.matrix(collector)) == 1


def test_a_stopped_campaign_continues_where_it_stopped(tmp_path: Path) -> None:
    """A chunk with a torn last line runs again; a chunk with a complete line does not."""
    from tests.campaigns import faults

    chunk = faults.Campaign("power_loss", "states", 120, 60, 30)
    results = faults.run_all([chunk], 5, False, tmp_path, 1.0, 1)
    path = tmp_path / "results.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[: len(second) // 2])
    again = faults.run_all([chunk], 5, False, tmp_path, 1.0, 1)
    assert [r["seed"] for r in again] == [r["seed"] for r in results] == [5, 6]
    assert again[0] == results[0]
    assert all(r["result"]["passed"] for r in again)
    states = [r["result"]["states"] for r in again]
    assert states == [r["result"]["states"] for r in results]  # a seed determines the result
    assert faults.added({}, {"a": 1, "worst_b": 3, "by": {"x": 1}, "failures": ["f"]}) == {
        "a": 1,
        "worst_b": 3,
        "by": {"x": 1},
    }
    assert not faults.run_all([chunk], 7, False, tmp_path, 0.0, 1)  # no time left


def test_a_campaign_that_dies_or_is_missing_counts_as_failed(tmp_path: Path) -> None:
    from tests.campaigns import faults

    record = faults.one_chunk(faults.Campaign("no_such", "", 1, 1, 1), 1, 1, tmp_path / "work")
    assert not record["result"]["passed"]
    assert "died with 1" in record["result"]["failures"][0]


def test_a_job_gives_the_token_ids_of_the_engine_alone_on_the_same_rows() -> None:
    figures = campaign("against_engine", "--rows", "24", "--mid-rows", "0", "--rounds", "1", "--threads", "1")
    (result,) = figures["against_engine"]
    assert result["equal"]
    assert result["prompts"] == 24
    assert 0 < result["outside_of_engine"] < 1
    assert figures["first_rows_s"] > 0


@pytest.mark.parametrize(
    "name",
    [
        *("kills", "memory", "overhead", "against_engine", "full_size", "integrity", "faults", "power_loss"),
        *("seeded_bugs", "matrix", "gpu_counts", "checks"),
    ],
)
def test_each_campaign_explains_itself(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert "JSON line" in ran.stdout
