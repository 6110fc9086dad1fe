"""Count what one translated file has, while it is assembled."""

from __future__ import annotations

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Row, Status
from hymt_batch.write.row_record import ShardRows


class Tally:
    """Counts what a file has; in plain dicts, because a `Counter` costs more than the rows of a small file."""

    def __init__(self) -> None:
        self.num_rows = 0  # documents
        self.num_output_rows = 0  # fewer, or as many, where rows have several text fields
        self.counts: dict[str, int] = {}  # by status
        self.flags: dict[str, int] = {}
        self.tokens = {"source": 0, "new": 0}
        self.tries: dict[str, int] = {}
        self.origins: dict[str, int] = {}  # identity under which known rows were decoded; see records.Row
        self.degraded: dict[str, int] = {}
        self.environments: list[JsonDict] = []  # the distinct ones

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

    def add_row(self, row: Row) -> None:
        """Count a row as it is written."""
        self.num_rows += 1
        for flag in row.flags:
            _count(self.flags, flag)

    def to_record(self) -> JsonDict:
        """Return what the record of the file has of the counts; `Totals` adds up those of a job."""
        return {
            "counts": {status: count for status, count in self.counts.items() if count},
            "flags": self.flags,
            "tokens": self.tokens,
            **({"tries": self.tries} if self.tries else {}),
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
