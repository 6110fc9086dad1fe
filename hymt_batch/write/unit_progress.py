"""Which units of a prepared job are complete, from the files in its folder. Changes nothing on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Input
from hymt_batch.write import file_record, row_record
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.shard_plan import PlannedUnit, ShardPlan
from hymt_batch.write.state_file import StateFileDamagedError


class UnitProgress:
    """Tells which units are complete: those of which each shard has its row record, or is in a published file."""

    def __init__(self, fs: Fs, folder: Path, plan: ShardPlan) -> None:
        self._fs, self._folder, self._plan = fs, folder, plan
        self._records = RecordStore(fs, folder, plan.identity_sha256, plan.layout)
        self._published: dict[str, bool] = {}  # file id -> whether the file is published, of the last file

    def is_complete(self, unit: PlannedUnit) -> bool:
        """Return whether all shards of a unit are complete.

        Raises:
            PermissionError: This user may not read the state.
        """
        return all(
            self._has_record(file.input, record.index, record) or self._is_published(file.input)
            for file, record in unit.shards()
        )

    def missing(self) -> Iterator[int]:
        """Yield the units that are not complete, in order."""
        return (unit.index for unit in self._plan.units() if not self.is_complete(unit))

    def _has_record(self, input: Input, shard_index: int, expected: object) -> bool:
        try:
            header = row_record.read_header(self._fs, self._records.path(input.file_id, shard_index))
        except (FileNotFoundError, StateFileDamagedError):
            return False
        return header.identity == self._plan.identity_sha256 and header.shard == expected

    def _is_published(self, input: Input) -> bool:
        if input.file_id not in self._published:
            record = file_record.read_record(self._fs, self._folder, input, self._plan.layout)
            is_published = record is not None and record["identity"] == self._plan.identity_sha256
            self._published = {input.file_id: is_published}
        return self._published[input.file_id]
