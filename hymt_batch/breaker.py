"""The circuit breaker: a job whose model cannot be right stops early, with all that is done kept."""

from __future__ import annotations

from collections.abc import Sequence

from hymt_batch.check import FAILED, HARD_FLAGS, CheckConfig
from hymt_batch.errors import PreflightError
from hymt_batch.records import Row, Status

MAX_BROKEN = 0.001
"""Share of rows with NaN or infinity that no sound model has. Source: reference/reliability.md, fault 68."""

_BAD = frozenset({*FAILED.values(), Status.EMPTY})


class Breaker:
    """Stops a job whose model cannot be right, with all that is done kept; rows that never reached it do not count."""

    def __init__(self, config: CheckConfig) -> None:
        self._config = config
        self._rows = self._bad = self._broken = 0

    def look(self, rows: Sequence[Row]) -> None:
        """Count the rows of a committed part.

        Raises:
            PreflightError: Of at least check.stop_rows rows, more than check.stop_rate have no text or a hard flag, or
                more than a thousandth came out as NaN or infinity.
        """
        decoded = [row for row in rows if row.num_source_tokens or row.status in _BAD]
        self._rows += len(decoded)
        self._bad += sum(row.status in _BAD or not HARD_FLAGS.isdisjoint(row.flags) for row in decoded)
        self._broken += sum(row.status is Status.NON_FINITE for row in decoded)
        if self._rows < self._config.stop_rows or self._config.stop_rate == 1:
            return
        what, share, limit = "have no text, or one without an end", self._bad / self._rows, self._config.stop_rate
        if self._broken / self._rows > MAX_BROKEN:
            what, share, limit = "came out as NaN or infinity", self._broken / self._rows, MAX_BROKEN
        if share > limit:
            raise PreflightError(
                f"{100 * share:.1f} % of the first {self._rows:,} rows {what} (limit {100 * limit:g} %): the model, "
                "its dtype or the languages are wrong. What is done is kept. See the errors file and "
                "`hymt-batch doctor load=true`; to go on all the same, set check.stop_rate=1."
            )
