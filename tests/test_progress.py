"""Progress: the time left is estimated from tokens, text is escaped, warnings are counted."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hymt_batch.run.progress import Progress, Reporter, escape_line, format_duration, process_age_s


def test_time_left_is_estimated_from_tokens() -> None:
    progress = Progress(Reporter("off"), total_units=1000)
    assert progress.eta_s() is None
    progress.add_shard(500, 4000, last=False)
    progress.start_time -= 10
    progress.add_part(10, 2000, Counter(loop=1))
    # 2,000 of about 8,000 tokens took 10 s
    assert progress.eta_s() == pytest.approx(30, abs=0.5)
    assert "10 rows" in progress.status_line()
    assert "loop 1" in progress.status_line()


def test_time_left_is_not_shown_while_the_size_of_the_input_is_unknown() -> None:
    progress = Progress(Reporter("off"))
    progress.add_shard(500, 4000, last=False)
    progress.add_part(10, 2000, Counter())
    assert progress.eta_s() is None
    progress.add_shard(500, 4000, last=True)
    assert progress.eta_s() is not None


def test_uncommitted_segments_are_shown_as_rows() -> None:
    progress = Progress(Reporter("off"), total_units=1000)
    progress.add_shard(1000, 4000, last=True, rows=3, segments=18)
    progress.add_batch(12, 500)
    assert progress.status_line().startswith("2 rows")
    progress.add_part(3, 4000, Counter())
    assert progress.status_line().startswith("3 rows")


def test_a_row_of_more_than_ten_segments_is_shown_with_its_progress() -> None:
    progress = Progress(Reporter("off"), total_units=1000)
    progress.add_shard(1000, 4000, last=True, rows=2, segments=42)
    progress.begin_part("in.txt#7", 10, 12)
    assert "in.txt#7" not in progress.status_line()
    progress.begin_part("in.txt#7", 40, 42)
    progress.add_batch(12, 500)
    assert "in.txt#7 (40 segments): 12 of the part's 42 segments done, 30 left" in progress.status_line()
    progress.add_part(2, 4000, Counter())
    assert "in.txt#7" not in progress.status_line()


def test_progress_is_shown_while_rows_are_prepared(caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(Reporter("log"), every_s=0.0)
    with caplog.at_level(logging.INFO):
        progress.refresh()
    assert "0 rows" in caplog.text


def test_rows_of_earlier_runs_are_shown_separately() -> None:
    progress = Progress(Reporter("off"), total_units=1000)
    progress.add_kept_rows(30, units=500)
    assert "30 rows (30 kept)" in progress.status_line()


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


def test_the_time_to_the_first_rows_is_logged_once(tmp_path: Path) -> None:
    with Reporter("off") as reporter:
        reporter.log_to(tmp_path)
        with Progress(reporter) as progress:
            progress.add_batch(0, 0)
            progress.add_batch(2, 30)
            progress.add_batch(2, 30)
    (path,) = tmp_path.glob("*.log")
    (logged_s,) = re.findall(r"first_rows_s=(\S+)", path.read_text(encoding="utf-8"))
    assert 0 < float(logged_s) <= process_age_s() + 0.01  # the log rounds it


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_knows_how_long_it_has_run() -> None:
    script = "import time; time.sleep(0.5); from hymt_batch.run.progress import process_age_s; print(process_age_s())"
    began = time.monotonic()
    age_s = float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout)
    assert 0.45 < age_s < time.monotonic() - began + 0.1


@pytest.mark.fault(55, 83)
def test_text_is_shown_without_control_characters() -> None:
    assert escape_line("a\x1b[31mb\nc\u202e") == r"a\x1b[31mb\nc\u202e"
    assert escape_line("x" * 200, 10) == "x" * 9 + "…"


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
    from hymt_batch.run.progress import _LogFileHandler

    path, victim = tmp_path / "x.log", tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim) if kind == "link" else os.mkfifo(path)
    with pytest.raises(OSError):
        _LogFileHandler(path, encoding="utf-8")
    assert victim.read_text() == "precious"
