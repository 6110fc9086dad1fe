"""A deadline for every step of decoding in this process: a step that does not end ends the process.

Only a thread beside it can tell; nothing can be raised into a call that hangs in a driver. The part's attempt mark
stays, so that a row that does this again and again is found out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watch:
    """Watches while it is busy: `beat` must be called within every `hang_s` seconds."""

    def __init__(self, hang_s: float, hung: Callable[[str], None]) -> None:
        self._hang_s, self._hung = hang_s, hung
        self._beat: float | None = None  # monotonic seconds; None while nothing is decoded
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=1.0)

    def beat(self) -> None:
        """A step begins."""
        self._beat = time.monotonic()

    def rest(self) -> None:
        """Nothing is decoded any more."""
        self._beat = None

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._hang_s / 4)):
            beat = self._beat
            if beat is not None and time.monotonic() - beat > self._hang_s:
                self._hung(f"a step of decoding did not end within launch.hang_s={self._hang_s:g} s")
                return
