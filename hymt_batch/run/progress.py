"""Show the progress of a job: a bar on a terminal, log lines elsewhere; warnings; and the log file of a run.

Writes to stderr; independent of the stages. Source text is never logged; the sample pairs of the summary are escaped.

The time left is estimated from source tokens, not rows, because a shard begins with its longest rows.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tqdm import tqdm

from hymt_batch import streams
from hymt_batch.errors import HymtError, PreflightError, first_line
from hymt_batch.records import Row, Status
from hymt_batch.storage_error import describe_type

log = logging.getLogger(__name__)


LONG_ROW_SEGMENTS = 10
"""The status line names a row while it is decoded if it has more segments than this."""


class JobSummary(Protocol):
    """The result of a finished job; Summary in write/output.py implements it."""

    @property
    def folder(self) -> Path: ...
    @property
    def seconds(self) -> float: ...
    @property
    def files(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def flags(self) -> Mapping[str, int]: ...
    @property
    def num_rows_decoded(self) -> int: ...
    @property
    def num_rows_kept(self) -> int: ...


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
                raise PreflightError(f"{folder} is a link, but logs must stay in the job's folder. Remove the link.")
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


class Progress:
    """Counts the rows and tokens of one run and displays them."""

    def __init__(self, reporter: Reporter, every_s: float = 30.0, total_units: int | None = None) -> None:
        """Start the clock.

        Args:
            reporter: Sets the display mode.
            every_s: Time between two log lines, in seconds.
            total_units: Size of the whole input in the units of `add_shard`, or None if unknown.
        """
        self.mode = reporter.mode
        self.every_s = every_s
        self.total_units, self.seen_units, self.seen_tokens = total_units, 0, 0
        self.rows = self.kept_rows = self.uncommitted_segments = self.new_tokens = 0
        self.planned_rows = self.planned_segments = 0
        self.source_tokens_done = self.decoded_source_tokens = 0  # in all runs; in this run
        self.flags: Counter[str] = Counter()
        self.start_time = self._last_shown = time.monotonic()
        self._has_more_input = total_units is None
        self._long_row: tuple[str, int, int] | None = None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            # tqdm would show nothing on a terminal that reports no size (0 columns)
            size = shutil.get_terminal_size((100, 24))
            self._bar = tqdm(bar_format="{desc}", ncols=size.columns - 1, nrows=size.lines, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.close()

    def add_shard(self, units: int, source_tokens: int, *, last: bool, rows: int = 0, segments: int = 0) -> None:
        """Count a shard that was read.

        Args:
            units: Size of the shard, in the units of `total_units`.
            source_tokens: Source tokens of its rows.
            last: True if no more input follows.
            rows: Rows to decode.
            segments: Segments of these rows.
        """
        self.seen_units += units
        self.seen_tokens += source_tokens
        self.planned_rows += rows
        self.planned_segments += segments
        if self.total_units is None:
            self._has_more_input = not last

    def add_kept_rows(self, rows: int, units: int = 0, source_tokens: int = 0) -> None:
        """Count rows that an earlier run committed."""
        self.kept_rows += rows
        self.source_tokens_done += source_tokens
        if self.total_units is not None:
            self.total_units -= units
        self._show()

    def add_batch(self, segments: int, new_tokens: int) -> None:
        """Count a decoded batch; its rows are not committed yet."""
        if not self.new_tokens and new_tokens:
            log.info("first rows decoded: first_rows_s=%.2f since process start", process_age_s())
        self.uncommitted_segments += segments
        self.new_tokens += new_tokens
        self._show()

    def refresh(self) -> None:
        """Update the display while rows are being prepared."""
        self._show()

    def begin_part(self, row: str, segments: int, part_segments: int) -> None:
        """Record that a part begins.

        Args:
            row: Id of the longest row of the part.
            segments: Segments of this row.
            part_segments: Segments of the whole part.
        """
        self._long_row = (row, segments, part_segments) if segments > LONG_ROW_SEGMENTS else None

    def add_part(self, rows: int, source_tokens: int, flags: Counter[str]) -> None:
        """Count a committed part."""
        self.rows += rows
        self.uncommitted_segments, self._long_row = 0, None
        self.source_tokens_done += source_tokens
        self.decoded_source_tokens += source_tokens
        self.flags += flags
        self._show()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.start_time, 1e-9)

    def _draw(self, bar: tqdm[Any]) -> None:
        total = self.total_tokens()
        if total is not None:
            bar.bar_format = "{percentage:3.0f}% |{bar:16}| {desc}"
            bar.total, bar.n = max(total, self.source_tokens_done), self.source_tokens_done
        bar.set_description_str(self.status_line())

    def total_tokens(self) -> int | None:
        """Return the source tokens of the whole input (estimated until all is read), or None if not yet known."""
        if self._has_more_input or not self.seen_units:
            return None
        if self.total_units is not None and self.seen_units < self.total_units:
            return int(self.seen_tokens * self.total_units / self.seen_units)
        return self.seen_tokens

    def eta_s(self) -> float | None:
        """Return the estimated time left in seconds, or None if not yet known."""
        total = self.total_tokens()
        if total is None or not self.decoded_source_tokens:
            return None
        return max(0, total - self.source_tokens_done) * self.seconds / self.decoded_source_tokens

    def status_line(self) -> str:
        """Return one line with rows, speed, time left and flags."""
        decoding = self.uncommitted_segments
        if self.planned_segments > self.planned_rows:  # long rows have several segments: estimate the rows
            decoding = decoding * self.planned_rows // self.planned_segments
        decoded = self.rows + decoding
        parts = [f"{decoded + self.kept_rows:,} rows"]
        if self.kept_rows:
            parts[0] += f" ({self.kept_rows:,} kept)"
        parts.append(f"{decoded / self.seconds:,.1f} rows/s")
        parts.append(f"{self.new_tokens / self.seconds:,.0f} tokens/s")
        eta_s = self.eta_s()
        if eta_s is not None:
            parts.append(f"{format_duration(eta_s)} left")
        if self._long_row is not None:
            row, segments, total = self._long_row
            num_done = min(self.uncommitted_segments, total)
            row_label = f"{escape_line(row, 60)} ({segments:,} segments)"
            parts.append(f"{row_label}: {num_done:,} of the part's {total:,} segments done, {total - num_done:,} left")
        if self.flags:
            parts.append(" ".join(f"{flag} {count}" for flag, count in sorted(self.flags.items())))
        return " · ".join(parts)

    def _show(self) -> None:
        if self._bar is not None:
            if time.monotonic() - self._last_shown >= 0.2:
                self._last_shown = time.monotonic()
                self._draw(self._bar)
        elif self.mode == "log" and time.monotonic() - self._last_shown >= self.every_s:
            self._last_shown = time.monotonic()
            log.info("%s", self.status_line())


def process_age_s() -> float:
    """Return the seconds since this process started; nan if the system does not report it."""
    try:
        start_ticks = int(
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return math.nan


def format_duration(seconds: float) -> str:
    """Format a duration for display: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def escape_line(text: str, width: int = 100) -> str:
    """Escape control characters and line breaks for display, and shorten to `width` characters."""
    escaped = "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
    return escaped if len(escaped) <= width else escaped[: width - 1] + "…"


def sample_pairs(texts: Mapping[int, str | None], rows: Sequence[Row], limit: int) -> list[tuple[str, str]]:
    """Return the first `limit` (source, translation) pairs of a part; `texts` maps a row index to its source."""
    pairs = ((texts[row.row_index] or "", row.text) for row in rows if row.status is Status.OK and row.text)
    return list(islice(pairs, limit))


def render_summary(summary: JobSummary, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the summary of a finished job: what was written, where, how fast; and the (source, translation) pairs."""
    folder, seconds = summary.folder, summary.seconds
    rows, files = ("row" if summary.rows == 1 else "rows"), ("file" if summary.files == 1 else "files")
    lines = [f"{summary.rows:,} {rows} in {summary.files:,} {files} → {folder / 'translated'}"]
    for status, count in sorted(summary.counts.items()):
        if status != Status.OK:
            lines.append(f"  {count:,} {status}")
    if any(status != Status.OK for status in summary.counts):
        lines.append(f"  listed in {folder / 'errors'}")
    flags = ", ".join(f"{name} {count:,}" for name, count in sorted(summary.flags.items()))
    if flags:
        lines.append(f"  flags: {flags}")
    if summary.num_rows_decoded:
        speed = f"{summary.num_rows_decoded / seconds:,.1f} rows/s"
        from_earlier_runs = f", {summary.num_rows_kept:,} from earlier runs" if summary.num_rows_kept else ""
        lines.append(f"  {summary.num_rows_decoded:,} rows in {format_duration(seconds)} ({speed}){from_earlier_runs}")
    else:
        lines.append("  nothing was left to do" if summary.rows else "  the input has no rows")
    for source, translation in pairs:
        lines += ["", f"  {escape_line(source)}", f"→ {escape_line(translation)}"]
    return "\n".join(lines)
