"""The timeline of a job: bounded, with the right sums, over several runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hymt_batch.fs import OS_FS
from hymt_batch.write import run_progress, timeline
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.timeline import MAX_INTERVALS, Interval, Timeline
from tests.fakes.job import Job


def run_for(clock: list[float], earlier: tuple[Interval, ...], num_s: int) -> tuple[Interval, ...]:
    recorded = Timeline(earlier)
    recorded.begin()
    for _ in range(num_s):
        clock[0] += 1.0
        recorded.add(rows=2, new_tokens=30)
    return recorded.intervals()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000_000.0]
    monkeypatch.setattr(timeline.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(timeline.time, "time", lambda: now[0])
    return now


@pytest.mark.parametrize("num_s", [1, 199, 201, 5000])
def test_a_long_run_has_few_intervals_with_the_same_sums(clock: list[float], num_s: int) -> None:
    intervals = run_for(clock, (), num_s)
    assert len(intervals) <= MAX_INTERVALS
    assert sum(i.rows for i in intervals) == 2 * num_s
    assert sum(i.new_tokens for i in intervals) == 30 * num_s
    assert sum(i.seconds for i in intervals) == pytest.approx(num_s)
    assert timeline.pauses(intervals) == []


def test_pauses_between_runs_stay_and_many_runs_are_bounded(clock: list[float]) -> None:
    intervals: tuple[Interval, ...] = ()
    for _ in range(3):
        intervals = run_for(clock, intervals, 300)
        clock[0] += 3600
    assert len(timeline.pauses(intervals)) == 2
    for _ in range(400):
        intervals = run_for(clock, intervals, 1)
        clock[0] += 3600
    assert len(intervals) <= MAX_INTERVALS
    assert sum(i.rows for i in intervals) == 2 * (900 + 400)


def test_it_is_kept_with_the_progress_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".hymt").mkdir()
    intervals = tuple(Interval(1_795_980_000.5 + i, 0.125, 10**8, 10**9) for i in range(MAX_INTERVALS + 50))
    run_progress.write(OS_FS, tmp_path, RunProgress(0.01, timeline=intervals))
    assert run_progress.path(tmp_path).stat().st_size < run_progress.MAX_BYTES
    recorded = run_progress.read(OS_FS, tmp_path)
    assert recorded is not None and recorded.timeline == intervals[-MAX_INTERVALS:]
    damaged = ["", "1 2 3", "a b c d", "1 -2 3 4", "nan nan 1 1", "1e300 1 1 1", "5 1 2 3", 7, None]
    assert timeline.decode(damaged) == (Interval(5.0, 1.0, 2, 3),)
    assert timeline.decode("x") == timeline.decode(None) == ()


def test_a_continued_job_has_the_rows_of_all_its_runs(job: Job, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"row {i}\n" for i in range(60)), encoding="utf-8")
    words = (f"source.path={tmp_path / 'in.txt'}", "name=n", "batch.part_rows=10")
    job.interrupt(*words, at=4)
    first = run_progress.read(OS_FS, tmp_path / "out" / "n")
    assert first is not None and sum(i.rows for i in first.timeline) == 30
    job(*words)
    both = run_progress.read(OS_FS, tmp_path / "out" / "n")
    assert both is not None and sum(i.rows for i in both.timeline) == 60
    assert both.share == 1.0
