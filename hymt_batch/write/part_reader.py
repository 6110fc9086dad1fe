"""The parts a folder already holds: read, judged, and set aside where they cannot be used.

Parts are found by their planned names, never by a listing, which may be stale on a network file system. Does not know
how parts are made or what becomes of them.
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
    """What is remembered of a part that was verified as a whole: little, since a job may have 500,000."""

    shard: ShardRecord
    num_parts: int
    rows_digest: str


class PartReader:
    """Parts of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str) -> None:
        self._fs, self._folder, self._identity = fs, folder, identity
        self._verified: dict[tuple[str, int], dict[int, VerifiedPart]] = {}  # (file_id, shard) -> part -> what it is
        self._synced_folders: set[Path] = set()

    def path(self, file_id: str, shard_index: int, part_index: int) -> Path:
        return (
            manifest.file_state_folder(self._folder, file_id)
            / parts.shard_name(shard_index)
            / parts.part_name(part_index)
        )

    def load(self, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """A part that is whole and ours; None where there is none. One that is not so is set aside."""
        path = self.path(file_id, shard_index, part_index)
        try:
            found = self.read(path, file_id, shard_index, part_index)
        except PartDamagedError as damage:
            self.invalidate(file_id, shard_index, part_index)
            self.quarantine(path, str(damage))
            return None
        if found is not None:
            if path.parent not in self._synced_folders:  # its writer may have been killed before it synced the name
                self._fs.fsync_dir(path.parent)
                self._synced_folders.add(path.parent)
            header = found[0]
            known = VerifiedPart(header.shard, header.num_parts, header.rows_digest)
            self._verified.setdefault((file_id, shard_index), {})[part_index] = known
        return found

    def verified_part(self, file_id: str, shard_index: int, part_index: int) -> VerifiedPart | None:
        """What is remembered of a part, else what reading it tells; None where there is none that is whole and ours."""
        if (there := self._verified.get((file_id, shard_index), {}).get(part_index)) is None and self.load(
            file_id, shard_index, part_index
        ):
            there = self._verified[file_id, shard_index][part_index]
        return there

    def invalidate(self, file_id: str, shard_index: int, part_index: int) -> None:
        """Remember nothing of a part; it is read again where it is asked for."""
        self._verified.get((file_id, shard_index), {}).pop(part_index, None)

    def invalidate_shard(self, file_id: str, shard_index: int) -> None:
        """`doubt` of all parts of a shard."""
        self._verified.pop((file_id, shard_index), None)

    def read(self, path: Path, file_id: str, shard_index: int, part_index: int) -> tuple[PartHeader, list[Row]] | None:
        """Read a part, changing nothing. Raises PartDamage."""
        try:
            data = _read_with_retries(path, lambda: _read_part_bytes(self._fs, path))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise  # it may be whole: nothing is moved or made again on the word of a permission
        except OSError as error:
            raise PartDamagedError(f"it cannot be read ({error.strerror})") from None
        header, rows = parts.decode(data)
        if header.identity != self._identity:
            raise PartDamagedError("it belongs to a job with other settings")
        if (header.file_id, header.shard.index, header.part_index) != (file_id, shard_index, part_index):
            raise PartDamagedError("it belongs to another place")
        if not 0 <= part_index < header.num_parts:
            raise PartDamagedError("it counts fewer parts than it should be one of")
        first, end = header.shard.first_row, header.shard.first_row + header.shard.num_rows
        if rows and not first <= rows[0].row_index <= rows[-1].row_index < end:
            raise PartDamagedError("its rows lie outside of its shard")
        return header, rows

    def shard_record(self, file_id: str, shard_index: int) -> ShardRecord | None:
        """The shard's record when all its parts are here, each verified, and together they hold each row once."""
        first = self.load(file_id, shard_index, 0)
        if first is None:
            return None
        header = first[0]
        rows = {row.row_index for row in first[1]}
        count = len(first[1])
        for part in range(1, header.num_parts):
            found = self.load(file_id, shard_index, part)
            if found is None or (found[0].shard, found[0].num_parts) != (header.shard, header.num_parts):
                return None
            rows.update(row.row_index for row in found[1])
            count += len(found[1])
        return header.shard if count == len(rows) == header.shard.num_rows else None

    def load_shard(self, file_id: str, record: ShardRecord) -> LoadedShard:
        """Every header and row of a finished shard, verified once more; nothing of it is remembered.

        Raises:
            StoppedError: A part was damaged or removed since it was committed.
        """
        headers: list[PartHeader] = []
        rows: dict[int, Row] = {}
        num_parts = 1 if record.num_rows else 0
        while len(headers) < num_parts:
            found = self.load(file_id, record.index, len(headers))
            if found is None:
                break
            num_parts = found[0].num_parts
            headers.append(found[0])
            rows.update((row.row_index, row) for row in found[1])
        if len(headers) < num_parts or set(rows) != set(range(record.first_row, record.first_row + record.num_rows)):
            raise StoppedError(
                f"parts of shard {record.index} of f{file_id} were damaged or removed while the job ran. "
                "Run the same command again to make them anew."
            )
        self.invalidate_shard(file_id, record.index)
        self._synced_folders.discard(self.path(file_id, record.index, 0).parent)
        return headers, rows

    def quarantine(self, path: Path, reason: str) -> None:
        """Move a part out of the way, with the reason beside it; it is never opened again."""
        target = (
            manifest.state_folder(self._folder)
            / "quarantine"
            / f"{path.parents[1].name}-{path.parent.name}-{path.name}"
        )
        target = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self._fs.rename(path, target)
            log.warning("quarantine part=%s reason=%r", target.name, reason)
            with contextlib.suppress(OSError):
                write_new(self._fs, target.with_name(f"{target.name}.reason"), reason.encode() + b"\n")

    def shard_indexes(self, file_id: str) -> Iterator[int]:
        """Shards of a file that have a folder."""
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
        return any(True for shard in self.shard_indexes(file_id) for _ in self.part_indexes(file_id, shard))

    def source_digests(self, input: Input, shard_index: int) -> dict[int, bytes]:
        """Row number -> digest of its source, over the readable parts of a shard; changes nothing."""
        rows: dict[int, bytes] = {}
        for part in self.part_indexes(input.file_id, shard_index):
            with contextlib.suppress(PartDamagedError):
                found = self.read(self.path(input.file_id, shard_index, part), input.file_id, shard_index, part)
                rows.update((row.row_index, row.digest) for row in (found[1] if found else ()))
        return rows

    def changed_rows(self, input: Input, documents: Iterator[Document]) -> RowRanges:
        """Rows of a whole pass over an input whose parts were made of something else."""
        wrong = RowRanges()
        wanted: dict[int, bytes] = {}
        for shard in self.shard_indexes(input.file_id):
            wanted.update(self.source_digests(input, shard))
        for document in documents:
            digest = wanted.pop(document.row_index, None)
            if digest is not None and digest != document.digest:
                wrong.add(document.row_index)
        for row in sorted(wanted):
            wrong.add(row)
        return wrong


def _read_part_bytes(fs: Fs, path: Path) -> bytes:
    """The bytes of a part, never more than its header says: what lies there may be of any kind and size."""
    found = fs.stat(path)
    if found.kind != "file":
        raise PartDamagedError("it is no file")
    data = fs.read(path, 0, min(found.size, parts.MAX_HEADER_BYTES))
    if found.size == len(data):
        return data
    line, newline, _ = data.partition(b"\n")
    if not newline:
        raise PartDamagedError(f"it has {found.size} bytes and no header")
    size = len(line) + 1 + parts.decode_header(line).payload_bytes
    if found.size != size:
        raise PartDamagedError(f"the file has {found.size} bytes, and the header says {size}")
    return data + fs.read(path, len(data), size - len(data))


def _read_with_retries(path: Path, read: Callable[[], bytes]) -> bytes:
    """Read a file; an error that passes, as on a network file system, costs up to two more tries."""
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
    """What of a folder's inputs changed since its parts were made; "" for nothing."""
    kept = PartReader(fs, folder, job.identity_sha256)
    for input in job.inputs:
        record = published_file.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.identity_sha256 and hash_input(input) == record["input"]:
            continue
        if kept.has_any(input.file_id):
            if (rows := kept.changed_rows(input, read(input))).ranges:
                return f"{input.rel} {rows}"
        elif record is not None:
            return describe_changed_shards(input, list(published_file.shard_table_of(record)))
    return ""
