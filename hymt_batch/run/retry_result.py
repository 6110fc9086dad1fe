"""What `retry` did in one folder, and how it is told."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hymt_batch.errors import ExitCode
from hymt_batch.records import plural
from hymt_batch.run.reporter import render_summary
from hymt_batch.write.summary import Summary


@dataclass(frozen=True, slots=True)
class RetryResult:
    """What `retry` did in one folder."""

    folder: str
    number: int | None = None  # of the pass; None if no row was selected
    selected: int = 0  # rows of the pass
    replaced: int = 0  # of them, those that are published as the pass has them
    decoded: int = 0  # rows that this run decoded
    summary: Summary | None = None
    code: ExitCode = ExitCode.COMPLETE

    def to_json(self) -> str:
        """Return the result as one line."""
        value = {name: getattr(self, name) for name in ("folder", "number", "selected", "replaced", "decoded")}
        counts = {"counts": dict(self.summary.counts), "flags": dict(self.summary.flags)} if self.summary else {}
        return json.dumps({**value, **counts, "exit_code": int(self.code)}, sort_keys=True)

    def describe(self) -> str:
        """Return the result as text."""
        if self.number is None or self.summary is None:
            return f"{self.folder}: no row is selected: nothing is decoded again"
        unchanged = self.selected - self.replaced
        kept = f", {unchanged:,} stayed as they were, because the new ones are worse" if unchanged else ""
        done = f"{plural(self.selected, 'row')} decoded again, {self.replaced:,} replaced{kept}"
        return f"pass {self.number}: {done}\n{render_summary(self.summary, [])}"
