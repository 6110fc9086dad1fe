"""Read and verify the runs of divided rows that a folder already holds, and quarantine those that cannot be used.

As for parts, whether a run is committed is decided by opening its planned name, never by listing a folder. Independent
of how runs are produced and joined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs
from hymt_batch.state_layout import StateLayout
from hymt_batch.write import part as parts
from hymt_batch.write import segment_run
from hymt_batch.write.part_reader import read_part_file
from hymt_batch.write.quarantine import quarantine
from hymt_batch.write.segment_run import RunHeader, RunSegment
from hymt_batch.write.state_file import StateFileDamagedError
from hymt_batch.write.synced_names import SyncedNames


@dataclass(frozen=True, slots=True)
class RowInProgress:
    """A divided row of which some runs are committed."""

    id: str
    num_segments: int
    num_committed: int  # segments


def rows_in_progress(headers: Iterable[RunHeader]) -> list[RowInProgress]:
    """Return how much is committed of each row that has one of these runs."""
    committed: dict[tuple[str, int], int] = {}
    for header in headers:
        row = (header.key.row_id, header.key.num_segments)
        committed[row] = committed.get(row, 0) + header.key.last - header.key.first + 1
    return [RowInProgress(*row, num_segments) for row, num_segments in committed.items()]


class RunReader:
    """Reads the runs of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str, layout: StateLayout) -> None:
        self._fs, self._folder, self._identity, self._layout = fs, folder, identity, layout
        self._synced = SyncedNames(fs)

    def path(self, file_id: str, shard_index: int, part_index: int, run_index: int) -> Path:
        return self._shard_folder(file_id, shard_index) / parts.run_name(part_index, run_index)

    def _shard_folder(self, file_id: str, shard_index: int) -> Path:
        file_state = self._layout.file_state(self._folder, file_id)
        return self._layout.shard_parent(file_state, shard_index) / parts.shard_name(shard_index)

    def load(
        self, file_id: str, shard_index: int, part_index: int, run_index: int
    ) -> tuple[RunHeader, list[RunSegment]] | None:
        """Return the header and segments of an intact run of this job, or None. Quarantines one that cannot be used."""
        path = self.path(file_id, shard_index, part_index, run_index)
        try:
            loaded = self.read(file_id, shard_index, part_index, run_index)
        except StateFileDamagedError as damage:
            quarantine(self._fs, self._folder, path, str(damage))
            return None
        if loaded is not None:
            try:
                self._synced.ensure(path)
            except FileNotFoundError:  # another process joined the row and finished its shard
                return None
        return loaded

    def read(
        self, file_id: str, shard_index: int, part_index: int, run_index: int
    ) -> tuple[RunHeader, list[RunSegment]] | None:
        """Read and verify a run without changing anything.

        Returns:
            The header and the segments; None if there is no such file.

        Raises:
            StateFileDamagedError: The run cannot be used; the message is the reason.
            PermissionError: This user may not read it.
        """
        path = self.path(file_id, shard_index, part_index, run_index)
        position = (file_id, shard_index, part_index)
        loaded = read_part_file(self._fs, path, self._identity, position, segment_run.decode_header, segment_run.decode)
        if loaded is not None:
            header = loaded[0]
            if header.key.index != run_index:
                raise StateFileDamagedError("it is another run")
            if not header.shard.first_row <= header.key.row_index < header.shard.first_row + header.shard.num_rows:
                raise StateFileDamagedError("its row is outside its shard")
        return loaded

    def indexes(self, file_id: str, shard_index: int) -> Iterator[tuple[int, int]]:
        """Yield part index and run index of the runs of a shard."""
        for name in list_names(self._fs, self._shard_folder(file_id, shard_index)):
            if match := parts.RUN_NAME.fullmatch(name):
                yield int(match[1]), int(match[2])

    def read_all(self, file_id: str, shard_index: int) -> Iterator[tuple[RunHeader, list[RunSegment]]]:
        """Yield the readable runs of a shard; changes nothing on disk."""
        for part_index, run_index in self.indexes(file_id, shard_index):
            with contextlib.suppress(StateFileDamagedError):
                if (loaded := self.read(file_id, shard_index, part_index, run_index)) is not None:
                    yield loaded

    def source_digests(self, file_id: str, shard_index: int) -> dict[int, bytes]:
        """Return row index -> digest of its source, over the readable runs of a shard; changes nothing on disk."""
        keys = (header.key for header, _ in self.read_all(file_id, shard_index))
        return {key.row_index: bytes.fromhex(key.row_digest) for key in keys}

    def forget_shard(self, file_id: str, shard_index: int) -> None:
        self._synced.forget(self._shard_folder(file_id, shard_index))
