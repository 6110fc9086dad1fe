"""The row records of a folder: read, publish and remove `.hymt/f<id>/s<k>.rows`.

Whether a shard has a record is decided by opening its name, never by listing a folder. A record that cannot be used is
quarantined. Independent of how files are assembled from records.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from hymt_batch.fs import publish, remove, replace, with_retries, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import ShardRecord
from hymt_batch.state_layout import StateLayout, shard_entries
from hymt_batch.write import row_record, state_file
from hymt_batch.write.quarantine import quarantine
from hymt_batch.write.row_record import RecordContents, RecordHeader, ShardRows
from hymt_batch.write.state_file import StateFileDamagedError
from hymt_batch.write.storage import DurableFolders
from hymt_batch.write.synced_names import SyncedNames

T = TypeVar("T")


class RecordStore:
    """The row records of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str, layout: StateLayout) -> None:
        self._fs, self._folder, self._identity, self._layout = fs, folder, identity, layout
        self.folders = DurableFolders(fs, folder)  # shared with the parts, which are in the same folders
        self._last: tuple[str, ShardRows] | None = None  # id of a file, and what was recorded last
        self._synced = SyncedNames(fs)

    def path(self, file_id: str, shard_index: int) -> Path:
        file_state = self._layout.file_state(self._folder, file_id)
        return self._layout.shard_parent(file_state, shard_index) / row_record.record_name(shard_index)

    def header(self, file_id: str, shard_index: int) -> RecordHeader | None:
        """Return the header of an intact record, or None; quarantines a record that cannot be used."""
        loaded = self._load(file_id, shard_index, row_record.decode_payload)
        return loaded[0] if loaded else None

    def load(self, file_id: str, shard_index: int) -> ShardRows | None:
        """Return what an intact record holds, or None; quarantines a record that cannot be used.

        Raises:
            OSError: The record cannot be read. It may be intact, and decoding its rows again may take hours.
        """
        if self._last is not None and (self._last[0], self._last[1].shard.index) == (file_id, shard_index):
            return self._last[1]
        loaded = self._load(file_id, shard_index, row_record.decode)
        return ShardRows(loaded[0].shard, loaded[0].counts, loaded[1]) if loaded else None

    def remember(self, file_id: str, rows: ShardRows) -> None:
        """Keep what this process has just recorded: the file of a small shard is mostly assembled next."""
        self._last = file_id, rows

    def _load(
        self, file_id: str, shard_index: int, decode: Callable[[bytes], tuple[RecordHeader, T]]
    ) -> tuple[RecordHeader, T] | None:
        path = self.path(file_id, shard_index)
        try:
            loaded = self._read(file_id, shard_index, decode)
        except StateFileDamagedError as damage:
            quarantine(self._fs, self._folder, path, str(damage))
            return None
        if loaded is not None:
            self._synced.ensure(path)
        return loaded

    def read(self, file_id: str, shard_index: int) -> tuple[RecordHeader, RecordContents] | None:
        """Read and verify a record without changing anything; None if there is no such file.

        Raises:
            StateFileDamagedError: The record cannot be used; the message is the reason.
            PermissionError: This user may not read it.
        """
        try:
            return self._read(file_id, shard_index, row_record.decode)
        except OSError as error:
            raise state_file.unreadable_is_damaged(error) from None

    def _read(
        self, file_id: str, shard_index: int, decode: Callable[[bytes], tuple[RecordHeader, T]]
    ) -> tuple[RecordHeader, T] | None:
        path = self.path(file_id, shard_index)
        data = state_file.read_file(self._fs, path, lambda line: row_record.decode_header(line).payload_bytes)
        if data is None:
            return None
        header, value = decode(data)
        if header.identity != self._identity:
            raise StateFileDamagedError("it belongs to a job with other settings")
        if (header.file_id, header.shard.index) != (file_id, shard_index):
            raise StateFileDamagedError("it belongs to another file or shard")
        return header, value

    def publish(
        self,
        file_id: str,
        shard: ShardRecord,
        data: bytes,
        check_lease: Callable[[], None],
        before_replacing: Callable[[], None] = lambda: None,
    ) -> bool:
        """Publish a record durably; an intact record of the same shard that exists already is kept.

        Args:
            file_id: The file of the shard.
            shard: The shard.
            data: The bytes of the record.
            check_lease: Raises if this process must not write any more.
            before_replacing: Raises if the record of a shard with other rows must not be replaced.

        Returns:
            False if an existing record was kept.

        Raises:
            StoppedError: The lease is lost, or the file system failed three times.
        """
        path = self.path(file_id, shard.index)

        def attempt() -> bool:
            tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
            try:
                self.folders.ensure(path.parent)
                write_new(self._fs, tmp, data)
                check_lease()
                while not (is_ours := publish(self._fs, tmp, path)):
                    existing = self.header(file_id, shard.index)
                    if existing is not None and existing.shard == shard:
                        break
                    if existing is not None:  # of the rows before the input changed
                        before_replacing()
                        replace(self._fs, tmp, path)
                        is_ours = True
                        break
                self._fs.fsync_dir(path.parent)
                return is_ours
            except FileNotFoundError:
                self.folders.forget_all()
                raise
            finally:
                remove(self._fs, tmp)

        is_ours = with_retries(f"the rows of shard {shard.index} of f{file_id}", attempt)
        self._synced.add(path)
        return is_ours

    def remove_beyond(self, file_id: str, num_shards: int) -> None:
        """Remove the records beyond the last shard of a file whose input became shorter."""
        for index in list(self.shard_indexes(file_id)):
            if index >= num_shards:
                remove(self._fs, self.path(file_id, index))

    def shard_indexes(self, file_id: str) -> Iterator[int]:
        """Yield the indices of the shards of a file that have a record."""
        for path in shard_entries(self._fs, self._layout.file_state(self._folder, file_id)):
            if match := row_record.RECORD_NAME.fullmatch(path.name):
                yield int(match[1])

    def digests(self, file_id: str, shard_index: int) -> dict[int, bytes]:
        """Return row index -> digest of its source, of a readable record; changes nothing on disk."""
        with contextlib.suppress(StateFileDamagedError):
            loaded = self.read(file_id, shard_index)
            return {row.row_index: row.digest for row in loaded[1].rows} if loaded else {}
        return {}
