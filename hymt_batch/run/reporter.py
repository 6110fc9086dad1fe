"""The messages of a run: to the console, to a log file, and as a summary at the end; counts the warnings.

Writes to stderr, and the summary to stdout; independent of the stages. Source text is never logged; the sample pairs of
the summary are escaped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

from hymt_batch import streams
from hymt_batch.errors import HymtError, PreflightError, first_line
from hymt_batch.records import UNLISTED_STATUSES, Status
from hymt_batch.sanitize import escape_line
from hymt_batch.source.path_errors import describe_skipped
from hymt_batch.storage_error import describe_type

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob
    from hymt_batch.write.summary import Summary

log = logging.getLogger(__name__)


class Reporter:
    """Sends the messages of a run to the console and to a log file, and counts the warnings."""

    def __init__(self, mode: str = "auto") -> None:
        """Set the mode: "auto" (a bar on a terminal, log lines elsewhere), "bar", "log" or "off" (warnings only)."""
        self.mode = ("bar" if sys.stderr.isatty() else "log") if mode == "auto" else mode
        self.num_warnings = 0
        self.sample_pairs: list[tuple[str, str]] = []
        self._console = _ConsoleHandler(self)
        self._console.setLevel(logging.INFO if self.mode == "log" else logging.WARNING)
        self._console.setFormatter(logging.Formatter("hymt-batch: %(message)s"))
        self._file: logging.Handler | None = None
        self._root = logging.getLogger("hymt_batch")
        self._previous_level = self._root.level

    def __enter__(self) -> Reporter:
        logging.captureWarnings(True)
        self._root.setLevel(logging.INFO)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._console)
            logger.propagate = False
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._file is not None:
            # only to the file: the entry point prints the error
            message = f"ended: {type(error).__name__}: {error}"
            self._file.handle(self._root.makeRecord(log.name, logging.ERROR, __file__, 0, message, (), None))
        logging.captureWarnings(False)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.removeHandler(self._console)
            if self._file is not None:
                logger.removeHandler(self._file)
            logger.propagate = True
        self._root.setLevel(self._previous_level)
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk must not change the result of the job
                self._file.close()

    def log_to(self, folder: Path) -> None:
        """Also write all messages to `folder/<utc>-<pid>.log`.

        Raises:
            PreflightError: The folder is a symbolic link; logs are never written outside the job's folder.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
        try:
            if folder.is_symlink():
                raise PreflightError(
                    f"{folder} is a link, but logs must stay in the job's folder", fix="Remove the link."
                )
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _LogFileHandler(folder / name, encoding="utf-8")
        except OSError as error:
            file_type = describe_type(folder)
            reason = f"it is {file_type}; move it elsewhere" if file_type not in ("", "a folder") else error.strerror
            log.warning("cannot write a log file in %s: %s", folder, reason)
            return
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._file)

    def print_result(self, text: str, *, to_stderr: bool = False) -> None:
        """Print the result of a job that writes files; if it cannot be printed, that is a warning, not an error."""
        if to_stderr:
            print(text, file=sys.stderr, flush=True)
            return
        try:
            streams.print_result(text)
        except HymtError as error:
            log.warning("the result is not shown: %s", error)


class _ConsoleHandler(logging.Handler):
    """Writes lines to stderr without damaging the progress bar, and counts warnings."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.reporter.num_warnings += 1
        with contextlib.suppress(OSError, ValueError):  # stderr cannot be written
            tqdm.write(self.format(record), file=sys.stderr)


class _LogFileHandler(logging.FileHandler):
    """Writes a log file and never follows a link; if writing fails, warns once and the job continues."""

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


def render_summary(summary: Summary, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the summary of a finished job: what was written, where, how fast; and the (source, translation) pairs."""
    folder, seconds = summary.folder, summary.seconds
    rows, files = ("row" if summary.rows == 1 else "rows"), ("file" if summary.files == 1 else "files")
    lines = [f"{summary.rows:,} {rows} in {summary.files:,} {files} → {folder / 'translated'}"]
    for status, count in sorted(summary.counts.items()):
        if status != Status.OK:
            lines.append(f"  {count:,} {status}")
    if any(status not in UNLISTED_STATUSES for status in summary.counts):
        lines.append(f"  listed in {folder / 'errors'}")
    flags = ", ".join(f"{name} {count:,}" for name, count in sorted(summary.flags.items()))
    if flags:
        lines.append(f"  flags: {flags}")
    if summary.skipped:
        files = "1 file was" if len(summary.skipped) == 1 else f"{len(summary.skipped):,} files were"
        lines.append(f"  {files} skipped, because their formats are not read: {describe_skipped(summary.skipped)}")
        lines.append(f"  listed in {folder / 'manifest.json'}")
    if summary.num_rows_decoded:
        speed = f"{summary.num_rows_decoded / seconds:,.1f} rows/s"
        from_earlier_runs = f", {summary.num_rows_kept:,} from earlier runs" if summary.num_rows_kept else ""
        lines.append(f"  {summary.num_rows_decoded:,} rows in {format_duration(seconds)} ({speed}){from_earlier_runs}")
    else:
        lines.append(_nothing_decoded(summary))
    for source, translation in pairs:
        lines += ["", f"  {escape_line(source)}", f"→ {escape_line(translation)}"]
    return "\n".join(lines)


def next_command(job: TranslateJob, summary: Summary) -> str:
    """Return the command to run after a finished job."""
    name = summary.folder.relative_to(job.output_dir)
    output_option = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
    lines = [f"Next: hymt-batch verify name={shlex.quote(str(name))}{output_option}"]
    if job.source.path == "demo:bulletins":
        lines.append(
            "To translate your own file with the real model: hymt-batch translate source.path=FILE tgt_lang=fr"
        )
    return "\n".join(lines)


def format_duration(seconds: float) -> str:
    """Format a duration for display: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _nothing_decoded(summary: Summary) -> str:
    """Return the line of a summary that says why a run decoded nothing."""
    if count := summary.num_files_assembled_again:
        files = "1 file was" if count == 1 else f"{count:,} files were"
        return f"  {files} written again with the new output settings; nothing was decoded"
    return "  nothing was left to do" if summary.rows else "  the input has no rows"
