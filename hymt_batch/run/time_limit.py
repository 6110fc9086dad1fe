"""Begin no unit that cannot end before the scheduler ends the job. Knows no executor.

Which variable tells the end is in the table of schedulers (`launch/registry.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

from hymt_batch.launch.registry import SCHEDULERS
from hymt_batch.records import Part
from hymt_batch.run.unit import Unit
from hymt_batch.signals import StopRequest

SAFETY_S = 30.0  # to commit, and to end the process
NUM_RATES = 8  # the slowest of the last units counts: the next one may be as slow


class TimeLimit:
    """Estimates from the units that ended how long the next one takes."""

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.time) -> None:
        """Read when the job ends.

        Args:
            environ: The environment variables.
            clock: Returns the time in seconds since 1970, as the variable is given.
        """
        self._variable, self._end = _end_of_job(environ)
        self._clock = clock
        self._begun: dict[int, tuple[float, int]] = {}  # id of a part -> when its unit began, tokens of the unit
        self._rates: deque[float] = deque(maxlen=NUM_RATES)  # seconds a source token

    def units(self, units: Iterable[Unit], stop: StopRequest) -> Iterator[Unit]:
        """Yield the units; request a stop in place of the first one that would not end in time."""
        for unit in units:
            tokens = sum(part.num_source_tokens for part in unit.parts)
            now = self._clock()
            if self._end is not None:
                left, needed = self._end - SAFETY_S - now, max(self._rates, default=0.0) * tokens
                if needed > left:
                    why = f"because the next part takes about {needed:.0f} s and {max(0.0, left):.0f} s are left"
                    stop.request(self._variable, why)
                    return
                self._begun |= {id(part): (now, tokens) for part in unit.missing}
            yield unit

    def end_part(self, part: Part) -> None:
        """Learn from a part that ended how long its unit took."""
        begun, tokens = self._begun.pop(id(part), (0.0, 0))
        if tokens:
            self._rates.append((self._clock() - begun) / tokens)


def _end_of_job(environ: Mapping[str, str]) -> tuple[str, float | None]:
    """Return the variable that tells when the job ends, and that time; None if no variable tells it."""
    for scheduler in SCHEDULERS.values():
        text = environ.get(scheduler.end_time, "").strip()
        if text.isascii() and text.isdecimal():
            return scheduler.end_time, float(text)
    return "", None
