"""Read the inputs of a prepared job: once as a whole for its plan, and shard by shard for its tasks.

The plan has the position of every shard, so a task moves to its own. Compressed files, structured files and rows with
several text fields are read from their start. Independent of where the plan is kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hymt_batch.formats import registry
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.formats.format import Addressing
from hymt_batch.formats.row_reader import ShardHasher
from hymt_batch.records import Input, Shard, ShardRecord
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.shards import FileCutter


class FileHasher(ShardHasher):
    """Hashes a shard, and all bytes of the file on the side."""

    __slots__ = ("file_sha", "num_file_bytes")

    def __init__(self, header: bytes = b"") -> None:
        super().__init__(header)
        self.file_sha, self.num_file_bytes = hashlib.sha256(), 0

    def add(self, data: bytes) -> None:
        super().add(data)
        self.file_sha.update(data)
        self.num_file_bytes += len(data)

    def copy(self) -> FileHasher:
        duplicate = FileHasher()
        duplicate._base, duplicate._sha, duplicate.num_bytes = self._base, self._sha.copy(), self.num_bytes
        duplicate.file_sha, duplicate.num_file_bytes = self.file_sha.copy(), self.num_file_bytes
        return duplicate

    def assign(self, hasher: ShardHasher) -> None:
        super().assign(hasher)
        assert isinstance(hasher, FileHasher)
        self.file_sha, self.num_file_bytes = hasher.file_sha, hasher.num_file_bytes


class SurveyedFile:
    """A file that is read once, for the plan: its shards, then the hash of its bytes."""

    def __init__(
        self, input: Input, preambles: PreambleCache, reserved: tuple[str, ...], rows_left: int | None, version: int
    ) -> None:
        """Open the file; arguments as for `FileCutter`."""
        self.input, self.max_rows = input, rows_left
        self.rows_left = rows_left  # after the shards that were read so far
        self._hasher: FileHasher | None = None
        self._cutter = FileCutter(input, preambles, reserved, rows_left, version, self._new_hasher)

    def _new_hasher(self, header: bytes) -> FileHasher:
        self._hasher = FileHasher(header)
        return self._hasher

    @property
    def can_seek(self) -> bool:
        """True if a task can begin at any shard without reading the file up to it."""
        return self._cutter.can_seek and not self.input.compression and not self.input.encoding

    def shards(self, shard_rows: int, shard_bytes: int) -> Iterator[Shard]:
        """Yield all shards of the file; an empty file has one empty shard."""
        preamble = self._cutter.preamble
        assert self._hasher is not None
        for start in (preamble.bom, preamble.header):
            self._hasher.file_sha.update(start)
            self._hasher.num_file_bytes += len(start)
        index = 0
        while not self._cutter.exhausted:
            shard = self._cutter.read_shard(index, shard_rows, shard_bytes)
            if self.rows_left is not None:
                self.rows_left = max(0, self.rows_left - sum(map(ends_row, shard.documents)))
            yield shard
            index += 1

    def sha256(self) -> str | None:
        """Return the hash of the whole file if reading its rows gave every byte of it; None if it must be read again.

        Tables, structured files, compressed and transcoded ones, and files beyond source.limit are read a second time.
        """
        is_bytes = registry.of_input(self.input).addressing is Addressing.BYTE_OFFSET and self.can_seek
        if not is_bytes or self._hasher is None:
            return None
        try:
            same_size = os.path.getsize(self.input.path) == self._hasher.num_file_bytes
        except OSError:
            return None
        return self._hasher.file_sha.hexdigest() if same_size else None

    @property
    def num_bytes(self) -> int:
        """Bytes whose rows were read; those of the file if `sha256` has its hash."""
        return self._hasher.num_file_bytes if self._hasher else 0

    def close(self) -> None:
        self._cutter.close()


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """How the files of a job are cut; see `batch.PartLimits`."""

    rows: int
    bytes: int


class PlannedReader:
    """Reads shards of planned files; a file stays open while its shards are asked for in order."""

    def __init__(self, preambles: PreambleCache, reserved: tuple[str, ...], version: int, limits: ShardLimits) -> None:
        """Open nothing yet; arguments as for `FileCutter`."""
        self._preambles, self._reserved, self._version, self._limits = preambles, reserved, version, limits
        self._cutter: FileCutter | None = None
        self._next_index = 0

    def read(
        self, input: Input, max_rows: int | None, index: int, get_record: Callable[[int], ShardRecord]
    ) -> Shard | None:
        """Read one shard; None if the file cannot be read up to it, because its shards have other bytes now.

        The caller compares the shard with its record.

        Args:
            input: The file.
            max_rows: Its rows that are within source.limit; None for all.
            index: Index of the shard within the file.
            get_record: Returns the planned record of a shard.
        """
        if self._cutter is None or self._cutter.input != input or index < self._next_index:
            self.close()
            self._cutter = FileCutter(input, self._preambles, self._reserved, max_rows, self._version)
            self._next_index = 0
        cutter = self._cutter
        if cutter.can_seek:
            cutter.seek(get_record(index))
        else:
            while self._next_index < index:
                if cutter.exhausted or not cutter.skip(get_record(self._next_index)):
                    self.close()
                    return None
                self._next_index += 1
        if cutter.exhausted and index:
            self.close()
            return None
        shard = cutter.read_shard(index, self._limits.rows, self._limits.bytes)
        self._next_index = index + 1
        return shard

    def close(self) -> None:
        """Close the file that is open."""
        if self._cutter is not None:
            self._cutter.close()
            self._cutter = None
