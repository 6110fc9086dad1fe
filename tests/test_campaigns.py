"""A small, seeded part of each campaign; the whole of each is a make target."""

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
    assert figures["passed"], figures["failures"]  # other bytes are a failure
    assert figures["kills"] >= 4
    assert figures["worst_parts_again"] <= 1


def test_peak_memory_does_not_grow_with_the_input() -> None:
    figures = campaign("memory", "--sizes", "40000", "100000", "--shard-rows", "8192")
    assert figures["ratio"] <= 1.10


def test_the_shape_with_made_up_weights_loads_and_keeps_every_row(tmp_path: Path) -> None:
    figures = campaign("full_size", "--scale", "tiny", "--folder", str(tmp_path), "--rows", "3", "--tokens", "4")
    assert figures["ours_peak_gib"] > figures["weights_gib"] / 2
    assert figures["rows"] == 3


def test_the_matrix_of_faults_is_that_of_the_tests() -> None:
    """RELIABILITY.md is out of date where this fails: `make matrix`."""
    figures = campaign("matrix", "--check")
    tested, faults, documented, _ = map(int, re.findall(r"\d+", figures["summary"]))
    assert faults == 84
    assert tested + documented >= 80


def test_a_fault_whose_tests_fail_are_skipped_or_missing_keeps_the_matrix_from_being_written() -> None:
    from tests.campaigns import fault_list, matrix

    found = matrix.Collector()
    for number in fault_list.FAULTS:
        found.tests[number]["test_all.py::test_it"].add("passed")
    assert matrix.unproved(found) == []
    found.tests[1]["test_all.py::test_it"].add("failed")
    found.tests[3] = {"test_all.py::test_it": {"skipped"}}
    del found.tests[4], found.tests[60]  # the second has a reason
    wrong = matrix.unproved(found)
    assert [one.split(":")[0] for one in wrong] == ["fault 1", "fault 3", "fault 4"]
    assert sum(line.startswith("| 60 |") and "| documented |" in line for line in matrix.matrix(found)) == 1
    assert sum(line.startswith("| 4 |") and "| open |" in line for line in matrix.matrix(found)) == 1


def test_a_campaign_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """A torn last line is run again; what is remembered is not."""
    from tests.campaigns import faults

    one = faults.Campaign("power_loss", "states", 120, 60, 30)
    results = faults.run_all([one], 5, False, tmp_path, 1.0, 1)
    path = tmp_path / "results.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[: len(second) // 2])
    again = faults.run_all([one], 5, False, tmp_path, 1.0, 1)
    assert [r["seed"] for r in again] == [r["seed"] for r in results] == [5, 6]
    assert again[0] == results[0]
    assert all(r["result"]["passed"] for r in again)
    states = [r["result"]["states"] for r in again]
    assert states == [r["result"]["states"] for r in results]  # a seed says it all
    assert faults.added({}, {"a": 1, "worst_b": 3, "by": {"x": 1}, "failures": ["f"]}) == {
        "a": 1,
        "worst_b": 3,
        "by": {"x": 1},
    }
    assert not faults.run_all([one], 7, False, tmp_path, 0.0, 1)  # no time left


def test_a_campaign_that_dies_or_is_missing_has_failed(tmp_path: Path) -> None:
    from tests.campaigns import faults

    record = faults.one_chunk(faults.Campaign("no_such", "", 1, 1, 1), 1, 1, tmp_path / "work")
    assert not record["result"]["passed"]
    assert "died with 1" in record["result"]["failures"][0]


def test_a_job_gives_the_ids_of_the_bare_engine_on_the_same_rows() -> None:
    figures = campaign("against_engine", "--rows", "24", "--mid-rows", "0", "--rounds", "1", "--threads", "1")
    (one,) = figures["against_engine"]
    assert one["equal"]
    assert one["prompts"] == 24
    assert 0 < one["outside_of_engine"] < 1
    assert figures["first_rows_s"] > 0


@pytest.mark.parametrize(
    "name",
    [
        *("kills", "memory", "overhead", "against_engine", "full_size", "integrity", "faults", "power_loss"),
        *("seeded_bugs", "matrix"),
    ],
)
def test_each_campaign_explains_itself(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", f"tests.campaigns.{name}", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert "JSON line" in ran.stdout
