"""The reporter: warnings are counted, and the log file holds everything without leaving the job's folder."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from hymt_batch.run.reporter import Reporter, _LogFileHandler, format_duration


def test_warnings_are_counted_and_everything_goes_to_the_log_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("hymt_batch.some_stage")
    with Reporter("off") as reporter:
        reporter.log_to(tmp_path)
        log.warning("mind this")
        log.info("part=1")
    assert reporter.num_warnings == 1
    assert capsys.readouterr().err == "hymt-batch: mind this\n"
    (path,) = tmp_path.glob("*.log")
    assert "mind this" in path.read_text(encoding="utf-8")
    assert "part=1" in path.read_text(encoding="utf-8")


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
        _LogFileHandler(path, encoding="utf-8")
    assert victim.read_text() == "precious"
