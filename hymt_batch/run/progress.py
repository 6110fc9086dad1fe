"""How much of a job is done: rows, the share of what is decoded, the time left; and its display as a bar or log lines.

The share counts source tokens that are decoded, not rows: a shard begins with its longest rows, equal rows are decoded
once, and a rejected row costs nothing. It is 1 when every part is committed, never before. Independent of where parts
are decoded and how they are written.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter
from pathlib import Path

from hymt_batch.records import plural
from hymt_batch.run.reporter import Reporter, format_duration
from hymt_batch.sanitize import escape_line

log = logging.getLogger(__name__)

LONG_ROW_SEGMENTS = 10
"""The status line names a row while it is decoded if it has more segments than this."""


class Progress:
    """Counts the rows and tokens of one run and displays them.

    An input has a size in units: bytes, or rows of a table. What was not read yet is estimated from them.
    """

    def __init__(self, reporter: Reporter, every_s: float = 30.0, total_units: int | None = None) -> None:
        """Start the clock.

        Args:
            reporter: Sets the display mode.
            every_s: Time between two log lines, in seconds.
            total_units: Size of the whole input in the units of `add_shard`, or None if unknown.
        """
        self.reporter, self.every_s = reporter, every_s
        self.total_units, self.seen_units, self.seen_tokens, self.seen_rows = total_units, 0, 0, 0
        self.kept_units = self.kept_rows = self.kept_shard_rows = 0  # committed by earlier runs
        self.rows = self.new_tokens = 0  # of this run
        self.planned_rows = self.planned_segments = self.planned_parts = 0  # of the shards that were read
        self.num_parts = self.source_tokens_done = 0  # parts of these shards that are committed, in all runs
        self.decoded_source_tokens = 0  # in this run
        self.flags: Counter[str] = Counter()
        self.num_files = self.num_files_done = 0
        self.start_time = self._last_shown = time.monotonic()
        self._begun = self._all_read = False
        self._segments_in_flight = self._tokens_in_flight = 0  # of parts that began and are not committed
        self._decoded_segments = 0  # of these, as far as decoded
        # id and segments of the row, whose segments are counted with it, and how many of these are committed
        self._long_row: tuple[str, int, str, int, int] | None = None

    def __enter__(self) -> Progress:
        self.reporter.show_stage("loading the model")
        return self

    def __exit__(self, *_: object) -> None:
        self._segments_in_flight = self._tokens_in_flight = self._decoded_segments = 0  # dropped, if there are any
        if self.reporter.bar is not None and self.seen_rows + self.kept_rows:
            self._draw()
            self.reporter.close_bar()

    def add_shard(
        self,
        units: int,
        source_tokens: int,
        *,
        last: bool,
        rows: int = 0,
        segments: int = 0,
        parts: int = 1,
        all_rows: int = 0,
    ) -> None:
        """Count a shard that was read.

        Args:
            units: Size of the shard, in the units of `total_units`.
            source_tokens: Source tokens to decode; those of equal rows count once.
            last: True if no more input follows.
            rows: Rows to decode; equal rows count once.
            segments: Segments of these rows.
            parts: Parts of the shard.
            all_rows: All rows of the shard.
        """
        self.seen_units += units
        self.seen_tokens += source_tokens
        self.seen_rows += all_rows
        self.planned_rows += rows
        self.planned_segments += segments
        self.planned_parts += parts
        self._all_read = self._all_read or last

    def add_kept_shard(self, rows: int, units: int = 0, *, last: bool = False) -> None:
        """Count a shard that earlier runs committed, and whose rows were not read again."""
        self.kept_rows += rows
        self.kept_shard_rows += rows
        self.kept_units += units
        self._all_read = self._all_read or last
        self._show()

    def add_kept_part(self, rows: int, source_tokens: int, parts: int = 1) -> None:
        """Count a part, or all runs of a divided row, that an earlier run committed, of a shard that was read."""
        self.kept_rows += rows
        self.num_parts += parts
        self.source_tokens_done += source_tokens
        self._show()

    def end_of_input(self) -> None:
        """Record that everything was read."""
        self._all_read = True

    def add_batch(self, segments: int, new_tokens: int) -> None:
        """Count a decoded batch; its rows are not committed yet."""
        if not self.new_tokens and new_tokens:
            began_at = self.reporter.began_at
            seconds = process_age_s() if began_at is None else time.monotonic() - began_at
            since = "process start" if began_at is None else "the start of this point"
            log.info("first rows decoded: first_rows_s=%.2f since %s", seconds, since)
        self._decoded_segments += segments
        self.new_tokens += new_tokens
        self._show()

    def refresh(self) -> None:
        """Update the display while rows are being prepared."""
        self._show()

    def begin_part(self, row: str, segments: int, part_segments: int, source_tokens: int = 0) -> None:
        """Record that a part begins.

        Args:
            row: Id of the longest row of the part.
            segments: Segments of this row.
            part_segments: Segments of the whole part.
            source_tokens: Source tokens of the whole part.
        """
        if not self._begun:  # the speed is that of decoding, without the time in which the model was loaded
            self._begun, self.start_time = True, time.monotonic()
        self._segments_in_flight += part_segments
        self._tokens_in_flight += source_tokens
        is_long = segments > LONG_ROW_SEGMENTS
        self._long_row = (row, segments, "the part's", part_segments, 0) if is_long else None

    def begin_run(self, row: str, segments: int, committed: int) -> None:
        """Record that the part that begins is a run of a divided row, which has these segments, some committed."""
        self._long_row = (row, segments, "its", segments, committed)

    def add_part(self, rows: int, source_tokens: int, flags: Counter[str], segments: int | None = None) -> None:
        """Count a committed part; `segments` are those that were decoded for it, None if nothing else is in flight."""
        self.rows += rows
        self.num_parts += 1
        if segments is None:
            self._segments_in_flight = self._tokens_in_flight = self._decoded_segments = 0
        else:  # batches of a part that was decoded again were counted twice
            self._segments_in_flight = max(0, self._segments_in_flight - segments)
            self._tokens_in_flight = max(0, self._tokens_in_flight - source_tokens)
            self._decoded_segments = min(max(0, self._decoded_segments - segments), self._segments_in_flight)
        self._long_row = None
        self.source_tokens_done += source_tokens
        self.decoded_source_tokens += source_tokens
        self.flags += flags
        self._show()

    @property
    def seconds(self) -> float:
        """Seconds since the first part began."""
        return max(time.monotonic() - self.start_time, 1e-9)

    @property
    def is_finished(self) -> bool:
        """True if every part of the input is committed."""
        return self._all_read and self.num_parts >= self.planned_parts

    def num_rows(self) -> tuple[int | None, bool]:
        """Return the rows of the whole input, None if not yet known; and whether the number is an estimate."""
        read, read_units = self.seen_rows + self.kept_shard_rows, self.seen_units + self.kept_units
        if self._all_read:
            return read, False
        if self.total_units is None or not read_units or not read:
            return None, True
        return max(read, round(read * self.total_units / read_units)), True

    def share(self) -> float | None:
        """Return the share of the whole input that is decoded, 0 to 1, or None if not yet known.

        The tokens of shards that were not read are estimated from those that were. 1 only if
        nothing is left to commit.
        """
        if self.is_finished:
            return 1.0
        read_units = self.seen_units + self.kept_units
        if not self._all_read and (self.total_units is None or not read_units):
            return None
        units = read_units if self._all_read or self.total_units is None else max(read_units, self.total_units)
        if not self.seen_tokens:  # only kept shards and rows without text so far
            return min(0.999, read_units / units) if units else 0.999
        tokens_per_unit = self.seen_tokens / self.seen_units if self.seen_units else 0.0
        total = self.seen_tokens + tokens_per_unit * (units - self.seen_units)
        done = self.source_tokens_done + self._uncommitted_tokens() + tokens_per_unit * self.kept_units
        return min(0.999, done / total)

    def tokens_left(self) -> float | None:
        """Return the source tokens that are still to be decoded (estimated until all is read), or None if unknown."""
        left = max(0, self.seen_tokens - self.source_tokens_done)
        if self._all_read:
            return left
        if self.total_units is None or not self.seen_units:
            return None
        unread = max(0, self.total_units - self.seen_units - self.kept_units)
        return left + unread * self.seen_tokens / self.seen_units

    def eta_s(self) -> float | None:
        """Return the estimated time left in seconds, or None if not yet known."""
        left = self.tokens_left()
        if left is None or not self.decoded_source_tokens:
            return None
        in_flight = min(left, self._uncommitted_tokens())
        return (left - in_flight) * self.seconds / (self.decoded_source_tokens + in_flight)

    def _uncommitted_segments(self) -> int:
        return min(self._decoded_segments, self._segments_in_flight if self._begun else self.planned_segments)

    def _uncommitted_tokens(self) -> float:
        """Return about how many source tokens were decoded and are not committed."""
        return self._tokens_in_flight * self._uncommitted_segments() / max(1, self._segments_in_flight)

    def status_line(self) -> str:
        """Return one line with rows, speed, time left and flags; what matters most stands first, for narrow windows."""
        decoding = self._uncommitted_segments()
        if self.planned_segments > self.planned_rows:  # long rows have several segments: estimate the rows
            decoding = decoding * self.planned_rows // self.planned_segments
        decoded = self.rows + decoding
        rows, (num_rows, is_estimate) = decoded + self.kept_rows, self.num_rows()
        total = f"{'about ' if is_estimate else ''}{plural(num_rows, 'row')}" if num_rows else ""
        parts = [f"{rows:,} of {total}" if total else plural(rows, "row")]
        if self.kept_rows:
            parts[0] += f" ({self.kept_rows:,} kept)"
        if self.num_files > 1:
            parts.append(f"{self.num_files_done:,} of {self.num_files:,} files")
        eta_s = self.eta_s()
        if eta_s is not None and not self.is_finished:
            parts.append(f"{format_duration(eta_s)} left")
        parts.append(f"{decoded / self.seconds:,.1f} rows/s")
        parts.append(f"{self.new_tokens / self.seconds:,.0f} tokens/s")
        if self._long_row is not None:
            row, segments, whose, num_segments, committed = self._long_row
            num_done = min(committed + self._uncommitted_segments(), num_segments)
            done = f"{num_done:,} of {whose} {num_segments:,} segments done, {num_segments - num_done:,} left"
            parts.append(f"{escape_line(row, 60)} ({segments:,} segments): {done}")
        if self.flags:
            parts.append(" ".join(f"{flag} {count}" for flag, count in sorted(self.flags.items())))
        return " · ".join(parts)

    def _draw(self) -> None:
        bar = self.reporter.bar
        if bar is None:
            return
        share = self.share()
        if not self.rows and not self.new_tokens and not self.is_finished:
            bar.bar_format = "{desc}"
            self.reporter.show_stage("translating" if self._begun else "loading the model")
            return
        if share is not None:
            bar.bar_format = f"{math.floor(100 * share):3d}% |{{bar:16}}| {{desc}}"
            bar.total, bar.n = 1.0, share
        bar.set_description_str(self.status_line())

    def _show(self) -> None:
        mode, every_s = self.reporter.mode, 0.2 if self.reporter.mode == "bar" else self.every_s
        if mode not in ("bar", "log") or time.monotonic() - self._last_shown < every_s:
            return
        self._last_shown = time.monotonic()
        if mode == "bar":
            self._draw()
        else:
            share = self.share()
            log.info("%s%s", "" if share is None else f"{math.floor(100 * share)} % · ", self.status_line())


def process_age_s() -> float:
    """Return the seconds since this process started; nan if the system does not report it."""
    try:
        start_ticks = int(
            Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return math.nan
