"""review/: the flagged rows of outputs that have no place for flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.errors import ExitCode
from jobs import status, verify
from tests.fakes.job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "review" / f"{name}.review.jsonl").read_text().splitlines()]


def test_flagged_rows_are_listed_with_source_and_translation(tmp_path: Path, job: Job) -> None:
    source = tmp_path / "in.srt"
    source.write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nfirst <i>one</i> here\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo\n"
    )
    folder = tmp_path / "out" / "n"
    summary = job(f"source.path={source}", "name=n")  # the fake translates the tags, too: <I>
    (line,) = lines(folder, "in.srt")
    assert {key: line[key] for key in ("id", "row", "source")} == {
        "id": "in.srt#1",
        "row": 1,
        "source": "first <i>one</i> here",
    }
    assert "codes_moved" in line["flags"]
    assert line["translation"] in (folder / "translated/in.srt").read_text()
    assert summary.reviews == (folder / "review/in.srt.review.jsonl",)
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE
    assert status.status(folder).state == "complete"


def test_the_list_can_be_left_out_and_made_later_without_decoding(tmp_path: Path, job: Job) -> None:
    source, folder = tmp_path / "in.properties", tmp_path / "out" / "n"
    source.write_text("k=first <i>one</i> here\n")
    words = (f"source.path={source}", "name=n")
    job(*words, "write.review=false")
    assert not (folder / "review").exists()
    decoded = job.decoded
    job(*words)
    assert len(lines(folder, "in.properties")) == 1
    job(*words, "write.review=false")
    assert not (folder / "review/in.properties.review.jsonl").exists()
    assert job.decoded == decoded
    assert verify.verify(folder).exit_code is ExitCode.COMPLETE


def test_outputs_with_a_field_for_flags_have_no_list(tmp_path: Path, job: Job) -> None:
    source, folder = tmp_path / "in.properties", tmp_path / "out" / "n"
    source.write_text("k=first <i>one</i> here\n")
    job(f"source.path={source}", "name=n", "write=jsonl")
    assert not (folder / "review").exists()
    (line,) = (folder / "translated/in.jsonl").read_text().splitlines()
    assert "codes_moved" in json.loads(line)["hymt"]["flags"]


def test_a_changed_list_is_damage_and_made_again(tmp_path: Path, job: Job) -> None:
    source, folder = tmp_path / "in.properties", tmp_path / "out" / "n"
    source.write_text("k=first <i>one</i> here\n")
    words = (f"source.path={source}", "name=n")
    job(*words)
    path = folder / "review/in.properties.review.jsonl"
    contents = path.read_bytes()
    path.write_bytes(contents + b"{}\n")
    assert verify.verify(folder).exit_code is ExitCode.DAMAGE
    assert status.status(folder).state == "damaged"
    (folder / "review/note.txt").write_text("mine")
    decoded = job.decoded
    job(*words)
    assert path.read_bytes() == contents
    assert job.decoded == decoded
    assert "review/note.txt" in str(verify.verify(folder).findings)
