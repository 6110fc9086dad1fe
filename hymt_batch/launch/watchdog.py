"""A deadline for every step of some work in this process: a step that does not end ends the process.

Only a thread beside it can tell; nothing can be raised into a call that hangs in a driver or in a library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watchdog:
    """Watches while it is busy: `beat` must be called within every `hang_s` seconds."""

    def __init__(self, hang_s: float, on_hang: Callable[[str], None], work: str = "decoding") -> None:
        self._hang_s, self._on_hang, self._work = hang_s, on_hang, work
        self._last_reset: float | None = None  # monotonic seconds; None while nothing is done
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(timeout=1.0)

    def reset(self) -> None:
        """A step begins."""
        self._last_reset = time.monotonic()

    def pause(self) -> None:
        """Nothing is done any more."""
        self._last_reset = None

    def _run(self) -> None:
        while not self._stopped.wait(min(1.0, self._hang_s / 4)):
            beat = self._last_reset
            if beat is not None and time.monotonic() - beat > self._hang_s:
                self._on_hang(f"a step of {self._work} did not end within launch.hang_s={self._hang_s:g} s")
                return
