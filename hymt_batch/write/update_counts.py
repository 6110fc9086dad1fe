"""What an update changed, in numbers: for the summary, `status.json` and the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hymt_batch import manifest
from hymt_batch.manifest import FileChanges, JsonDict


@dataclass(frozen=True, slots=True)
class UpdateCounts:
    """Files and texts of an update; a text is a row, unless rows have several text fields."""

    new_files: int
    changed_files: int
    unchanged_files: int
    retired_files: int  # no inputs any more
    known_rows: int  # texts of changed files that their earlier versions had
    decoded_rows: int  # all other texts of new and changed files

    def describe(self) -> str:
        """Return the numbers as a line for people."""
        files = f"files: {self.new_files:,} new, {self.changed_files:,} changed, {self.retired_files:,} retired"
        rows = f"; of the new and changed: {self.decoded_rows:,} decoded, {self.known_rows:,} known from before"
        return f"{files}, {self.unchanged_files:,} unchanged" + (rows if self.new_files or self.changed_files else "")


def count(changes: FileChanges, records: Sequence[JsonDict]) -> UpdateCounts:
    """Count what an update changed.

    Args:
        changes: The files.
        records: The records of all files of the job.
    """
    new, changed = frozenset(changes.new), frozenset(changes.changed)
    num_new = num_changed = num_known = num_texts = 0
    for record in records if new or changed else ():
        if record["rel"] in new or record["rel"] in changed:
            num_new, num_changed = num_new + (record["rel"] in new), num_changed + (record["rel"] not in new)
            num_known += sum(record.get("origins", {}).values())
            num_texts += manifest.count_texts([record])
    num_unchanged = len(records) - num_new - num_changed
    return UpdateCounts(num_new, num_changed, num_unchanged, len(changes.retired), num_known, num_texts - num_known)
