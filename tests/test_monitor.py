"""The monitor: the time left is estimated from tokens, and progress is shown while a job works."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path

import pytest

from hymt_batch import config, streams
from hymt_batch.errors import PreflightError
from hymt_batch.records import Part, Row, Status
from hymt_batch.run.monitor import Monitor
from hymt_batch.run.progress import Progress, process_age_s
from hymt_batch.run.reporter import Reporter
from jobs import __main__ as front
from tests.fakes.documents import documents, shard_of
from tests.fakes.job import Job


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
    progress.add_kept_shard(30, units=500)
    assert "30 of about 60 rows (30 kept)" in progress.status_line()


def test_the_time_to_the_first_rows_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reporter, "_process_has_run", False)
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


WEATHER = [f"row {index} {'long ' * (index % 7)}" for index in range(40)]


def write_source(folder: Path, kind: str) -> list[str]:
    """Write a source of one kind, and return the overrides that a job needs for it."""
    folder.mkdir()
    lines = [*WEATHER, *(["the same row"] * 60)]
    texts = {"a.txt": "\n".join(lines) + "\n"}
    overrides = []
    if kind == "rejected rows":
        texts = {"a.jsonl": "".join('{"text": "fine"}\n' if n % 3 else "broken\n" for n in range(30))}
    elif kind == "only rejected rows":
        texts = {"a.jsonl": '{"text": 1}\n' * 12}
    elif kind == "blank rows":
        texts = {"a.txt": " \n\n" * 20 + "word\n"}
    elif kind in ("several files", "a unit of files"):
        overrides = ["batch.part_tokens=300"] if kind == "several files" else []
        texts = {"a.txt": "\n".join(WEATHER), "b.txt": "", "c.txt": "\n".join(lines), "d.txt": "x\n"}
    elif kind == "a large header":
        texts = {"a.csv": f"text,{'x' * 4000}\n" + "".join(f"{line},1\n" for line in WEATHER)}
    elif kind == "limit":
        texts |= {"b.txt": "never read\n" * 50}
        overrides = ["source.limit=70"]
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if kind == "compressed files":
        (folder / "a.txt").unlink()
        for name in ("a.txt.gz", "b.txt.gz", "c.txt.gz"):
            (folder / name).write_bytes(gzip.compress("\n".join(lines).encode()))
    return [f"source.path={folder}", "name=n", "batch.shard_rows=16", "batch.part_rows=4", *overrides]


KINDS = [
    "equal rows", "rejected rows", "only rejected rows", "blank rows", "several files", "a large header", "limit",
    "compressed files", "a unit of files",
]  # fmt: skip


def record_shares(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Return a list that gets the share of a job whenever its display may change, and when it ends."""
    shares: list[float | None] = []
    monkeypatch.setattr(Progress, "_show", lambda self: shares.append(self.share()))
    leave = Progress.__exit__

    def exit_with_share(self: Progress, *error: object) -> None:
        leave(self, *error)
        shares.append(self.share())
        if self.is_finished:
            assert self.source_tokens_done == self.seen_tokens, "what is decoded, and nothing else, counts"

    monkeypatch.setattr(Progress, "__exit__", exit_with_share)
    return shares


@pytest.mark.parametrize("kind", KINDS)
def test_progress_ends_at_100_percent_and_never_runs_over(job: Job, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    shares = record_shares(monkeypatch)
    job(*write_source(job.folder / "in", kind), "check.max_error_rate=1")
    known = [share for share in shares if share is not None]
    assert known[-1] == 1.0
    assert all(0 <= share <= 1 for share in known)
    assert known.count(1.0) <= 2, "100 % is shown for the last part alone, and at the end"


@pytest.mark.parametrize("kind", KINDS)
def test_the_progress_of_a_resumed_job_goes_on_and_ends_at_100_percent(
    job: Job, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    overrides = [*write_source(job.folder / "in", kind), "check.max_error_rate=1"]
    shares = record_shares(monkeypatch)
    if kind != "only rejected rows":
        job.interrupt(*overrides, at={"blank rows": 1, "rejected rows": 2, "a unit of files": 1}.get(kind, 5))
        assert shares[-1] is None or shares[-1] < 1.0
    stopped_at = shares[-1] if shares else None
    shares.clear()
    job(*overrides)
    known = [share for share in shares if share is not None]
    assert known[-1] == 1.0
    assert all(0 <= share <= 1 for share in known)
    if kind == "equal rows":
        assert stopped_at is not None
        first = next(share for share in known if share > 0)
        assert abs(first - stopped_at) < 0.25, "it begins about where the earlier run ended"


def test_the_time_left_is_that_of_what_remains() -> None:
    progress = Progress(Reporter("off"), total_units=1000)
    progress.add_kept_shard(100, units=500)
    progress.add_shard(500, 4000, last=True, rows=100, segments=100, parts=3)
    progress.add_kept_part(50, 2000)
    progress.begin_part("a.txt#1", 1, 25, 1000)
    progress.start_time -= 10
    progress.add_part(25, 1000, Counter(), 25)
    assert progress.eta_s() == pytest.approx(10, abs=0.1), "1,000 of 4,000 tokens took 10 s, and 1,000 are left"
    assert progress.share() == pytest.approx(7 / 8), "the kept shard counts like the one that was read"


def test_a_part_that_is_decoded_counts_before_it_is_committed_and_once_if_it_is_decoded_twice() -> None:
    progress = Progress(Reporter("off"))
    progress.add_shard(100, 1000, last=True, rows=20, segments=20, parts=2)
    progress.begin_part("a.txt#1", 1, 10, 600)
    progress.add_batch(5, 50)
    assert progress.share() == pytest.approx(0.3)
    progress.add_batch(10, 50)
    assert progress.share() == pytest.approx(0.6)
    progress.add_part(10, 600, Counter(), 10)
    assert progress.share() == pytest.approx(0.6)
    assert progress.status_line().startswith("10 rows")


def test_the_first_rows_of_a_later_point_of_a_sweep_are_timed_from_its_own_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reporter, "_process_has_run", False)
    monkeypatch.setattr("hymt_batch.run.progress.process_age_s", lambda: 500.0)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            Progress(Reporter("off")).add_batch(1, 5)
    assert re.findall(r"first_rows_s=(\S+) since (.*)", caplog.text) == [
        ("500.00", "process start"),
        ("0.00", "the start of this point"),
    ]


def run_on_terminal(words: list[str], columns: int, folder: Path) -> tuple[list[tuple[float, str]], int]:
    """Run a command with a terminal as stderr; return what it drew, with times in seconds, and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    began, frames = time.monotonic(), []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen(words, cwd=folder, stderr=theirs, stdout=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    data = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while chunk := os.read(ours, 1 << 16):
            data += chunk
            *complete, data = re.split(rb"[\r\n]+", data)
            frames += [(time.monotonic() - began, frame.decode(errors="replace")) for frame in complete]
            frames.append((time.monotonic() - began, data.decode(errors="replace")))
    os.close(ours)
    return [(at, frame) for at, frame in frames if frame.strip()], process.wait()


@pytest.mark.parametrize("columns", [80, 200])
def test_a_terminal_shows_loading_at_once_and_a_bar_that_fits_and_ends_at_100_percent(
    tmp_path: Path, columns: int
) -> None:
    overrides = write_source(tmp_path / "in", "equal rows")
    command = [sys.executable, "-m", "tests.fakes.job", *overrides, "model=demo", "tgt_lang=fr", "output_dir=out"]
    frames, exit_code = run_on_terminal(command, columns, tmp_path)
    texts = [text for _, text in frames]
    assert exit_code == 0
    assert texts[0] == "hymt-batch: loading"
    assert max(map(len, texts)) < columns
    assert any(text.startswith("loading the model") for text in texts)
    assert texts[-1].startswith("100% |")
    assert "100 of 100 rows" in texts[-1]
    assert "left" not in texts[-1]


def test_loading_is_shown_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from hymt_batch import streams; from jobs import __main__ as front\n"
        "def show(text):\n"
        "    print(text, [m for m in ('torch', 'hydra', 'pyarrow') if m in sys.modules]); raise SystemExit\n"
        "streams.show_notice = show; front.main(['translate', 'source.path=a.txt'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "hymt-batch: loading []\n"


@pytest.mark.parametrize("words", [["launch.progress=off"], ["--help"], ["--cfg", "job"]])
def test_loading_is_not_shown_where_nothing_is_loaded_or_progress_is_off(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(streams, "show_notice", shown.append)
    front.main(["translate", "preset=demo", "source.path=/none", *words])
    assert shown == []
