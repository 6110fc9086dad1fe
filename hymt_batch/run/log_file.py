"""The log file of a run, `logs/<utc>-<pid>.log`: its name, its form, and which files of earlier runs are removed.

Never follows a link. Independent of what is logged.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import time
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from hymt_batch.errors import PreflightError, first_line

log = logging.getLogger(__name__)

LOG_NAME = re.compile(r"\d{8}T\d{6}Z-\d+\.log")
"""The names of log files; their order is that of the runs."""


def new_name() -> str:
    """Return the name of the log file of a run that begins now."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"


class _UtcFormatter(logging.Formatter):
    """Formats the time once a second: a job over many small files writes a line for each."""

    def __init__(self, form: str, *, milliseconds: bool) -> None:
        super().__init__(form)
        self._milliseconds, self._second, self._text = milliseconds, -1, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # the method that logging calls
        second = int(record.created)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{int(record.msecs):03d}Z" if self._milliseconds else f"{self._text}Z"


def utc_formatter(form: str, *, milliseconds: bool = False) -> logging.Formatter:
    """Return a formatter whose %(asctime)s is the time in UTC, such as 2026-11-29T02:19:35Z."""
    return _UtcFormatter(form, milliseconds=milliseconds)


class LogFileHandler(logging.FileHandler):
    """Writes a log file and never follows a link; if writing fails, warns once and the job continues."""

    def __init__(self, path: Path) -> None:
        """Create or continue the file.

        Raises:
            OSError: It cannot be opened, or is a link or a pipe.
        """
        super().__init__(path, encoding="utf-8")
        self.setFormatter(utc_formatter("%(asctime)s %(levelname)s %(name)s %(message)s", milliseconds=True))

    def _open(self) -> TextIOWrapper:  # the method that logging calls
        flags = os.O_NOFOLLOW | os.O_NONBLOCK
        return open(
            self.baseFilename, "a", encoding=self.encoding, opener=lambda path, mode: os.open(path, mode | flags, 0o666)
        )

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True  # set before the warning, which may fail here too
            log.warning("the log %s is incomplete: %s", self.baseFilename, first_line(sys.exception() or OSError()))


def open_log(folder: Path, keep: int | None) -> LogFileHandler:
    """Create the log file of this run, and remove those of earlier runs beyond the newest `keep`; None keeps all.

    Raises:
        PreflightError: The folder is a symbolic link; logs are never written outside the job's folder.
        OSError: The file system failed.
    """
    if folder.is_symlink():
        raise PreflightError(
            f"{folder} is a link, but logs must stay in the job's folder",
            why="nothing is written or removed through a link",
            fix="Remove the link, and run the same command again.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if keep is not None:
        with contextlib.suppress(OSError):  # old logs do no harm
            _remove_old(folder, keep)
    return LogFileHandler(folder / new_name())


def _remove_old(folder: Path, keep: int) -> None:
    """Remove the oldest log files. Other names, links and folders stay, whatever they are called."""
    descriptor = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        names = sorted(name for name in os.listdir(descriptor) if LOG_NAME.fullmatch(name))
        for name in names[: max(0, len(names) - keep)]:
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
