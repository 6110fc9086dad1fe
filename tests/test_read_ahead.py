"""Shards are prepared ahead, in order, until a stop is requested."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hymt_batch.errors import StoppedError
from hymt_batch.launch.settings import LaunchConfig
from hymt_batch.run.read_ahead import read_ahead
from hymt_batch.signals import StopRequest

Prepare = Callable[[int, Callable[[], None]], int]


def double(shard: int, check_stop: Callable[[], None]) -> int:
    check_stop()
    return 2 * shard


def reading(shards: Iterator[int], ahead: int, stop: StopRequest, prepare: Prepare = double) -> Iterator[int]:
    config = LaunchConfig(prefetch_shards=ahead)
    return read_ahead(shards, prepare, config, stop, on_wait=lambda: None, before_exit=lambda: None)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_all_shards_are_prepared_in_order(ahead: int) -> None:
    assert list(reading(iter(range(5)), ahead, StopRequest())) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("ahead", [0, 1])
def test_no_shard_comes_after_a_stop_request(ahead: int) -> None:
    stop = StopRequest()
    shards = reading(iter(range(5)), ahead, stop)
    assert next(shards) == 0
    stop.signal_name = "SIGTERM"
    assert list(shards) == []
    with pytest.raises(StoppedError, match=r"SIGTERM: stopped (between two shards|while rows were prepared)\."):
        stop.raise_if_requested()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_stop_request_ends_a_preparation_that_takes_long(ahead: int) -> None:
    stop, began = StopRequest(), threading.Event()

    def endless(shard: int, check_stop: Callable[[], None]) -> int:
        began.set()
        while True:
            check_stop()
            time.sleep(0.005)

    def request() -> None:
        began.wait(10)
        stop.signal_name = "SIGINT"

    thread = threading.Thread(target=request)
    thread.start()
    assert list(reading(iter([1]), ahead, stop, endless)) == []
    thread.join()
    with pytest.raises(StoppedError, match="SIGINT: stopped while rows were prepared"):
        stop.raise_if_requested()


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_error_of_the_source_is_raised_after_the_shards_before_it(ahead: int) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise StoppedError("the disk failed")

    shards = reading(failing(), ahead, StopRequest())
    assert next(shards) == 2
    with pytest.raises(StoppedError, match="the disk failed"):
        next(shards)
