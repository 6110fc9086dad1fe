"""What is told while a job runs: its progress as a bar or as log lines, a few translations, and the circuit breaker.

Independent of where parts are decoded and how they are written. The time left is estimated from source tokens, not
rows, because a shard begins with its longest rows.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hymt_batch import batch
from hymt_batch.check import assemble
from hymt_batch.records import Part, Prompt, Row, Shard, ShardRecord, Status
from hymt_batch.run.breaker import CircuitBreaker
from hymt_batch.run.reporter import Reporter, format_duration
from hymt_batch.sanitize import escape_line

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

LONG_ROW_SEGMENTS = 10
"""The status line names a row while it is decoded if it has more segments than this."""


class Monitor:
    """Follows the parts of a running job; stops the job if its translations are unusable."""

    def __init__(self, job: TranslateJob, reporter: Reporter, total_units: int | None) -> None:
        """Start the clock; see `Progress` for `total_units`."""
        self._max_samples, self._reporter = job.launch.samples, reporter
        self._progress = Progress(reporter, job.launch.log_every_s, total_units)
        self._check, self._breaker = job.check, CircuitBreaker(job.check)

    def __enter__(self) -> Monitor:
        self._progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.__exit__()

    def refresh(self) -> None:
        """Update the display while nothing is decoded."""
        self._progress.refresh()

    def status_line(self) -> str:
        """Return one line with rows, speed, time left and flags."""
        return self._progress.status_line()

    def add_batch(self, segments: int, new_tokens: int) -> None:
        """Count a decoded batch; its rows are not committed yet."""
        self._progress.add_batch(segments, new_tokens)

    def skip_shard(self, record: ShardRecord) -> None:
        """Count a shard whose parts were all committed by earlier runs, and whose rows were not read again."""
        self._progress.add_kept_rows(record.num_rows, record.end - record.start)

    def add_shard(self, shard: Shard, prompts: Sequence[Prompt]) -> None:
        """Count a shard that was read, and what is to be decoded of it."""
        self._progress.add_shard(
            shard.end - shard.start,
            sum(prompt.num_source_tokens for prompt in prompts),
            rows=len({prompt.segment.document_index for prompt in prompts}),
            segments=len(prompts),
            last=shard.last,
        )

    def skip_part(self, part: Part) -> None:
        """Count a part that an earlier run committed."""
        self._progress.add_kept_rows(len(part.document_indices), source_tokens=part.num_source_tokens)

    def begin_part(self, part: Part) -> None:
        """Record that a part is about to be decoded."""
        self._progress.begin_part(*batch.longest_row(part))

    def add_part(self, part: Part, rows: Sequence[Row], *, one_line: bool) -> None:
        """Count a committed part, and keep its first rows for the summary.

        Args:
            part: The part.
            rows: Its rows as they were committed; they are counted as they will be written.
            one_line: See `assemble.shape_row`.

        Raises:
            PreflightError: Too many of the translations are unusable; see `CircuitBreaker`.
        """
        documents, first_row = part.shard.documents, part.shard.first_row
        rows = [assemble.shape_row(documents[r.row_index - first_row], r, one_line, self._check) for r in rows]
        pairs = self._reporter.sample_pairs
        if len(pairs) < self._max_samples:
            texts = {document.row_index: document.text for document in documents}
            pairs += sample_pairs(texts, rows, self._max_samples - len(pairs))
        flags = Counter(flag for row in rows for flag in row.flags)
        self._progress.add_part(len(rows), part.num_source_tokens, flags)
        self._breaker.observe(part.shard.input.rel, rows)


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


def sample_pairs(texts: Mapping[int, str | None], rows: Sequence[Row], limit: int) -> list[tuple[str, str]]:
    """Return the first `limit` (source, translation) pairs of a part; `texts` maps a row index to its source."""
    pairs = ((texts[row.row_index] or "", row.text) for row in rows if row.status is Status.OK and row.text)
    return list(islice(pairs, limit))
