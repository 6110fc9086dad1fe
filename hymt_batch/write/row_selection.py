"""Which rows of a finished job a pass decodes again: by their statuses or flags, as they are published."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Input, Row, Status
from hymt_batch.write.passes import PassFile


@dataclass(frozen=True, slots=True)
class Criteria:
    """The statuses and flags by which rows are selected: a row that has one of them is."""

    statuses: frozenset[str]
    flags: frozenset[str]

    def may_be_in(self, record: JsonDict) -> bool:
        """Return whether a published file has such rows, by its record."""
        return bool(self.statuses & set(record["counts"]) or self.flags & set(record["flags"]))

    def reasons(self, row: Row) -> list[str]:
        """Return the statuses and flags of a row for which it is selected."""
        found = [row.status.value] if row.status in self.statuses else []
        return found + [flag for flag in row.flags if flag in self.flags]


@dataclass(slots=True)
class SelectedRows:
    """The rows of a pass that begins."""

    files: list[PassFile] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)  # rows by the statuses and flags for which they are selected

    @property
    def num_rows(self) -> int:
        return sum(len(file.rows) for file in self.files)


def select(
    inputs: Iterable[Input],
    record_of: Callable[[Input], JsonDict],
    published_rows: Callable[[Input], Iterator[tuple[Document, Row]]],
    criteria: Criteria,
    check_stop: Callable[[], None],
) -> SelectedRows:
    """Select rows of published files.

    Args:
        inputs: The files, all of which are published.
        record_of: Returns the record of a published file.
        published_rows: Yields its documents, each with its row as it is written.
        criteria: Which rows are selected, of those that can be sent to the model: a row whose document has an error,
            and one with nothing to translate, is not.
        check_stop: Called now and then; raises if a stop was requested.
    """
    selected = SelectedRows()
    for input in inputs:
        check_stop()
        if not criteria.may_be_in(record_of(input)):
            continue
        rows, digests = array("q"), list[str]()
        for document, row in published_rows(input):
            if not row.row_index % 10_000:
                check_stop()
            if document.status is not Status.OK or "blank" in row.flags:
                continue
            if reasons := criteria.reasons(row):
                rows.append(row.row_index)
                digests.append(row.digest.hex())
                selected.reasons.update(reasons)
        if rows:
            selected.files.append(PassFile(input.file_id, input.rel, rows, "".join(digests)))
    return selected
