"""Read ahead in a thread, so that the accelerator does not wait for files."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
POLL_S = 0.05
JOIN_S = 5.0  # a thread that hangs in a read of a dead file system must not hold the exit: it is a daemon


def prefetch(
    items: Iterable[T],
    depth: int,
    on_wait: Callable[[], None] = lambda: None,
    pause: Callable[[], None] = lambda: None,
) -> Iterator[T]:
    """Yield the same items, made up to `depth` ahead in a thread; 0 makes them here.

    An error of the items' own is raised where they are taken, after the items before it. Closing stops the thread
    after the item that it is making.

    Args:
        items: Made one by one.
        depth: How many are made ahead.
        check: Called every moment while an item is waited for; what it raises ends the waiting.
        rest: Called where items are made, once one is, and at their end.
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
        pause()  # whoever takes it may take long
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
        except BaseException as error:  # carried to the other side, whatever it is
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
