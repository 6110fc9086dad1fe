"""Rows and new tokens of a job over time: a few hundred intervals, kept with the progress of its newest run.

A hint for people, never read by a job: a killed run loses its last seconds of it. Knows neither parts nor files.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MAX_INTERVALS = 200
FIRST_INTERVAL_S = 1.0
PAUSE_S = 5.0
"""Time between two intervals, in seconds, from which on the job was not running in between."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What was done in a time of one run."""

    end: float  # seconds since 1970
    seconds: float
    rows: int  # committed
    new_tokens: int  # decoded

    @property
    def start(self) -> float:
        return self.end - self.seconds


class Timeline:
    """The intervals of a job: those of earlier runs, and those of this one, which begin with its first part."""

    def __init__(self, earlier: Sequence[Interval] = ()) -> None:
        self._closed, self._interval_s = list(earlier), FIRST_INTERVAL_S
        self._began_at: float | None = None
        self._rows = self._new_tokens = 0

    def begin(self) -> None:
        """Start the clock, unless it runs."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    def add(self, *, rows: int = 0, new_tokens: int = 0) -> None:
        """Count what was done just now."""
        self.begin()
        self._rows += rows
        self._new_tokens += new_tokens
        self._close(self._interval_s)

    def intervals(self) -> tuple[Interval, ...]:
        """Return all intervals up to now, at most MAX_INTERVALS, in the order of their times."""
        if self._rows or self._new_tokens:
            self._close(0.0)
        return tuple(self._closed)

    def _close(self, min_seconds: float) -> None:
        now = time.monotonic()
        if self._began_at is None or now - self._began_at < min_seconds:
            return
        self._closed.append(Interval(time.time(), now - self._began_at, self._rows, self._new_tokens))
        self._began_at, self._rows, self._new_tokens = now, 0, 0
        if len(self._closed) > MAX_INTERVALS:
            self._closed = _halve(self._closed)
            self._interval_s *= 2


def _halve(intervals: Sequence[Interval]) -> list[Interval]:
    """Join each two neighbours; those before and after a pause only if nothing else makes the list shorter."""
    joined = _join_pairs(intervals, over_pauses=False)
    return joined if len(joined) <= MAX_INTERVALS * 3 // 4 else _join_pairs(joined, over_pauses=True)


def _join_pairs(intervals: Sequence[Interval], *, over_pauses: bool) -> list[Interval]:
    joined: list[Interval] = []
    is_pair = False  # the last one is
    for interval in intervals:
        if joined and not is_pair and (over_pauses or interval.start - joined[-1].end < PAUSE_S):
            last = joined.pop()
            seconds, rows = last.seconds + interval.seconds, last.rows + interval.rows
            joined.append(Interval(interval.end, seconds, rows, last.new_tokens + interval.new_tokens))
            is_pair = True
        else:
            joined.append(interval)
            is_pair = False
    return joined


def pauses(intervals: Sequence[Interval]) -> list[int]:
    """Return the indices of the intervals before which the job was not running."""
    return [index for index, (a, b) in enumerate(pairwise(intervals), 1) if b.start - a.end >= PAUSE_S]


def encode(intervals: Sequence[Interval]) -> list[str]:
    """Return intervals as short texts: end, seconds, rows, tokens."""
    return [f"{i.end:.1f} {i.seconds:.3f} {i.rows} {i.new_tokens}" for i in intervals[-MAX_INTERVALS:]]


def decode(values: Any) -> tuple[Interval, ...]:
    """Inverse of `encode`; what it did not write is left out."""
    intervals = []
    for value in values if isinstance(values, list) else ():
        try:
            end, seconds, rows, new_tokens = str(value).split()
            interval = Interval(float(end), float(seconds), int(rows), int(new_tokens))
        except ValueError:
            continue
        if 0 <= interval.seconds < 1e12 and 0 < interval.end < 1e12 and min(interval.rows, interval.new_tokens) >= 0:
            intervals.append(interval)
    return tuple(intervals[-MAX_INTERVALS:])
