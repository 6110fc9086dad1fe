"""What a user is told while a job runs: a bar on a terminal, plain log lines elsewhere, warnings, a log file.

Tells on stderr; knows no stage. No source text is logged; the pairs shown at the end are escaped.

The time left is reckoned from source tokens, not rows, because shards begin with their longest rows.
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
from hymt_batch.store_error import kind

log = logging.getLogger(__name__)


LONG_ROW = 10
"""Segments of a row above which it is named while it is decoded."""


class Done(Protocol):
    """Figures of a finished job; write/output.py's Summary has them."""

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


class Telling:
    """Where a run's messages go: the console, a log file, and a count of the warnings."""

    def __init__(self, mode: str = "auto") -> None:
        """Prepare to tell: "auto" (a bar on a terminal, log lines elsewhere), "bar", "log" or "off" (warnings only)."""
        self.mode = ("bar" if sys.stderr.isatty() else "log") if mode == "auto" else mode
        self.num_warnings = 0
        self.pairs: list[tuple[str, str]] = []
        self._console = _Console(self)
        self._console.setLevel(logging.INFO if self.mode == "log" else logging.WARNING)
        self._console.setFormatter(logging.Formatter("hymt-batch: %(message)s"))
        self._file: logging.Handler | None = None
        self._root = logging.getLogger("hymt_batch")
        self._level = self._root.level

    def __enter__(self) -> Telling:
        logging.captureWarnings(True)
        self._root.setLevel(logging.INFO)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._console)
            logger.propagate = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._file is not None:
            # to the file alone: the front tells the user
            what = f"ended: {type(error).__name__}: {error}"
            self._file.handle(self._root.makeRecord(log.name, logging.ERROR, __file__, 0, what, (), None))
        logging.captureWarnings(False)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.removeHandler(self._console)
            if self._file is not None:
                logger.removeHandler(self._file)
            logger.propagate = True
        self._root.setLevel(self._level)
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: the job's own end is what counts
                self._file.close()

    def log_to(self, folder: Path) -> None:
        """Write everything also to `folder/<utc>-<pid>.log`.

        Raises:
            PreflightError: The folder is a link: nothing is ever written outside of the job's own.
        """
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
        try:
            if folder.is_symlink():
                raise PreflightError(f"{folder} is a link, and logs stay in the job's folder. Remove the link.")
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _LogFile(folder / name, encoding="utf-8")
        except OSError as error:
            found = kind(folder)
            why = f"it is {found}; move it away" if found not in ("", "a folder") else error.strerror
            log.warning("no log is kept in %s: %s", folder, why)
            return
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._file)

    def say(self, text: str, *, to_stderr: bool = False) -> None:
        """Print the result of a job whose output is files: that it could not be printed is no failure of the job."""
        if to_stderr:
            print(text, file=sys.stderr, flush=True)
            return
        try:
            streams.show(text)
        except HymtError as error:
            log.warning("the result is not shown: %s", error)


class _Console(logging.Handler):
    """Lines on stderr that leave the bar whole, and the count of warnings."""

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self.telling = telling

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.telling.num_warnings += 1
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            tqdm.write(self.format(record), file=sys.stderr)


class _LogFile(logging.FileHandler):
    """A log file, never a link to one; a store that takes no more of it is no failure of the job, and told once."""

    def _open(self) -> TextIOWrapper:  # logging's own name
        flags = os.O_NOFOLLOW | os.O_NONBLOCK
        return open(
            self.baseFilename, "a", encoding=self.encoding, opener=lambda path, mode: os.open(path, mode | flags, 0o666)
        )

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.failed:
            self.failed = True  # first: the warning comes here too
            log.warning("the log %s lacks lines: %s", self.baseFilename, first_line(sys.exception() or OSError()))


class Progress:
    """Counts of one run, and how they are shown."""

    def __init__(self, telling: Telling, every_s: float = 30.0, total_units: int | None = None) -> None:
        """Start to count.

        Args:
            telling: Where messages go.
            every_s: Seconds between two log lines.
            total_units: Size of the whole input in the units given to `shard`, or None when not known.
        """
        self.mode = telling.mode
        self.every_s = every_s
        self.total_units, self.seen_units, self.seen_tokens = total_units, 0, 0
        self.rows = self.kept_rows = self.running_segments = self.new_tokens = 0
        self.planned_rows = self.planned_segments = 0
        self.tokens_done = self.fresh_tokens = 0  # source tokens: in all, and decoded in this run
        self.flags: Counter[str] = Counter()
        self.began = self._told = time.monotonic()
        self._more = total_units is None
        self._long: tuple[str, int, int] | None = None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            # on a terminal that tells no size (0 columns) tqdm would show nothing at all
            size = shutil.get_terminal_size((100, 24))
            self._bar = tqdm(bar_format="{desc}", ncols=size.columns - 1, nrows=size.lines, file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.close()

    def shard(self, units: int, source_tokens: int, *, last: bool, rows: int = 0, segments: int = 0) -> None:
        """A shard was read: its size, the source tokens its rows hold, rows to decode, and segments they are cut in."""
        self.seen_units += units
        self.seen_tokens += source_tokens
        self.planned_rows += rows
        self.planned_segments += segments
        if self.total_units is None:
            self._more = not last

    def kept(self, rows: int, units: int = 0, source_tokens: int = 0) -> None:
        """Rows that an earlier run committed."""
        self.kept_rows += rows
        self.tokens_done += source_tokens
        if self.total_units is not None:
            self.total_units -= units
        self._show()

    def batch(self, segments: int, new_tokens: int) -> None:
        """A batch was decoded; its rows are not committed yet."""
        if not self.new_tokens and new_tokens:
            log.info("first rows decoded: first_rows_s=%.2f since the process began", alive_s())
        self.running_segments += segments
        self.new_tokens += new_tokens
        self._show()

    def waiting(self) -> None:
        """Nothing new: rows are still being prepared."""
        self._show()

    def long_row(self, row: str, segments: int, of_part: int) -> None:
        """A part begins, with its longest row: its id, its segments, and those of the whole part."""
        self._long = (row, segments, of_part) if segments > LONG_ROW else None

    def part(self, rows: int, source_tokens: int, flags: Counter[str]) -> None:
        """A part was committed."""
        self.rows += rows
        self.running_segments, self._long = 0, None
        self.tokens_done += source_tokens
        self.fresh_tokens += source_tokens
        self.flags += flags
        self._show()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    def _draw(self, bar: tqdm[Any]) -> None:
        total = self.total_tokens()
        if total is not None:
            bar.bar_format = "{percentage:3.0f}% |{bar:16}| {desc}"
            bar.total, bar.n = max(total, self.tokens_done), self.tokens_done
        bar.set_description_str(self.line())

    def total_tokens(self) -> int | None:
        """Source tokens of the whole input, or None while they cannot be told."""
        if self._more or not self.seen_units:
            return None
        if self.total_units is not None and self.seen_units < self.total_units:
            return int(self.seen_tokens * self.total_units / self.seen_units)
        return self.seen_tokens

    def eta_s(self) -> float | None:
        """Seconds left, or None while they cannot be told."""
        total = self.total_tokens()
        if total is None or not self.fresh_tokens:
            return None
        return max(0, total - self.tokens_done) * self.seconds / self.fresh_tokens

    def line(self) -> str:
        """One line: rows, speed, time left, flags."""
        running = self.running_segments
        if self.planned_segments > self.planned_rows:  # long rows are cut: about as many rows as that
            running = running * self.planned_rows // self.planned_segments
        decoded = self.rows + running
        parts = [f"{decoded + self.kept_rows:,} rows"]
        if self.kept_rows:
            parts[0] += f" ({self.kept_rows:,} kept)"
        parts.append(f"{decoded / self.seconds:,.1f} rows/s")
        parts.append(f"{self.new_tokens / self.seconds:,.0f} tokens/s")
        left = self.eta_s()
        if left is not None:
            parts.append(f"{duration(left)} left")
        if self._long is not None:
            row, segments, of_part = self._long
            done = min(self.running_segments, of_part)
            where = f"{escaped(row, 60)} ({segments:,} segments)"
            parts.append(f"{where}: {done:,} of the part's {of_part:,} segments done, {of_part - done:,} left")
        if self.flags:
            parts.append(" ".join(f"{flag} {count}" for flag, count in sorted(self.flags.items())))
        return " · ".join(parts)

    def _show(self) -> None:
        if self._bar is not None:
            if time.monotonic() - self._told >= 0.2:
                self._told = time.monotonic()
                self._draw(self._bar)
        elif self.mode == "log" and time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            log.info("%s", self.line())


def alive_s() -> float:
    """Seconds since this process began; nan where the system does not tell."""
    try:
        began = int(
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return math.nan


def duration(seconds: float) -> str:
    """Seconds as people read them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def escaped(text: str, width: int = 100) -> str:
    """A text on one line, without control characters, cut to `width` for show."""
    shown = "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def samples(texts: Mapping[int, str | None], rows: Sequence[Row], most: int) -> list[tuple[str, str]]:
    """The first few (source, translation) pairs of a part; `texts` by row number."""
    pairs = ((texts[row.row] or "", row.text) for row in rows if row.status is Status.OK and row.text)
    return list(islice(pairs, most))


def result(done: Done, pairs: Sequence[tuple[str, str]]) -> str:
    """The summary of a finished job: what was written, where, how fast; and a few (source, translation) pairs."""
    folder, seconds = done.folder, done.seconds
    rows, files = ("row" if done.rows == 1 else "rows"), ("file" if done.files == 1 else "files")
    lines = [f"{done.rows:,} {rows} in {done.files:,} {files} → {folder / 'translated'}"]
    for status, count in sorted(done.counts.items()):
        if status != Status.OK:
            lines.append(f"  {count:,} {status}")
    if any(status != Status.OK for status in done.counts):
        lines.append(f"  listed in {folder / 'errors'}")
    flags = ", ".join(f"{name} {count:,}" for name, count in sorted(done.flags.items()))
    if flags:
        lines.append(f"  flags: {flags}")
    if done.num_rows_decoded:
        speed = f"{done.num_rows_decoded / seconds:,.1f} rows/s"
        kept = f", {done.num_rows_kept:,} kept from before" if done.num_rows_kept else ""
        lines.append(f"  {done.num_rows_decoded:,} rows in {duration(seconds)} ({speed}){kept}")
    else:
        lines.append("  nothing was left to do" if done.rows else "  the input has no rows")
    for source, text in pairs:
        lines += ["", f"  {escaped(source)}", f"→ {escaped(text)}"]
    return "\n".join(lines)
