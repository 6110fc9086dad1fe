"""A deadline for each step of the work in this process, so that a step that hangs does not block the job forever.

A separate thread checks the deadline, because no exception can be raised in a call that hangs in a driver or a library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Calls `on_hang` once, with a message, if a step takes more than `hang_s` seconds; `reset` starts a step."""

    def __init__(self, hang_s: float, on_hang: Callable[[str], None], work: str = "decoding") -> None:
        self._hang_s, self._on_hang, self._work = hang_s, on_hang, work
        self._last_reset: float | None = None  # monotonic time in seconds; None while paused
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=1.0)

    def reset(self) -> None:
        """Start the deadline of a new step."""
        self._last_reset = time.monotonic()

    def pause(self) -> None:
        """Set no deadline until the next `reset`."""
        self._last_reset = None

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._hang_s / 4)):
            last_reset = self._last_reset
            if last_reset is not None and time.monotonic() - last_reset > self._hang_s:
                self._on_hang(f"a step of {self._work} did not end within launch.hang_s={self._hang_s:g} s")
                return
