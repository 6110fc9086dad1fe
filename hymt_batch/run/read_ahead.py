"""Prepare shards ahead of the decoder in a thread, with a deadline for each step, until a stop is requested.

Independent of what the preparation does and of how the shards are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TypeVar

from hymt_batch.errors import StoppedError
from hymt_batch.launch.settings import LaunchConfig
from hymt_batch.run.watchdog import Watchdog
from hymt_batch.signals import StopRequest
from hymt_batch.source.prefetch import prefetch

T = TypeVar("T")
S = TypeVar("S")


class _StopNoticedError(StoppedError):
    """Ends the preparation of a shard."""


def read_ahead(
    shards: Iterable[T],
    prepare: Callable[[T, Callable[[], None]], S],
    config: LaunchConfig,
    stop: StopRequest,
    *,
    on_wait: Callable[[], None],
    before_exit: Callable[[], None],
) -> Generator[S, None, None]:
    """Yield prepared shards, `launch.prefetch_shards` ahead in a thread; end once a stop is requested.

    With `launch.prefetch_shards=0` each shard is prepared when it is needed, in this thread.

    Args:
        shards: The shards to prepare.
        prepare: Prepares a shard. It gets a function that it must call repeatedly, also within a long row; an exception
            from that function ends the preparation.
        config: The settings launch.prefetch_shards and launch.hang_s.
        stop: Stop requests.
        on_wait: Called repeatedly while this thread waits for a shard.
        before_exit: Called before the process exits because a step hangs, to release the lease.
    """

    def on_hang(reason: str) -> None:
        before_exit()
        stop.exit_now(f"{reason}; run the same command again to continue, with a larger value if the storage is slow")

    def wait() -> None:
        if stop.noticed("while rows were prepared"):
            raise _StopNoticedError("a stop was requested")
        on_wait()

    def step() -> None:
        watchdog.reset()
        if config.prefetch_shards == 0:
            wait()
        elif stop.requested:  # ends the thread; the consumer notices the request by itself
            raise _StopNoticedError("a stop was requested")

    watchdog = Watchdog(config.hang_s, on_hang, "reading, splitting or encoding rows")
    prepared = (prepare(shard, step) for shard in reset_before_each(shards, watchdog.reset))
    with watchdog:
        try:
            for shard in prefetch(prepared, config.prefetch_shards, wait, watchdog.pause):
                if stop.noticed("between two shards"):
                    return
                yield shard
        except _StopNoticedError:
            return


def reset_before_each(shards: Iterable[T], reset: Callable[[], None]) -> Iterator[T]:
    """Yield the shards unchanged, and call `reset` before each of them is read."""
    reset()
    for shard in shards:
        yield shard
        reset()
