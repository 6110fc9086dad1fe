"""Count what one translated file has, while it is assembled."""

from __future__ import annotations

from collections.abc import Sequence

from hymt_batch import manifest
from hymt_batch.formats.row_values import BLANK_FLAG
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Row, Status
from hymt_batch.write.row_record import ShardRows


class Tally:
    """Counts what a file has; in plain dicts, because a `Counter` costs more than the rows of a small file."""

    def __init__(self) -> None:
        self.num_rows = 0  # documents
        self.num_output_rows = 0  # fewer, or as many, where rows have several text fields
        self.counts: dict[str, int] = {}  # by status
        self.flags: dict[str, int] = {}
        self.tokens = {"source": 0, "new": 0}
        self.rows_by_language: dict[str, int] = {}  # of rows that name their target language
        self.flagged_by_language: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.origins: dict[str, int] = {}  # identity under which known rows were decoded; see records.Row
        self.degraded: dict[str, int] = {}
        self.environments: list[JsonDict] = []  # the distinct ones
        self._in_passes: dict[int, int] = {}  # number of a pass -> rows that it has
        self._from_passes: dict[int, int] = {}  # number of a pass -> rows that are written as it has them

    def add_shard(self, rows: ShardRows) -> None:
        """Add all rows of a shard. If one of them is not written in the end, the whole file is not published."""
        for part in rows.contents.parts:
            for word in part.degraded:
                _count(self.degraded, word)
            for environment in (part.environment, *part.other_environments):
                self._add_environment(environment)
        for status, count in rows.counts.items():
            _count(self.counts, status, count)
        self.tokens["source"] += sum([row.num_source_tokens for row in rows.contents.rows])
        self.tokens["new"] += sum([row.num_new_tokens for row in rows.contents.rows])
        for row in rows.contents.rows:
            for step, count in row.tries:
                _count(self.tries, step, count)
            if row.origin:
                _count(self.origins, row.origin)

    def move(self, earlier: Status, status: Status) -> None:
        """Count a row by another status."""
        _count(self.counts, earlier.value, -1)
        _count(self.counts, status.value)

    def add_later_rows(self, later: Sequence[tuple[int, Row]], row: Row, committed: Row, number: int) -> None:
        """Count the rows of passes for one row, and what the one that is written cost.

        Args:
            later: The rows of passes, each with the number of the pass.
            row: The row of the job.
            committed: The row that is written, as it was committed.
            number: The number of its pass; 0 if it is that of the job.
        """
        for later_number, _ in later:
            self._in_passes[later_number] = self._in_passes.get(later_number, 0) + 1
        if not number:
            return
        self._from_passes[number] = self._from_passes.get(number, 0) + 1
        self.tokens["source"] += committed.num_source_tokens - row.num_source_tokens
        self.tokens["new"] += committed.num_new_tokens - row.num_new_tokens
        for tries, sign in ((committed.tries, 1), (row.tries, -1)):
            for step, count in tries:
                _count(self.tries, step, sign * count)

    def describe_pass(self, number: int) -> JsonDict:
        """Return what the record of a file has of a pass."""
        return {
            "number": number,
            "rows": self._in_passes.get(number, 0),
            "replaced": self._from_passes.get(number, 0),
        }

    def add_row(self, document: Document, row: Row) -> None:
        """Count a row as it is written."""
        if document.tgt_lang is not None:
            _count(self.rows_by_language, document.tgt_lang)
            if any(flag != BLANK_FLAG for flag in row.flags):
                _count(self.flagged_by_language, document.tgt_lang)
        self.num_rows += 1
        for flag in row.flags:
            _count(self.flags, flag)

    def to_record(self) -> JsonDict:
        """Return what the record of the file has of the counts; `Totals` adds up those of a job."""
        return {
            "counts": {status: count for status, count in self.counts.items() if count},
            "flags": self.flags,
            "tokens": self.tokens,
            **({"rows_by_language": self.rows_by_language} if self.rows_by_language else {}),
            **({"flagged_by_language": self.flagged_by_language} if self.flagged_by_language else {}),
            **({"tries": tries} if (tries := {step: count for step, count in self.tries.items() if count}) else {}),
            **({"origins": self.origins} if self.origins else {}),
            "degraded": self.degraded,
            "environments": self.environments,
        }

    def _add_environment(self, environment: JsonDict) -> None:
        if any(environment is known for known in self.environments):
            return
        if self.environments and manifest.canonical_json(environment) in map(
            manifest.canonical_json, self.environments
        ):
            return
        self.environments.append(environment)


def _count(counts: dict[str, int], name: str, count: int = 1) -> None:
    counts[name] = counts.get(name, 0) + count
