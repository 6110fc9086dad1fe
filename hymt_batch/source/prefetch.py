"""Read ahead in a thread, so that the accelerator does not wait for input files."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
POLL_S = 0.05
JOIN_S = 5.0  # bounded, because a daemon thread that hangs in a read of a dead file system must not block the exit


def prefetch(
    items: Iterable[T],
    depth: int,
    on_wait: Callable[[], None] = lambda: None,
    pause: Callable[[], None] = lambda: None,
) -> Iterator[T]:
    """Yield the items of an iterable, produced up to `depth` ahead in a thread; with depth 0 in this thread.

    An error raised while producing an item is raised here, after the items before it. Closing the generator stops the
    thread after its current item.

    Args:
        items: The items to produce.
        depth: Maximum number of items that are produced ahead.
        on_wait: Called every POLL_S seconds while waiting for an item; an exception from it ends the wait.
        pause: Called in the producing thread after each item and at the end.
    """
    if depth < 1:
        try:
            for item in items:
                pause()
                yield item
        finally:
            pause()
        return
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(kind: str, value: Any) -> None:
        pause()  # the consumer may be slow to take the item
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, value), timeout=POLL_S)
                return

    def make() -> None:
        source = iter(items)
        try:
            for item in source:
                put("item", item)
                if closed.is_set():
                    break
            put("end", None)
        except BaseException as error:  # any error is raised again in the consumer
            put("error", error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                kind, value = ready.get(timeout=POLL_S)
            except queue.Empty:
                on_wait()
                continue
            if kind == "end":
                return
            if kind == "error":
                on_wait()
                raise value
            yield value
    finally:
        closed.set()
        thread.join(JOIN_S)
