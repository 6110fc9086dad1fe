"""Stop requests: SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 end a job so that it can be continued.

The handlers are installed before any heavy import, because importing torch takes seconds and a signal without a handler
kills the process. Independent of jobs. Before `allow_drain` is called, a signal ends the process at once with exit
code 75, because no part is running. Afterwards the first signal lets the running part finish within `grace_s`, and a
second signal ends the process at once. SIGHUP (the terminal was closed) does not end a job.
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
    """Records whether a signal asked the job to stop, and how long the running part may still take."""

    def __init__(self) -> None:
        self.signal_name = ""  # name of the first signal, or ""
        self.exit_reason = ""  # why the process is about to exit at once; set before the release function is called
        self.deadline = float("inf")  # seconds of time.monotonic()
        self._grace_s: float | None = None
        self._release: Callable[[], object] | None = None
        self._temporary_folders: list[Path] = []
        self.flush_output: Callable[[], object] = lambda: None
        """Called before an exit without unwinding, to read what libraries wrote to stderr."""
        self._kept_note = ""
        self._where = ""  # where the job noticed the request first

    @property
    def requested(self) -> bool:
        return bool(self.signal_name)

    def noticed(self, where: str) -> bool:
        """Return whether a stop was requested, and remember where the job noticed it first, for the message.

        Args:
            where: What the job has just done or is doing, such as "after a finished part".
        """
        if self.requested and not self._where:
            self._where = where
        return self.requested

    def request(self, name: str, where: str) -> None:
        """Ask the job to stop as a signal does, but with all the time that the running part needs.

        Args:
            name: What asks for it, in place of the name of a signal.
            where: The rest of the message, such as "because ...".
        """
        if not self.requested:
            self.signal_name, self._where = name, where

    def raise_if_requested(self) -> None:
        """Raise StoppedError if a stop was requested; call it when nothing is in flight any more."""
        if self.requested:
            where = self._where or "after the running parts"
            raise StoppedError(f"{self.signal_name}: stopped {where}", fix="Run the same command again to continue.")

    def allow_drain(self, grace_s: float, release: Callable[[], object] | None = None) -> None:
        """Let the running part finish after the first signal, from now on.

        Args:
            grace_s: Time that the running part may take after the first signal, in seconds.
            release: Called before an immediate exit, to release the lease; None keeps what `on_exit` set.
        """
        self._grace_s, self._release = grace_s, release or self._release

    def on_exit(self, release: Callable[[], object]) -> None:
        """Set the function that is called before an immediate exit; a signal still ends the process at once."""
        self._release = release

    @contextmanager
    def remove_on_exit(self, folder: Path) -> Iterator[Path]:
        """Remove a folder after the block, also if a signal ends the process at once."""
        self._temporary_folders.append(folder)
        try:
            yield folder
        finally:
            if folder in self._temporary_folders:
                shutil.rmtree(folder, ignore_errors=True)
                self._temporary_folders.remove(folder)

    def keep_folder(self, folder: Path) -> None:
        """Keep a folder that `remove_on_exit` would remove: it has the only copy of finished translations."""
        self._temporary_folders.remove(folder)
        self._kept_note = f"; the translations are kept in {folder}"

    def check(self) -> None:
        """Raise StoppedError if the grace period of a requested stop is over."""
        if self.requested and time.monotonic() >= self.deadline:
            raise StoppedError(
                f"{self.signal_name}: the running part did not finish within launch.grace_s and was dropped",
                fix="Run the same command again to continue; set a larger launch.grace_s to let long parts finish.",
            )

    def handle(self, signum: int, frame: FrameType | None = None) -> None:
        """Handle a signal; this is the handler that `install` registers."""
        name = signal.Signals(signum).name
        if self._grace_s is not None and self.deadline == float("inf"):  # the first signal
            self.signal_name = name
            self.deadline = time.monotonic() + self._grace_s
            # decoding checks the deadline and ends by itself; the timer ends everything else one second later
            timer = threading.Timer(self._grace_s + 1.0, self._exit_after_grace)
            timer.daemon = True
            timer.start()
            report(f"{name}: finishing the running part, at most {self._grace_s:g} s; a second signal stops at once")
            return
        self._clean_up(f"{name}: stopped at once")
        self.exit_now(f"{name}: stopped at once; run the same command again to continue{self._kept_note}")

    def _exit_after_grace(self) -> None:
        self._clean_up(f"{self.signal_name}: the running part did not finish within launch.grace_s")
        self.exit_now(
            f"{self.signal_name}: launch.grace_s is over; run the same command again to continue{self._kept_note}"
        )

    def _clean_up(self, why: str) -> None:
        self.exit_reason = why
        if self._release is not None:
            self._release()
        for folder in reversed(self._temporary_folders):
            shutil.rmtree(folder, ignore_errors=True)

    def exit_now(self, message: str) -> None:
        """Exit without unwinding, because a library that catches exceptions could swallow the stop request."""
        self.flush_output()
        report(message)
        os._exit(int(ExitCode.STOPPED))


def report(message: str) -> None:
    """Write one line to stderr without locks or buffers, so that a signal handler can call this."""
    try:
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), f"\nhymt-batch: {message}\n".encode(errors="backslashreplace"))
    except (OSError, ValueError):
        return  # stderr is closed: the stop must still succeed


_stop = StopRequest()


def install() -> StopRequest:
    """Install the signal handlers and return the stop request of this process, the same one on every call."""
    for signum in SIGNALS:
        signal.signal(signum, _stop.handle)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal: the job continues
    return _stop
