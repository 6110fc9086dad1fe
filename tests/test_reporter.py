"""The reporter: warnings are counted, and the log file holds everything without leaving the job's folder."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hymt_batch.run.log_file import LogFileHandler
from hymt_batch.run.reporter import Reporter, format_duration, render_summary
from hymt_batch.write.summary import Summary
from tests.fakes.job import Job, run


def test_warnings_are_counted_and_everything_goes_to_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("hymt_batch.some_stage")
    with Reporter("off") as reporter:
        reporter.log_to(tmp_path)
        log.warning("mind this")
        log.info("part=1")
    assert reporter.num_warnings == 1
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ hymt-batch: mind this\n", capsys.readouterr().err)
    (path,) = tmp_path.glob("*.log")
    assert "mind this" in path.read_text(encoding="utf-8")
    assert "part=1" in path.read_text(encoding="utf-8")


def test_the_log_file_has_what_was_said_before_it_was_opened(tmp_path: Path) -> None:
    log = logging.getLogger("hymt_batch.some_stage")
    with Reporter("off") as reporter:
        log.warning("redo removes translated/a.txt")
        reporter.log_to(tmp_path)
        log.info("part=1")
    (path,) = tmp_path.glob("*.log")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.partition("some_stage ")[2] for line in lines] == ["redo removes translated/a.txt", "part=1"]


def test_exit_code_1_names_the_warning_and_a_night_with_nothing_to_do_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in "ab":
        (source / f"{name}.txt").write_text("one\n")
    words = [f"source.path={source}", "name=n", f"output_dir={tmp_path / 'out'}", "tgt_lang=fr", "model=demo"]
    words += ["preset=nightly", "on_input_change=redo"]
    assert run(words) == 0
    (source / "b.txt").unlink()
    (source / "c.txt").write_text("three\n")
    capsys.readouterr()
    assert run(words) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "exit code 1, because strict=true: 1 warning, the first: redo folder=n removes outputs" in line
    newest = max((tmp_path / "out/n/logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert "removes outputs whose inputs were removed or changed: translated/b.txt" in newest.read_text()
    assert run([*words, "batch.max_rows=3"]) == 0, "no row is decoded in another environment"


def test_redo_names_no_output_that_was_never_written(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    source = job.folder / "in"
    source.mkdir()
    for name in "abc":
        (source / f"{name}.txt").write_text(f"{name}\n")
    words = [f"source.path={source}", "name=n"]
    job.interrupt(*words, at=1)
    assert not (job.folder / "out/n/translated/c.txt").exists()
    (source / "c.txt").unlink()
    capsys.readouterr()
    job(*words, "on_input_change=redo")
    assert "removes outputs" not in capsys.readouterr().err


def test_durations_are_readable() -> None:
    assert [format_duration(s) for s in (3.4, 125, 7800)] == ["3 s", "2 min 5 s", "2 h 10 min"]


@pytest.mark.fault(25)
def test_a_storage_error_while_the_log_is_opened_loses_only_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "is_symlink", stale)
    with Reporter("off") as reporter:
        reporter.log_to(tmp_path / "logs")
    assert "cannot write a log file" in capsys.readouterr().err


@pytest.mark.fault(80)
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_is_never_written_through_a_link_nor_into_a_pipe(tmp_path: Path, kind: str) -> None:
    path, victim = tmp_path / "x.log", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    with pytest.raises(OSError):
        LogFileHandler(path)
    assert victim.read_text() == "precious"


def log_names(*stamps: str) -> list[str]:
    return [f"{stamp}Z-7.log" for stamp in stamps]


def test_the_times_of_a_log_file_are_utc_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        with Reporter("off") as reporter:
            reporter.log_to(tmp_path)
            began = datetime.now(UTC)
            logging.getLogger("hymt_batch.some_stage").info("now")
    finally:
        monkeypatch.undo()
        time.tzset()
    (path,) = tmp_path.glob("*.log")
    stamp, level, *_ = path.read_text(encoding="utf-8").splitlines()[-1].split()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp)
    assert level == "INFO"
    assert abs((datetime.fromisoformat(stamp) - began).total_seconds()) < 5


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, ["20260103T000000"]), (2, ["20260102T000000"]), (None, None)])
def test_only_the_newest_logs_of_earlier_runs_are_kept_and_nothing_else_is_removed(
    tmp_path: Path, keep: int | None, left: list[str] | None
) -> None:
    earlier = log_names("20260101T000000", "20260102T000000", "20260103T000000")
    victim = tmp_path / "victim.log"
    victim.write_text("precious")
    logs = tmp_path / "logs"
    logs.mkdir()
    foreign = ["notes.txt", "20260101T000000Z-7.log.gz", "20260101T000000-7.log", "x20260101T000000Z-7.log"]
    for name in [*earlier, *foreign]:
        (logs / name).write_text(name)
    (logs / "20250101T000000Z-1.log").symlink_to(victim)
    (logs / "20250101T000000Z-2.log").mkdir()
    with Reporter("off") as reporter:
        reporter.log_to(logs, keep)
    names = {path.name for path in logs.iterdir()}
    kept = sorted(names & set(earlier))
    assert kept == (earlier if keep is None else earlier[len(earlier) - keep :])
    assert left is None or all(f"{stamp}Z-7.log" in kept for stamp in left)
    assert names >= {*foreign, "20250101T000000Z-1.log", "20250101T000000Z-2.log"}
    assert victim.read_text() == "precious"
    assert len(names) == len(kept) + len(foreign) + 3, "and the log of this run"


@pytest.mark.fault(80)
@pytest.mark.parametrize("target", ["elsewhere", "nowhere"])
def test_a_link_in_place_of_the_logs_is_exit_6_and_nothing_behind_it_is_removed(
    job: Job, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    source, elsewhere = job.folder / "in.txt", job.folder / "elsewhere"
    source.write_text("a\n")
    elsewhere.mkdir()
    (elsewhere / "20200101T000000Z-7.log").write_text("precious")
    logs = job.folder / "out" / "n" / "logs"
    logs.parent.mkdir(parents=True)
    logs.symlink_to(job.folder / target)
    words = [f"source.path={source}", "name=n", f"output_dir={job.folder / 'out'}", "tgt_lang=fr", "model=demo"]
    assert run([*words, "launch.keep_logs=0"]) == 6
    assert "logs is a link" in capsys.readouterr().err
    assert [path.name for path in elsewhere.iterdir()] == ["20200101T000000Z-7.log"]
    logs.unlink()
    assert run(words) == 0


def test_quiet_nights_have_one_line_for_many_files_and_the_log_file_has_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index in range(30):
        (source / f"{index}.txt").write_text(f"row {index}\n")
    words = [f"source.path={source}", "name=n", f"output_dir={tmp_path / 'out'}", "tgt_lang=fr", "model=demo"]
    assert run([*words, "preset=nightly", "launch.log_every_s=0"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert not [line for line in lines if "committed file=" in line or "published file=" in line]
    assert any(re.search(r" of 30 rows · \d+ of 30 files", line) for line in lines), "how far it came"
    assert len([line for line in lines if "complete: files=30 rows=30 errors=0" in line]) == 1
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ hymt-batch: ", line) for line in lines), lines
    (log,) = (tmp_path / "out" / "n" / "logs").iterdir()
    text = log.read_text(encoding="utf-8")
    assert text.count("published file=") == text.count("committed file=") == 30
    assert run([*words, "overwrite=true", "launch.progress=log"]) == 0
    assert capsys.readouterr().err.count("published file=") == 30, "without the preset, a line for each file"


def test_repeated_warnings_are_summed_up_and_all_are_counted_and_in_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("hymt_batch.some_stage")
    with Reporter("log", "summary") as reporter:
        reporter.log_to(tmp_path)
        for index in range(50):
            log.warning("file %d is odd", index)
            log.error("error %d", index)
        log.warning("%s", "one")
        log.warning("%s", "two")
        log.warning("%s", "three")
        log.warning("%s", "four")
    lines = [line.partition("hymt-batch: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert [line for line in lines if "odd" in line] == [
        "file 0 is odd",
        "file 1 is odd",
        "file 2 is odd",
        "47 more warnings of this kind, listed in the log: file 0 is odd",
    ]
    assert len([line for line in lines if line.startswith("error")]) == 50
    assert [line for line in lines if line in ("one", "two", "three", "four")] == ["one", "two", "three", "four"]
    assert reporter.num_warnings == 54
    (path,) = tmp_path.glob("*.log")
    assert path.read_text(encoding="utf-8").count("is odd") == 50


def test_counts_have_the_plural_that_fits() -> None:
    summary = Summary(Path("out"), 1, 1, 1, {"text": 1}, {"ok": 1}, {}, {}, 1, 1, 2.0, 1, 0, (), ())
    assert render_summary(summary, []).splitlines()[:2] == [
        "1 row in 1 file → out/translated",
        "  1 row in 2 s (0.5 rows/s)",
    ]
