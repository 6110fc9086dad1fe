"""A unit that would not end before the scheduler ends the job is not begun."""

from __future__ import annotations

import signal
import threading
from unittest import mock

import pytest

from hymt_batch.errors import StoppedError
from hymt_batch.records import Part, Prompt, Segment
from hymt_batch.run.time_limit import SAFETY_S, TimeLimit
from hymt_batch.run.unit import Unit
from hymt_batch.signals import StopRequest
from tests.fakes.documents import documents, shard_of


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_unit(tokens: int) -> Unit:
    shard = shard_of(documents(["x"]))
    part = Part(shard, 0, 1, (0,), (Prompt(Segment(0, 0, "x"), "in.txt#1", (1, 2), tokens, "fr"),))
    assert part.num_source_tokens == tokens
    return Unit.of_part(part)


def begun(end: str, durations: list[float], tokens: list[int]) -> tuple[int, StopRequest]:
    """Return how many units are begun, each of which takes a given time, and the stop request."""
    clock, stop = Clock(), StopRequest()
    limit = TimeLimit({"SLURM_JOB_END_TIME": end} if end else {}, clock)
    num = 0
    for unit in limit.units([a_unit(num_tokens) for num_tokens in tokens], stop):
        clock.now += durations[num]
        limit.end_part(unit.parts[0])
        num += 1
    return num, stop


def test_the_next_part_is_begun_while_it_ends_in_time_by_the_slowest_before() -> None:
    end = str(int(1000 + 100 + SAFETY_S))
    assert begun(end, [20.0] * 9, [10] * 9)[0] == 5
    assert begun(end, [20.0] * 9, [10, 10, 40])[0] == 2, "a larger part takes longer"
    num, stop = begun(end, [10.0, 40.0, 20.0, 10.0], [10] * 4)
    assert num == 3
    with pytest.raises(StoppedError, match="SLURM_JOB_END_TIME: stopped because the next part takes about 40 s"):
        stop.raise_if_requested()


@pytest.mark.parametrize("end", ["", "Unknown"])
def test_without_a_limit_everything_is_begun(end: str) -> None:
    num, stop = begun(end, [1e6] * 3, [10] * 3)
    assert (num, stop.requested) == (3, False)


def test_after_the_end_nothing_is_begun() -> None:
    assert begun("1000", [1.0], [10])[0] == 0


def test_a_signal_after_the_limit_leaves_the_running_part_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = mock.Mock()  # a real one would end the process of the tests
    monkeypatch.setattr(threading, "Timer", timer)
    stop = StopRequest()
    stop.allow_drain(100.0)
    stop.request("SLURM_JOB_END_TIME", "because")
    stop.check()
    stop.handle(signal.SIGTERM)  # a second signal would end the process
    stop.check()
    assert stop.signal_name == "SIGTERM"
    assert timer.call_args.args[0] == 101.0
