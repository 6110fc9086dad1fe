"""The monitor: the time left is estimated from tokens, and progress is shown while a job works."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.errors import PreflightError
from hymt_batch.records import Part, Row, Status
from hymt_batch.run.monitor import Monitor, Progress, process_age_s
from hymt_batch.run.reporter import Reporter
from tests.fakes.documents import documents, shard_of


def test_committed_parts_give_samples_and_counts_and_stop_a_job_whose_translations_are_unusable() -> None:
    reporter = Reporter("off")
    job = config.load(
        "translate", ["preset=demo", "name=n", "launch.samples=2", "check.stop_rows=4", "check.stop_rate=0.4"]
    )
    monitor = Monitor(job, reporter, total_units=1000)
    sources = documents([f"row {index}" for index in range(6)])
    part = Part(shard_of(sources), 0, 2, (0, 1, 2))
    good = [Row(n, sources[n].digest, Status.OK, f"a\n{n}", num_source_tokens=1) for n in range(3)]
    monitor.add_part(part, good, one_line=True)
    assert reporter.sample_pairs == [("row 0", "a 0"), ("row 1", "a 1")], "as they will be written"
    assert "3 rows" in monitor.status_line()
    assert "line_break 3" in monitor.status_line()
    bad = [Row(n, sources[n].digest, Status.EMPTY, "") for n in range(3, 6)]
    with pytest.raises(PreflightError, match=r"50\.0 % of the first 6 rows"):
        monitor.add_part(Part(part.shard, 1, 2, (3, 4, 5)), bad, one_line=True)


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
    script = "import time; time.sleep(0.5); from hymt_batch.run.monitor import process_age_s; print(process_age_s())"
    began = time.monotonic()
    age_s = float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout)
    assert 0.45 < age_s < time.monotonic() - began + 0.1
