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
    producer = _Producer(items, depth, pause)
    try:
        while True:
            kind, value = producer.take(on_wait)
            if kind == "end":
                return
            if kind == "error":
                on_wait()
                raise value
            yield value
    finally:
        producer.stop()


class _Producer:
    """Produces items in a thread, at most `depth` ahead."""

    def __init__(self, items: Iterable[Any], depth: int, pause: Callable[[], None]) -> None:
        self._items, self._pause = items, pause
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
        self._thread.start()

    def take(self, on_wait: Callable[[], None]) -> tuple[str, Any]:
        """Return ("item", an item), ("error", the exception that ended the thread) or ("end", None)."""
        while True:
            try:
                return self._ready.get(timeout=POLL_S)
            except queue.Empty:
                on_wait()

    def stop(self) -> None:
        """End the thread after its current item."""
        self._closed.set()
        self._thread.join(JOIN_S)

    def _put(self, kind: str, value: Any) -> None:
        self._pause()  # the consumer may be slow to take the item
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put((kind, value), timeout=POLL_S)
                return

    def _produce(self) -> None:
        source = iter(self._items)
        try:
            for item in source:
                self._put("item", item)
                if self._closed.is_set():
                    break
            self._put("end", None)
        except BaseException as error:  # any error is raised again in the consumer
            self._put("error", error)
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()
