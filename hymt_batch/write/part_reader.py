"""Read and verify the parts that a folder already holds, and quarantine those that cannot be used.

Whether a part is committed is decided by opening its planned name, never by listing a folder: on a network file system
a listing may be stale. Independent of how parts are produced and assembled.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import StoppedError
from hymt_batch.fs import RETRY_DELAYS_S, Fs, list_names, write_new
from hymt_batch.manifest import JobRecord
from hymt_batch.records import Document, Input, Row, ShardRecord
from hymt_batch.write import part as parts
from hymt_batch.write import published_file
from hymt_batch.write.input_changes import RowRanges, describe_changed_shards, hash_input
from hymt_batch.write.part import PartDamagedError, PartHeader
from hymt_batch.write.published_file import LoadedShard

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VerifiedPart:
    """The fields of a verified part that are kept in memory. It is small because a job may have 500,000 parts."""

    shard: ShardRecord
    num_parts: int
    rows_digest: str


class PartReader:
    """Reads the parts of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str) -> None:
        self._fs, self._folder, self._identity = fs, folder, identity
        self._verified: dict[
            tuple[str, int], dict[int, VerifiedPart]
        ] = {}  # (file_id, shard index) -> part index -> part
        self._synced_folders: set[Path] = set()

    def path(self, file_id: str, shard_index: int, part_index: int) -> Path:
        return (
            manifest.file_state_folder(self._folder, file_id)
            / parts.shard_name(shard_index)
            / parts.part_name(part_index)
        )

    def load(self, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """Return the header and rows of an intact part of this job, or None. Quarantines a part that cannot be used."""
        path = self.path(file_id, shard_index, part_index)
        try:
            header_and_rows = self.read(path, file_id, shard_index, part_index)
        except PartDamagedError as damage:
            self.invalidate(file_id, shard_index, part_index)
            self.quarantine(path, str(damage))
            return None
        if header_and_rows is not None:
            if path.parent not in self._synced_folders:  # its writer may have died before this fsync
                self._fs.fsync_dir(path.parent)
                self._synced_folders.add(path.parent)
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

    def invalidate_shard(self, file_id: str, shard_index: int) -> None:
        """Forget all parts of a shard."""
        self._verified.pop((file_id, shard_index), None)

    def read(self, path: Path, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """Read and verify a part without changing anything.

        Returns:
            The header and the rows; None if there is no such file.

        Raises:
            PartDamagedError: The part cannot be used; the message is the reason.
            PermissionError: This user may not read it.
        """
        try:
            data = _read_with_retries(path, lambda: _read_part_bytes(self._fs, path))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise  # it may be intact: a missing permission is no reason to quarantine it
        except OSError as error:
            raise PartDamagedError(f"it cannot be read ({error.strerror})") from None
        header, rows = parts.decode(data)
        if header.identity != self._identity:
            raise PartDamagedError("it belongs to a job with other settings")
        if (header.file_id, header.shard.index, header.part_index) != (file_id, shard_index, part_index):
            raise PartDamagedError("it belongs to another file, shard or part")
        if not 0 <= part_index < header.num_parts:
            raise PartDamagedError("its index is not below its number of parts")
        first, end = header.shard.first_row, header.shard.first_row + header.shard.num_rows
        if rows and not first <= rows[0].row_index <= rows[-1].row_index < end:
            raise PartDamagedError("its rows are outside its shard")
        return header, rows

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

    def load_shard(self, file_id: str, record: ShardRecord) -> LoadedShard:
        """Read all headers and rows of a complete shard, verify them once more, and forget its parts.

        Raises:
            StoppedError: A part was damaged or removed after it was committed.
        """
        headers: list[PartHeader] = []
        rows: dict[int, Row] = {}
        num_parts = 1 if record.num_rows else 0
        while len(headers) < num_parts:
            header_and_rows = self.load(file_id, record.index, len(headers))
            if header_and_rows is None:
                break
            num_parts = header_and_rows[0].num_parts
            headers.append(header_and_rows[0])
            rows.update((row.row_index, row) for row in header_and_rows[1])
        if len(headers) < num_parts or set(rows) != set(range(record.first_row, record.first_row + record.num_rows)):
            raise StoppedError(
                f"parts of shard {record.index} of f{file_id} were damaged or removed while the job ran. "
                "Run the same command again to translate them again."
            )
        self.invalidate_shard(file_id, record.index)
        self._synced_folders.discard(self.path(file_id, record.index, 0).parent)
        return headers, rows

    def quarantine(self, path: Path, reason: str) -> None:
        """Move a part to `.hymt/quarantine` with the reason beside it; it is never opened again."""
        target = (
            manifest.state_folder(self._folder)
            / "quarantine"
            / f"{path.parents[1].name}-{path.parent.name}-{path.name}"
        )
        target = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # another process already moved it
            self._fs.rename(path, target)
            log.warning("quarantine part=%s reason=%r", target.name, reason)
            with contextlib.suppress(OSError):
                write_new(self._fs, target.with_name(f"{target.name}.reason"), reason.encode() + b"\n")

    def shard_indexes(self, file_id: str) -> Iterator[int]:
        """Yield the indices of the shards of a file that have a folder."""
        for name in list_names(self._fs, manifest.file_state_folder(self._folder, file_id)):
            if match := parts.SHARD_NAME.fullmatch(name):
                yield int(match[1])

    def part_indexes(self, file_id: str, shard_index: int) -> Iterator[int]:
        for name in list_names(
            self._fs, manifest.file_state_folder(self._folder, file_id) / parts.shard_name(shard_index)
        ):
            if match := parts.PART_NAME.fullmatch(name):
                yield int(match[1])

    def has_any(self, file_id: str) -> bool:
        return any(True for shard_index in self.shard_indexes(file_id) for _ in self.part_indexes(file_id, shard_index))

    def source_digests(self, input: Input, shard_index: int) -> dict[int, bytes]:
        """Return row index -> digest of its source, over the readable parts of a shard; changes nothing on disk."""
        rows: dict[int, bytes] = {}
        for part_index in self.part_indexes(input.file_id, shard_index):
            with contextlib.suppress(PartDamagedError):
                header_and_rows = self.read(
                    self.path(input.file_id, shard_index, part_index), input.file_id, shard_index, part_index
                )
                rows.update((row.row_index, row.digest) for row in (header_and_rows[1] if header_and_rows else ()))
        return rows

    def changed_rows(self, input: Input, documents: Iterator[Document]) -> RowRanges:
        """Return the rows whose source differs from that in their parts; `documents` is a full pass over the input."""
        changed = RowRanges()
        digests: dict[int, bytes] = {}
        for shard_index in self.shard_indexes(input.file_id):
            digests.update(self.source_digests(input, shard_index))
        for document in documents:
            digest = digests.pop(document.row_index, None)
            if digest is not None and digest != document.digest:
                changed.add(document.row_index)
        for row in sorted(digests):
            changed.add(row)
        return changed


def _read_part_bytes(fs: Fs, path: Path) -> bytes:
    """Read the bytes of a part, never more than its header records: the file may have any type and size."""
    stat = fs.stat(path)
    if stat.kind != "file":
        raise PartDamagedError("it is not a file")
    data = fs.read(path, 0, min(stat.size, parts.MAX_HEADER_BYTES))
    if stat.size == len(data):
        return data
    line, newline, _ = data.partition(b"\n")
    if not newline:
        raise PartDamagedError(f"it has {stat.size} bytes but no header")
    size = len(line) + 1 + parts.decode_header(line).payload_bytes
    if stat.size != size:
        raise PartDamagedError(f"the file has {stat.size} bytes, but the header records {size}")
    return data + fs.read(path, len(data), size - len(data))


def _read_with_retries(path: Path, read: Callable[[], bytes]) -> bytes:
    """Read a file, with up to two more tries after an error that may be temporary, as on a network file system."""
    for pause in RETRY_DELAYS_S:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            log.warning("read file=%s error=%s again_in_s=%.2f", path.name, error.strerror, pause)
            time.sleep(pause)
    return read()


def describe_changes(fs: Fs, folder: Path, job: JobRecord, read: Callable[[Input], Iterator[Document]]) -> str:
    """Return which input of a job changed since its parts were committed, and where; "" if none did."""
    reader = PartReader(fs, folder, job.identity_sha256)
    for input in job.inputs:
        record = published_file.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.identity_sha256 and hash_input(input) == record["input"]:
            continue
        if reader.has_any(input.file_id):
            if (rows := reader.changed_rows(input, read(input))).ranges:
                return f"{input.rel} {rows}"
        elif record is not None:
            return describe_changed_shards(input, list(published_file.shard_table_of(record)))
    return ""
