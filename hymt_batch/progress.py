"""What a user is told while a job runs: a bar on a terminal, plain log lines elsewhere, warnings, a log file.

Tells on stderr; knows no stage. No source text is logged; the pairs shown at the end are escaped.

The time left is reckoned from source tokens, not rows, because shards begin with their longest rows.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


class Telling:
    """Where a run's messages go: the console, a log file, and a count of the warnings."""

    def __init__(self, mode: str = "auto") -> None:
        """Prepare to tell.

        Args:
            mode: "auto" (a bar on a terminal, log lines elsewhere), "bar", "log" or "off" (warnings only).
        """
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
            self._root.error("ended: %s: %s", type(error).__name__, error)
        logging.captureWarnings(False)
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.removeHandler(self._console)
            if self._file is not None:
                logger.removeHandler(self._file)
            logger.propagate = True
        self._root.setLevel(self._level)
        if self._file is not None:
            self._file.close()

    def log_to(self, folder: Path) -> None:
        """Write everything also to `folder/<utc>-<pid>.log`."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.log"
        self._file = logging.FileHandler(folder / name, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for logger in (self._root, logging.getLogger("py.warnings")):
            logger.addHandler(self._file)

    def say(self, text: str, *, to_stderr: bool = False) -> None:
        """Print the result of a job."""
        print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)

    def show(self, pairs: Iterable[tuple[str, str]], most: int) -> None:
        """Keep a few pairs of source and translation for the end."""
        for pair in pairs:
            if len(self.pairs) >= most:
                return
            self.pairs.append(pair)

    @staticmethod
    def copy_to_stdout(paths: Sequence[Path]) -> None:
        """Copy finished files to stdout, byte for byte."""
        sys.stdout.flush()
        for path in paths:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


class _Console(logging.Handler):
    """Lines on stderr that leave the bar whole, and the count of warnings."""

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self.telling = telling

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.telling.num_warnings += 1
        tqdm.write(self.format(record), file=sys.stderr)


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
        self.rows = self.kept_rows = self.tokens_done = self.new_tokens = 0
        self.flags: Counter[str] = Counter()
        self.began = self._told = time.monotonic()
        self._more = total_units is None
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        if self.mode == "bar":
            self._bar = tqdm(unit="row", dynamic_ncols=True, bar_format="{desc}", file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self.line())
            self._bar.close()

    def shard(self, units: int, source_tokens: int, *, last: bool) -> None:
        """A shard was read: its size, and the source tokens its rows hold."""
        self.seen_units += units
        self.seen_tokens += source_tokens
        if self.total_units is None:
            self._more = not last

    def kept(self, rows: int, units: int = 0, source_tokens: int = 0) -> None:
        """Rows that an earlier run committed."""
        self.kept_rows += rows
        self.tokens_done += source_tokens
        self.seen_units += units
        if self.total_units is not None and units:
            self.total_units -= units
            self.seen_units -= units
        self._show()

    def batch(self, rows: int, new_tokens: int) -> None:
        """A batch was decoded."""
        self.new_tokens += new_tokens
        self._show()

    def part(self, rows: int, source_tokens: int, flags: Counter[str]) -> None:
        """A part was committed."""
        self.rows += rows
        self.tokens_done += source_tokens
        self.flags += flags
        self._show()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    def eta_s(self) -> float | None:
        """Seconds left, or None while they cannot be told."""
        if not self.tokens_done or self._more or not self.seen_units:
            return None
        total = self.seen_tokens
        if self.total_units is not None and self.seen_units < self.total_units:
            total = int(total * self.total_units / self.seen_units)
        return max(0, total - self.tokens_done) * self.seconds / self.tokens_done

    def line(self) -> str:
        """One line: rows, speed, time left, flags."""
        parts = [f"{self.rows + self.kept_rows:,} rows"]
        if self.kept_rows:
            parts[0] += f" ({self.kept_rows:,} kept)"
        parts.append(f"{self.rows / self.seconds:,.1f} rows/s")
        parts.append(f"{self.new_tokens / self.seconds:,.0f} tokens/s")
        left = self.eta_s()
        if left is not None:
            parts.append(f"{duration(left)} left")
        if self.flags:
            parts.append(" ".join(f"{flag} {count}" for flag, count in sorted(self.flags.items())))
        return " · ".join(parts)

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.set_description_str(self.line())
        elif self.mode == "log" and time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            log.info("%s", self.line())


def duration(seconds: float) -> str:
    """Seconds as people read them: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def escaped(text: str, width: int = 100) -> str:
    """A text on one line, without control characters, cut to `width` for show."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown if len(shown) <= width else shown[: width - 1] + "…"
