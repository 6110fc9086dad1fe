"""`compare`: the points of a sweep and other jobs side by side, from what their folders hold."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.evaluate import comparison
from jobs import __main__ as front
from tests.fakes.job import Job
from tests.fakes.job import run as translate
from tests.test_evaluate import REFERENCES, SOURCES, write


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """The overrides of a job with an input."""
    write(tmp_path / "ref.txt", REFERENCES)
    return [f"source.path={write(tmp_path / 'in.txt', SOURCES)}", "model=demo"]


def run(folder: Path, *words: str) -> int:
    return front.main(["compare", f"output_dir={folder / 'out'}", *words])


def points(folder: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    run(folder, "format=json", *words)
    return {point["name"]: point for point in json.loads(capsys.readouterr().out)}


def test_the_points_of_a_sweep_stand_side_by_side(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *sources, f"output_dir={tmp_path / 'out'}", "name=s", "tgt_lang=fr", "segment.max_tokens=16,2048"]
    assert translate([*words, "segment.on_too_long=error", "check.max_error_rate=1"]) == 0
    assert (
        front.main(["evaluate", f"output_dir={tmp_path / 'out'}", "name=s", f"references={tmp_path / 'ref.txt'}"]) == 0
    )
    found = points(tmp_path, "name=s", capsys=capsys)
    short, whole = found["segment.max_tokens=16"], found["segment.max_tokens=2048"]
    assert short["settings"] == {"segment.max_tokens": 16} and whole["settings"] == {"segment.max_tokens": 2048}
    assert (short["errors"], whole["errors"], whole["rows"]) == (3, 0, 5)
    assert whole["rows_per_s"] > 0
    assert short["scores"]["chrf"] < whole["scores"]["chrf"]
    assert (whole["changed"], whole["compared"], short["changed"]) == (3, 5, None)
    assert run(tmp_path, "name=s", f"out={tmp_path / 'c.csv'}") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:6] == ["job", "segment.max_tokens", "rows", "rows/s", "errors", "bleu"]
    assert len(lines) == 2
    rows = list(csv.DictReader((tmp_path / "c.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["job"], row["state"], row["errors"], row["changed"]) for row in rows] == [
        ("segment.max_tokens=16", "complete", "3", ""), ("segment.max_tokens=2048", "complete", "0", "3")
    ]  # fmt: skip
    assert float(rows[1]["chrf"]) == whole["scores"]["chrf"]


def test_points_that_are_not_complete_are_kept_apart_with_their_reasons(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", *sources, f"output_dir={tmp_path / 'out'}", "name=s", "tgt_lang=fr"]
    assert translate([*words, "batch.part_rows=1,2,4"]) == 0
    folder = tmp_path / "out" / "s"
    (folder / "batch.part_rows=2" / "manifest.json").unlink()
    (folder / "batch.part_rows=4" / "manifest.json").write_text("{}")
    assert run(tmp_path, "name=s") == 8
    out = capsys.readouterr().out
    assert "not compared: 2 jobs" in out
    assert "  batch.part_rows=2: stopped" in out
    assert "  batch.part_rows=4: damaged, manifest.json: " in out
    found = points(tmp_path, "name=s", capsys=capsys)
    assert [point["state"] for point in found.values()] == ["complete", "stopped", "damaged"]


def test_a_failed_job_says_why_and_one_that_never_began_too(
    job: Job, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(*sources, "name=done")
    job.interrupt(*sources, "name=half", "batch.part_rows=1", at=job.calls + 2)
    found = points(tmp_path, "names=[done,half]", capsys=capsys)
    assert (found["half"]["state"], found["done"]["state"]) == ("stopped", "complete")
    (tmp_path / "out" / "empty" / ".hymt").mkdir(parents=True)
    assert points(tmp_path, "names=[done,empty]", capsys=capsys)["empty"]["state"] == "not started"


def test_changed_rows_are_those_with_another_text_or_status(
    job: Job, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(*sources, "name=a")
    job(*sources, "name=b", "seed=5")
    job(*sources, "name=german", "tgt_lang=de")
    job(*sources, "name=gone", "write.keep_rows=false")
    write(tmp_path / "in.txt", [*SOURCES[:3], "other", *SOURCES[4:]])
    job(*sources, "name=edited", "write=jsonl")
    found = points(tmp_path, "names=[a,b,german,gone,edited]", capsys=capsys)
    assert (found["b"]["changed"], found["b"]["compared"]) == (0, 5)
    assert (found["edited"]["changed"], found["edited"]["compared"]) == (0, 4), (
        "the row with another source is left out"
    )
    assert found["german"]["changed"] is None and "are in de" in found["german"]["notes"][0]
    assert found["gone"]["changed"] is None and "not kept" in found["gone"]["notes"][0]
    assert points(tmp_path, "names=[a,b]", "baseline=b", capsys=capsys)["a"]["changed"] == 0


def test_scores_of_an_earlier_output_are_called_stale(
    job: Job, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(*sources, "name=a")
    words = [f"output_dir={tmp_path / 'out'}", "name=a", f"references={tmp_path / 'ref.txt'}", "metrics=chrf"]
    assert front.main(["evaluate", *words]) == 0
    assert run(tmp_path, "names=[a]") == 0
    assert "earlier output" not in capsys.readouterr().out
    job(*sources, "name=a", "write=jsonl")
    assert run(tmp_path, "names=[a]") == 0
    assert "its scores are of an earlier output" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name= or names= is needed, and neither is set"),
        (["name=a", "names=[a]"], "both are set"),
        (["names=[a,none]"], "there is no job 'none'"),
        (["names=[a]", "baseline=b"], "baseline=b is not among the jobs"),
        (["names=[]"], "names no job"),
        (["names=[a]", "out="], "out='' is not a file"),
        (["names=[a]", "out=nowhere/at/all.csv"], "the folder nowhere/at does not exist"),
    ],
)
def test_a_wrong_choice_is_one_error(
    words: list[str], message: str, job: Job, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job(*sources, "name=a")
    capsys.readouterr()
    assert run(tmp_path, *words) == 2
    assert message in capsys.readouterr().err


def test_a_baseline_that_is_not_complete_is_told(
    job: Job, sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        job(*sources, f"name={name}")
    (tmp_path / "out" / "b" / "manifest.json").unlink()
    capsys.readouterr()
    assert run(tmp_path, "names=[a,b]", "baseline=b") == 8
    assert "note: a: changed rows are not counted: the baseline b is not complete" in capsys.readouterr().out


def test_a_comparison_changes_nothing(job: Job, sources: list[str], tmp_path: Path) -> None:
    job(*sources, "name=a")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert [point.state for point in comparison.compare({"a": tmp_path / "out" / "a"})] == ["complete"]
    assert run(tmp_path, "names=[a]", f"out={tmp_path}") in (6, 75), "a folder is in the way of the file"
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
