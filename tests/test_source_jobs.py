"""What a job takes as input, and what it tells of the files that it skips, from the command line to `status`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import manifest
from hymt_batch.errors import ConfigError, ExitCode, InputChangedError
from hymt_batch.formats import registry
from hymt_batch.fs import OS_FS
from hymt_batch.run.reporter import render_summary
from hymt_batch.write import manifest_contents
from jobs import status, verify
from tests.fakes import job as fake_job
from tests.fakes.job import Job

pytestmark = pytest.mark.core

ASS = "[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,rain\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("rain\n")
    (folder / "film.ass").write_text(ASS)
    (folder / "deep/pic.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    return folder


def skipped_in_status(folder: Path) -> list[str]:
    return [file["rel"] for file in status.status(folder).skipped]


def test_skipped_files_are_counted_and_listed_and_take_no_part_in_whether_the_job_is_finished(
    tmp_path: Path, job: Job, source: Path
) -> None:
    folder = tmp_path / "out/n"
    summary = job(f"source.path={source}", "name=n")
    assert (summary.files, [file.rel for file in summary.skipped]) == (1, ["film.ass", "deep/pic.txt"])
    listed = json.loads((folder / "manifest.json").read_text())["skipped"]
    assert [file["rel"] for file in listed] == ["film.ass", "deep/pic.txt"] and "SubStation" in listed[0]["why"]
    report = status.status(folder)
    assert report.state == "complete" and "film.ass: a file of SubStation subtitles" in status.render(report)
    before = (folder / "manifest.json").read_bytes()
    assert job(f"source.path={source}", "name=n").num_rows_decoded == 0
    assert (folder / "manifest.json").read_bytes() == before
    (source / "more.xlf").write_text("x")
    (source / "film.ass").unlink()
    assert status.status(folder).state == "complete"
    summary = job(f"source.path={source}", "name=n")
    assert summary.num_rows_decoded == 0 and job.decoded == 1
    assert skipped_in_status(folder) == ["more.xlf", "deep/pic.txt"]
    assert status.status(folder).state == "complete" and not verify.verify(folder).damage


def test_status_lists_the_skipped_files_of_a_job_that_is_not_finished(tmp_path: Path, job: Job, source: Path) -> None:
    (source / "a.txt").write_text("\n".join(f"rain {index}" for index in range(20)))
    settings = (f"source.path={source}", "name=n", "batch.part_rows=4", "batch.max_rows=4")
    job.interrupt(*settings, at=3)
    assert skipped_in_status(tmp_path / "out/n") == ["film.ass", "deep/pic.txt"]
    job(*settings)
    assert skipped_in_status(tmp_path / "out/n") == ["film.ass", "deep/pic.txt"]


def test_the_name_of_a_skipped_file_never_makes_a_line_of_its_own(tmp_path: Path, job: Job, source: Path) -> None:
    (source / "x\n  problem   spoof.p\nng").touch()
    os.rename(source / "film.ass", os.path.join(os.fsencode(source), b"\xff.ass"))
    summary = job(f"source.path={source}", "name=n")
    assert "1 '.p\\nng'" in render_summary(summary, [])
    text = status.render(status.status(tmp_path / "out/n"))
    assert "            x\\n  problem   spoof.p\\nng: a file with an unknown extension\n" in text
    assert "\n  problem" not in text


@pytest.mark.parametrize("strict", [False, True])
def test_skipped_files_are_a_warning_and_the_summary_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: Path, strict: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["source.path=in", "tgt_lang=fr", "model=demo", "name=n", f"strict={str(strict).lower()}"]
    assert fake_job.run(words) == (ExitCode.WARNINGS if strict else ExitCode.COMPLETE)
    printed = capsys.readouterr()
    assert "2 files were skipped, because their formats are not read: 1 .ass, 1 .txt" in printed.out


def test_a_file_that_is_not_read_is_refused_before_anything_is_written(tmp_path: Path, job: Job, source: Path) -> None:
    for path in (f"{source}/film.ass", f"[{source}/a.txt,{source}/film.ass]", f"{source}/deep/pic.txt"):
        with pytest.raises(ConfigError) as caught:
            job(f"source.path={path}", "name=n")
        assert caught.value.exit_code == ExitCode.USAGE and caught.value.fix
    assert not (tmp_path / "out").exists()


def test_the_same_glob_or_list_goes_on_after_the_first_files_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name, num in (("a", 1), ("z", 12)):
        (tmp_path / f"data/{name}.txt").write_text("\n".join(f"{name} {index}" for index in range(num)))
    limits = ("batch.part_rows=4", "batch.max_rows=4", "batch.part_tokens=10")  # each file is a unit
    settings = ("source.path=**/*.txt", *limits, "output_dir=out")
    job.interrupt(*settings, "name=g", at=3)
    assert (tmp_path / "out/g/translated/data/a.txt").exists()
    job(*settings, "name=g")
    assert job(*settings, "name=g", "on_input_change=redo").files == 2
    assert job(*settings, "name=other").files == 2
    everything = ",".join(str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*.txt")))
    assert job(f"source.path=[{everything}]", "name=list", "output_dir=out").files == 2


def test_the_translations_of_another_job_can_be_translated_again(tmp_path: Path, job: Job, source: Path) -> None:
    job(f"source.path={source}", "name=first")
    folder = tmp_path / "out/first/translated"
    assert job(f"source.path={folder}", "name=second").files == 1
    assert job(f"source.path={folder}/a.txt", "name=third").files == 1
    with pytest.raises(ConfigError, match="Set name=ANOTHER"):
        job(f"source.path={folder}", "name=first")


@pytest.mark.parametrize("records_a_list", [True, False])
def test_an_upgrade_that_reads_more_adds_nothing_to_a_job_until_redo_takes_it_in(
    tmp_path: Path,
    job: Job,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    records_a_list: bool,
) -> None:
    (source / "m.properties").write_text("key=rain\n")
    command = (f"source.path={source}", "name=n")
    with monkeypatch.context() as earlier:
        read_no_properties(earlier)
        job(*command)
    folder = tmp_path / "out/n"
    if not records_a_list:  # as a version before the lists wrote it
        record = manifest.read_job(OS_FS, folder)
        (folder / ".hymt/job.json").write_bytes(old_job(folder))
        (folder / "manifest.json").write_bytes(
            manifest_contents.build(manifest.read_job(OS_FS, folder), file_records(folder))
        )
        assert not manifest.read_job(OS_FS, folder).formats and {"properties", *record.formats} == {
            *registry.FOUND_NAMES
        }
    names = ("manifest.json", ".hymt/job.json", "translated/a.txt")
    before = [(folder / name).read_bytes() for name in names]
    capsys.readouterr()
    if records_a_list:
        assert job(*command).num_rows_decoded == 0
        assert "m.properties']: on_input_change=redo adds them" in capsys.readouterr().err
        assert not (folder / "translated/m.properties").exists()
    else:  # what it began with is all that it reads: nothing on disk changes
        (source / "deep/pic.txt").unlink()  # which that version read as text
        assert job(*command).num_rows_decoded == 0
        assert [(folder / name).read_bytes() for name in names] == before
    assert job(*command, "on_input_change=redo").files == 2
    assert (folder / "translated/m.properties").exists()
    assert "properties" in manifest.read_job(OS_FS, folder).formats
    assert job(*command).num_rows_decoded == 0


def old_job(folder: Path) -> bytes:
    value = manifest.load(OS_FS, folder / ".hymt/job.json")
    del value["formats"]
    return manifest.seal(value)


def file_records(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(".hymt/f*/file.json"))
    return [{k: v for k, v in manifest.load(OS_FS, path).items() if k != "shards"} for path in paths]


def read_no_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this version one that does not recognise `.properties` files."""
    formats = tuple(format for format in registry.FORMATS if format.name != "properties")
    monkeypatch.setattr(registry, "_BY_EXTENSION", {e: f for f in formats for e in f.input_extensions})
    names = tuple(name for name in registry.FOUND_NAMES if name != "properties")
    monkeypatch.setattr(registry, "FOUND_NAMES", names)


def test_a_job_on_a_file_that_became_another_kind_is_not_taken_for_the_same(
    tmp_path: Path, job: Job, source: Path
) -> None:
    (source / "b.txt").write_text("sun\n")
    job(f"source.path={source}", "name=n")
    (source / "b.txt").write_bytes(b"%PDF-1.7\n")
    with pytest.raises(InputChangedError, match=r"removed: b\.txt"):
        job(f"source.path={source}", "name=n")
