"""The rows of the finished passes of a job, which take the place of its own rows when a file is assembled.

A row of a pass counts only for the source that it was decoded from, by its digest. Changes nothing on disk, but may
move a damaged record to quarantine.
"""

from __future__ import annotations

import contextlib
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import read_twice
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobPass, JobRecord
from hymt_batch.records import ERROR_STATUSES, HARD_FLAGS, Row, ShardRecord, Status
from hymt_batch.state_layout import StateLayout
from hymt_batch.write import passes
from hymt_batch.write.passes import FILE_ID, PassRecord
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.row_record import ShardRows
from hymt_batch.write.state_file import StateFileDamagedError

log = logging.getLogger(__name__)

_DOUBTFUL_STATUSES = frozenset({Status.TRUNCATED, Status.COPIED})

LaterRows = Mapping[int, Sequence[tuple[int, Row]]]
"""Row index -> its rows in passes, each with the number of the pass, in the order of the passes."""


def is_as_good(later: Row, earlier: Row) -> bool:
    """Return whether the row of a pass takes the place of an earlier one: both as they would be written.

    A row with a usable text is better than a doubtful one, which has a hard flag or the status truncated or copied; and
    any text is better than an error row. Of two that are equally good, the later one is used.
    """
    return _rank(later) >= _rank(earlier)


def _rank(row: Row) -> int:
    if row.status in ERROR_STATUSES:
        return 0
    return 1 if row.status in _DOUBTFUL_STATUSES or not HARD_FLAGS.isdisjoint(row.flags) else 2


@dataclass(frozen=True, slots=True)
class PassTable:
    """Where the rows of a finished pass are."""

    record: PassRecord
    store: RecordStore
    shards: Sequence[int]  # number of the first row of each shard

    @classmethod
    def open(cls, fs: Fs, folder: Path, job_pass: JobPass, layout: StateLayout) -> PassTable | None:
        """Open a finished pass of a job with this layout; None if its record is lost.

        Raises:
            OSError: It cannot be read. It may be intact.
        """
        record = passes.read_if_intact(fs, folder, job_pass.number)
        if record is None or record.identity != job_pass.identity:
            return None
        store = RecordStore(fs, passes.pass_folder(folder, record.number), record.identity_sha256, layout.of_pass)
        return cls(record, store, job_pass.shards)

    def rows_of(self, file_id: str, first_row: int, end_row: int) -> Iterator[tuple[int, int]]:
        """Yield (row within the file, number within the pass) of the rows of the pass in a range of a file."""
        file = next(file for file in self.record.files if file.file_id == file_id)
        base = self.record.first_rows[file_id]
        for position in range(bisect_left(file.rows, first_row), bisect_left(file.rows, end_row)):
            yield file.rows[position], base + position

    def shard_of(self, position: int) -> int:
        """Return the index of the shard that has a row, by the number of the row within the pass."""
        return bisect_right(self.shards, position) - 1


class PassRows:
    """Reads the rows of the finished passes of a job; keeps one shard of each pass in memory."""

    def __init__(
        self, fs: Fs, folder: Path, job: JobRecord, refuse_damage: Callable[[str], None] | None = None
    ) -> None:
        """Read nothing yet.

        Args:
            fs: The file system.
            folder: The output folder.
            job: The job of the folder.
            refuse_damage: Raises if rows of a pass are damaged, for a reader that changes nothing. None moves a damaged
                record to quarantine, and uses the earlier rows.
        """
        self._fs, self._folder, self._layout, self._refuse_damage = fs, folder, job.layout, refuse_damage
        self._passes = {job_pass.number: job_pass for job_pass in job.passes}
        self._tables: dict[int, PassTable | None] = {}  # by number of the pass
        self._loaded: dict[int, tuple[int, ShardRows | None]] = {}  # number of the pass -> its last shard, with index

    def numbers(self, file_id: str) -> list[int]:
        """Return the numbers of the passes that have rows of a file."""
        return [number for number, job_pass in self._passes.items() if file_id in job_pass.files]

    def record_paths(self) -> Iterator[tuple[int, int, Path]]:
        """Yield number and index of each shard of each pass, and where its record is."""
        for number, job_pass in self._passes.items():
            folder = passes.pass_folder(self._folder, number)
            records = RecordStore(self._fs, folder, manifest.digest(job_pass.identity), self._layout.of_pass)
            for index in range(len(job_pass.shards)):
                yield number, index, records.path(FILE_ID, index)

    def load(self, file_id: str, shard: ShardRecord) -> LaterRows:
        """Return the rows of all passes for the rows of a shard.

        Raises:
            OSError: A record cannot be read. It may be intact.
        """
        rows: dict[int, list[tuple[int, Row]]] = {}
        for number in self.numbers(file_id):
            table = self._table(number)
            if table is None:
                continue
            for row_index, position in table.rows_of(file_id, shard.first_row, shard.first_row + shard.num_rows):
                loaded = self._load_shard(table, table.shard_of(position))
                if loaded is not None and position - loaded.shard.first_row in range(loaded.shard.num_rows):
                    row = loaded.contents.rows[position - loaded.shard.first_row]
                    rows.setdefault(row_index, []).append((number, row))
        return rows

    def _table(self, number: int) -> PassTable | None:
        if number not in self._tables:
            table = self._tables[number] = PassTable.open(self._fs, self._folder, self._passes[number], self._layout)
            if table is None:
                self._report_damage(f"the record of pass {number} is missing or damaged")
        return self._tables[number]

    def _load_shard(self, table: PassTable, index: int) -> ShardRows | None:
        number = table.record.number
        if number not in self._loaded or self._loaded[number][0] != index:
            loaded = read_twice(
                lambda: table.store.load(FILE_ID, index) if self._refuse_damage is None else _read_shard(table, index)
            )
            if loaded is None:
                self._report_damage(f"rows of pass {number} are missing or damaged")
            self._loaded[number] = index, loaded
        return self._loaded[number][1]

    def _report_damage(self, what: str) -> None:
        if self._refuse_damage is not None:
            self._refuse_damage(what)
        log.warning("%s: the earlier rows are used", what)


def _read_shard(table: PassTable, index: int) -> ShardRows | None:
    """Read a shard without changing anything; None if it is missing or damaged."""
    with contextlib.suppress(StateFileDamagedError):
        if (recorded := table.store.read(FILE_ID, index)) is not None:
            return ShardRows(recorded[0].shard, recorded[0].counts, recorded[1])
    return None
