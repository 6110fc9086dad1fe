"""Stop requests: SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 end a job so that it can be continued.

Installed before any heavy import, because importing torch takes seconds and a signal without a handler kills the
process. Knows nothing of the job: before `working()` a signal ends the process at once with exit code 75 (nothing is
under way); after it, the running part may finish within `grace_s`, and a second signal ends at once. A terminal that
closes (SIGHUP) does not end a job.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hymt_batch.errors import ExitCode, StoppedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Whether somebody asked the job to stop, and how long the running part may still take."""

    def __init__(self) -> None:
        self.signal_name = ""  # of the first signal; "" when nobody asked
        self.deadline = float("inf")  # monotonic seconds
        self._grace_s: float | None = None
        self._release: Callable[[], object] | None = None
        self._temporary_folders: list[Path] = []
        self.flush_output: Callable[[], object] = lambda: None
        """Called before an exit that unwinds nothing: what libraries wrote is read first."""
        self._kept_note = ""

    @property
    def requested(self) -> bool:
        return bool(self.signal_name)

    def allow_drain(self, grace_s: float, release: Callable[[], object] | None = None) -> None:
        """From now on a signal lets the running part finish within `grace_s` seconds.

        Args:
            grace_s: How long the running part may still take after the first signal.
            release: Called before an immediate exit, to give the lease back.
        """
        self._grace_s, self._release = grace_s, release

    def on_exit(self, release: Callable[[], object]) -> None:
        """Call `release` before an immediate exit; a signal still ends the process at once."""
        self._release = release

    @contextmanager
    def remove_on_exit(self, folder: Path) -> Iterator[Path]:
        """A folder that is gone after the block, also where a signal ends the process at once."""
        self._temporary_folders.append(folder)
        try:
            yield folder
        finally:
            if folder in self._temporary_folders:
                shutil.rmtree(folder, ignore_errors=True)
                self._temporary_folders.remove(folder)

    def keep_folder(self, folder: Path) -> None:
        """Leave a folder that `removing` would remove: what is in it is finished, and nobody has it elsewhere."""
        self._temporary_folders.remove(folder)
        self._kept_note = f"; the translations are kept in {folder}"

    def check(self) -> None:
        """Raise StoppedError when the grace of a requested stop is over."""
        if self.requested and time.monotonic() >= self.deadline:
            raise StoppedError(
                f"{self.signal_name}: the running part did not end within launch.grace_s; it is dropped. "
                "Run the same command again to continue; a larger launch.grace_s lets long parts end."
            )

    def handle(self, signum: int, frame: FrameType | None = None) -> None:
        """The signal handler itself."""
        name = signal.Signals(signum).name
        if self._grace_s is not None and not self.requested:
            self.signal_name = name
            self.deadline = time.monotonic() + self._grace_s
            # decoding ends by itself at the deadline; whatever else is under way ends here, a moment later
            timer = threading.Timer(self._grace_s + 1.0, self._exit_after_grace)
            timer.daemon = True
            timer.start()
            report(f"{name}: finishing the running part, at most {self._grace_s:g} s; a second signal stops at once")
            return
        self._clean_up()
        self.exit_now(f"{name}: stopped at once; run the same command again to continue{self._kept_note}")

    def _exit_after_grace(self) -> None:
        self._clean_up()
        self.exit_now(
            f"{self.signal_name}: launch.grace_s is over; run the same command again to continue{self._kept_note}"
        )

    def _clean_up(self) -> None:
        if self._release is not None:
            self._release()
        for folder in reversed(self._temporary_folders):
            shutil.rmtree(folder, ignore_errors=True)

    def exit_now(self, message: str) -> None:
        """End without unwinding: a library that catches exceptions must not swallow the request."""
        self.flush_output()
        report(message)
        os._exit(int(ExitCode.STOPPED))


def report(message: str) -> None:
    """Write one line to stderr, from within a handler: no locks, no buffers."""
    try:
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), f"\nhymt-batch: {message}\n".encode(errors="backslashreplace"))
    except (OSError, ValueError):
        return  # stderr is closed: nobody listens, and stopping matters more


_stop = StopRequest()


def install() -> StopRequest:
    """Install the handlers; call it first of all. Calling it again gives the same Stop."""
    for number in SIGNALS:
        signal.signal(number, _stop.handle)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes: the job goes on, and so does its log file
    return _stop
