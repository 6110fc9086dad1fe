"""Read and verify the parts that a folder already holds, and quarantine those that cannot be used.

Whether a part is committed is decided by opening its planned name, never by listing a folder: on a network file system
a listing may be stale. Independent of how parts are produced and used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hymt_batch.errors import StoppedError
from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Row, ShardRecord
from hymt_batch.state_layout import StateLayout, shard_entries
from hymt_batch.write import part as parts
from hymt_batch.write import state_file
from hymt_batch.write.part import PartHeader
from hymt_batch.write.quarantine import quarantine
from hymt_batch.write.segment_run import RunHeader
from hymt_batch.write.state_file import StateFileDamagedError
from hymt_batch.write.synced_names import SyncedNames

T = TypeVar("T")
H = TypeVar("H", PartHeader, RunHeader)


@dataclass(frozen=True, slots=True)
class VerifiedPart:
    """The fields of a verified part that are kept in memory. It is small because a job may have 500,000 parts."""

    shard: ShardRecord
    num_parts: int
    rows_digest: str


def read_part_file(
    fs: Fs,
    path: Path,
    identity: str,
    position: tuple[str, int, int],
    decode_header: Callable[[bytes], H],
    decode: Callable[[bytes], tuple[H, T]],
) -> tuple[H, T] | None:
    """Read a part, of rows or of segments, and verify that it belongs to this job and to this place.

    Args:
        fs: The file system.
        path: The file.
        identity: sha256 of the job's identity.
        position: File id, shard index and part index.
        decode_header: Decodes its first line.
        decode: Decodes the whole file.

    Returns:
        The header and the contents; None if there is no such file.

    Raises:
        StateFileDamagedError: The part cannot be used; the message is the reason.
        PermissionError: This user may not read it.
    """
    try:
        data = state_file.read_file(fs, path, lambda line: decode_header(line).payload_bytes)
    except OSError as error:  # decoding a part again costs less than stopping the job
        raise state_file.unreadable_is_damaged(error) from None
    if data is None:
        return None
    header, contents = decode(data)
    if header.identity != identity:
        raise StateFileDamagedError("it belongs to a job with other settings")
    if (header.file_id, header.shard.index, header.part_index) != position:
        raise StateFileDamagedError("it belongs to another file, shard or part")
    if not 0 <= header.part_index < header.num_parts:
        raise StateFileDamagedError("its index is not below its number of parts")
    return header, contents


class PartReader:
    """Reads the parts of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str, layout: StateLayout) -> None:
        self._fs, self._folder, self._identity, self._layout = fs, folder, identity, layout
        self._verified: dict[
            tuple[str, int], dict[int, VerifiedPart]
        ] = {}  # (file_id, shard index) -> part index -> part
        self._synced = SyncedNames(fs)

    def path(self, file_id: str, shard_index: int, part_index: int) -> Path:
        return self.parts_folder(file_id, shard_index) / parts.part_name(part_index)

    def parts_folder(self, file_id: str, shard_index: int) -> Path:
        """Return the folder of the parts of a shard."""
        file_state = self._layout.file_state(self._folder, file_id)
        return self._layout.shard_parent(file_state, shard_index) / parts.shard_name(shard_index)

    def load(self, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """Return the header and rows of an intact part of this job, or None. Quarantines a part that cannot be used."""
        path = self.path(file_id, shard_index, part_index)
        try:
            header_and_rows = self.read(path, file_id, shard_index, part_index)
        except StateFileDamagedError as damage:
            self.invalidate(file_id, shard_index, part_index)
            quarantine(self._fs, self._folder, path, str(damage))
            return None
        if header_and_rows is not None:
            self._synced.ensure(path)
            header = header_and_rows[0]
            verified_part = VerifiedPart(header.shard, header.num_parts, header.rows_digest)
            self._verified.setdefault((file_id, shard_index), {})[part_index] = verified_part
        return header_and_rows

    def verified_part(self, file_id: str, shard_index: int, part_index: int) -> VerifiedPart | None:
        """Return what is known about a part, reading it if needed; None if this job has no intact part there."""
        if (verified := self._verified.get((file_id, shard_index), {}).get(part_index)) is None and self.load(
            file_id, shard_index, part_index
        ):
            verified = self._verified[file_id, shard_index][part_index]
        return verified

    def invalidate(self, file_id: str, shard_index: int, part_index: int) -> None:
        """Forget a part, so that it is read again when it is next requested."""
        self._verified.get((file_id, shard_index), {}).pop(part_index, None)

    def invalidate_shard(self, file_id: str, shard_index: int, parts_folder: Path) -> None:
        """Forget all parts of a shard."""
        self._verified.pop((file_id, shard_index), None)
        self._synced.forget(parts_folder)

    def read(self, path: Path, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """Read and verify a part without changing anything.

        Returns:
            The header and the rows; None if there is no such file.

        Raises:
            StateFileDamagedError: The part cannot be used; the message is the reason.
            PermissionError: This user may not read it.
        """
        loaded = self._read(path, file_id, shard_index, part_index, parts.decode)
        if loaded is not None:
            header, rows = loaded
            first, end = header.shard.first_row, header.shard.first_row + header.shard.num_rows
            if rows and not first <= rows[0].row_index <= rows[-1].row_index < end:
                raise StateFileDamagedError("its rows are outside its shard")
        return loaded

    def _read(
        self,
        path: Path,
        file_id: str,
        shard_index: int,
        part_index: int,
        decode: Callable[[bytes], tuple[PartHeader, T]],
    ) -> tuple[PartHeader, T] | None:
        position = (file_id, shard_index, part_index)
        return read_part_file(self._fs, path, self._identity, position, parts.decode_header, decode)

    def shard_record(self, file_id: str, shard_index: int) -> ShardRecord | None:
        """Return the shard's record if all its parts exist, are intact, and together hold each row exactly once."""
        first_part = self.load(file_id, shard_index, 0)
        if first_part is None:
            return None
        header = first_part[0]
        rows = {row.row_index for row in first_part[1]}
        num_rows = len(first_part[1])
        for part_index in range(1, header.num_parts):
            next_part = self.load(file_id, shard_index, part_index)
            if next_part is None or (next_part[0].shard, next_part[0].num_parts) != (header.shard, header.num_parts):
                return None
            rows.update(row.row_index for row in next_part[1])
            num_rows += len(next_part[1])
        return header.shard if num_rows == len(rows) == header.shard.num_rows else None

    def payloads(self, file_id: str, shard: ShardRecord) -> list[tuple[PartHeader, bytes]]:
        """Return header and payload of every part of a shard, by part index, with their checksums verified.

        Raises:
            StoppedError: A part was damaged or removed after it was committed.
        """
        parts_of_shard: list[tuple[PartHeader, bytes]] = []
        num_parts = 1 if shard.num_rows else 0
        while len(parts_of_shard) < num_parts:
            path = self.path(file_id, shard.index, len(parts_of_shard))
            try:
                part = self._read(path, file_id, shard.index, len(parts_of_shard), parts.decode_payload)
            except StateFileDamagedError as damage:
                self.invalidate(file_id, shard.index, len(parts_of_shard))
                quarantine(self._fs, self._folder, path, str(damage))
                part = None
            if part is None:
                raise self.damaged_error(file_id, shard.index)
            num_parts = part[0].num_parts
            parts_of_shard.append(part)
        return parts_of_shard

    @staticmethod
    def damaged_error(file_id: str, shard_index: int) -> StoppedError:
        """Return the error of a shard whose parts or record were damaged or removed after they were committed."""
        return StoppedError(
            f"parts of shard {shard_index} of f{file_id} were damaged or removed while the job ran",
            fix="Run the same command again to translate them again.",
        )

    def shard_indexes(self, file_id: str) -> Iterator[int]:
        """Yield the indices of the shards of a file that have a folder."""
        for path in shard_entries(self._fs, self._layout.file_state(self._folder, file_id)):
            if match := parts.SHARD_NAME.fullmatch(path.name):
                yield int(match[1])

    def part_indexes(self, file_id: str, shard_index: int) -> Iterator[int]:
        for name in list_names(self._fs, self.parts_folder(file_id, shard_index)):
            if match := parts.PART_NAME.fullmatch(name):
                yield int(match[1])

    def rows(self, file_id: str, shard_index: int) -> Iterator[Row]:
        """Yield the rows of the readable parts of a shard; changes nothing on disk."""
        for part_index in self.part_indexes(file_id, shard_index):
            with contextlib.suppress(StateFileDamagedError):
                path = self.path(file_id, shard_index, part_index)
                header_and_rows = self.read(path, file_id, shard_index, part_index)
                yield from header_and_rows[1] if header_and_rows else ()

    def source_digests(self, file_id: str, shard_index: int) -> dict[int, bytes]:
        """Return row index -> digest of its source, over the readable parts of a shard; changes nothing on disk."""
        return {row.row_index: row.digest for row in self.rows(file_id, shard_index)}
