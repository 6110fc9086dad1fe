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
from hymt_batch.fs import PAUSES_S, Fs, names, write_new
from hymt_batch.manifest import Job
from hymt_batch.records import Document, Input, Row, ShardRecord
from hymt_batch.write import final
from hymt_batch.write import part as parts
from hymt_batch.write.final import Loaded
from hymt_batch.write.inputs import Rows, changed_shards, hash_input
from hymt_batch.write.part import Header, PartDamage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a part that was verified as a whole: little, since a job may have 500,000."""

    shard: ShardRecord
    num_parts: int
    rows_digest: str


class Kept:
    """Parts of one identity in one folder."""

    def __init__(self, fs: Fs, folder: Path, identity: str) -> None:
        self._fs, self._folder, self._identity = fs, folder, identity
        self._known: dict[tuple[str, int], dict[int, Known]] = {}  # (file_id, shard) -> part -> what it is
        self._synced: set[Path] = set()

    def path(self, file_id: str, shard: int, part: int) -> Path:
        return manifest.file_state(self._folder, file_id) / parts.shard_name(shard) / parts.part_name(part)

    def load(self, file_id: str, shard: int, part: int) -> tuple[Header, list[Row]] | None:
        """A part that is whole and ours; None where there is none. One that is not so is set aside."""
        path = self.path(file_id, shard, part)
        try:
            found = self.judge(path, file_id, shard, part)
        except PartDamage as damage:
            self.doubt(file_id, shard, part)
            self.quarantine(path, str(damage))
            return None
        if found is not None:
            if path.parent not in self._synced:  # its writer may have been killed before it synced the name
                self._fs.fsync_dir(path.parent)
                self._synced.add(path.parent)
            header = found[0]
            known = Known(header.shard, header.num_parts, header.rows_digest)
            self._known.setdefault((file_id, shard), {})[part] = known
        return found

    def known(self, file_id: str, shard: int, part: int) -> Known | None:
        """What is remembered of a part, else what reading it tells; None where there is none that is whole and ours."""
        if (there := self._known.get((file_id, shard), {}).get(part)) is None and self.load(file_id, shard, part):
            there = self._known[file_id, shard][part]
        return there

    def doubt(self, file_id: str, shard: int, part: int) -> None:
        """Remember nothing of a part; it is read again where it is asked for."""
        self._known.get((file_id, shard), {}).pop(part, None)

    def forget(self, file_id: str, shard: int) -> None:
        """`doubt` of all parts of a shard."""
        self._known.pop((file_id, shard), None)

    def judge(self, path: Path, file_id: str, shard: int, part: int) -> tuple[Header, list[Row]] | None:
        """Read a part, changing nothing. Raises PartDamage."""
        try:
            data = _again(path, lambda: _whole(self._fs, path))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise  # it may be whole: nothing is moved or made again on the word of a permission
        except OSError as error:
            raise PartDamage(f"it cannot be read ({error.strerror})") from None
        header, rows = parts.decode(data)
        if header.identity != self._identity:
            raise PartDamage("it belongs to a job with other settings")
        if (header.file_id, header.shard.index, header.part) != (file_id, shard, part):
            raise PartDamage("it belongs to another place")
        if not 0 <= part < header.num_parts:
            raise PartDamage("it counts fewer parts than it should be one of")
        first, end = header.shard.first_row, header.shard.first_row + header.shard.num_rows
        if rows and not first <= rows[0].row <= rows[-1].row < end:
            raise PartDamage("its rows lie outside of its shard")
        return header, rows

    def record(self, file_id: str, shard: int) -> ShardRecord | None:
        """The shard's record when all its parts are here, each verified, and together they hold each row once."""
        first = self.load(file_id, shard, 0)
        if first is None:
            return None
        header = first[0]
        rows = {row.row for row in first[1]}
        count = len(first[1])
        for part in range(1, header.num_parts):
            found = self.load(file_id, shard, part)
            if found is None or (found[0].shard, found[0].num_parts) != (header.shard, header.num_parts):
                return None
            rows.update(row.row for row in found[1])
            count += len(found[1])
        return header.shard if count == len(rows) == header.shard.num_rows else None

    def load_shard(self, file_id: str, record: ShardRecord) -> Loaded:
        """Every header and row of a finished shard, verified once more; nothing of it is remembered.

        Raises:
            StoppedError: A part was damaged or removed since it was committed.
        """
        headers: list[Header] = []
        rows: dict[int, Row] = {}
        num_parts = 1 if record.num_rows else 0
        while len(headers) < num_parts:
            found = self.load(file_id, record.index, len(headers))
            if found is None:
                break
            num_parts = found[0].num_parts
            headers.append(found[0])
            rows.update((row.row, row) for row in found[1])
        if len(headers) < num_parts or set(rows) != set(range(record.first_row, record.first_row + record.num_rows)):
            raise StoppedError(
                f"parts of shard {record.index} of f{file_id} were damaged or removed while the job ran. "
                "Run the same command again to make them anew."
            )
        self.forget(file_id, record.index)
        self._synced.discard(self.path(file_id, record.index, 0).parent)
        return headers, rows

    def quarantine(self, path: Path, reason: str) -> None:
        """Move a part out of the way, with the reason beside it; it is never opened again."""
        target = manifest.state(self._folder) / "quarantine" / f"{path.parents[1].name}-{path.parent.name}-{path.name}"
        target = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self._fs.rename(path, target)
            log.warning("quarantine part=%s reason=%r", target.name, reason)
            with contextlib.suppress(OSError):
                write_new(self._fs, target.with_name(f"{target.name}.reason"), reason.encode() + b"\n")

    def shards(self, file_id: str) -> Iterator[int]:
        """Shards of a file that have a folder."""
        for name in names(self._fs, manifest.file_state(self._folder, file_id)):
            if match := parts.SHARD_NAME.fullmatch(name):
                yield int(match[1])

    def parts_of(self, file_id: str, shard: int) -> Iterator[int]:
        for name in names(self._fs, manifest.file_state(self._folder, file_id) / parts.shard_name(shard)):
            if match := parts.NAME.fullmatch(name):
                yield int(match[1])

    def any(self, file_id: str) -> bool:
        return any(True for shard in self.shards(file_id) for _ in self.parts_of(file_id, shard))

    def digests(self, input: Input, shard: int) -> dict[int, bytes]:
        """Row number -> digest of its source, over the readable parts of a shard; changes nothing."""
        rows: dict[int, bytes] = {}
        for part in self.parts_of(input.file_id, shard):
            with contextlib.suppress(PartDamage):
                found = self.judge(self.path(input.file_id, shard, part), input.file_id, shard, part)
                rows.update((row.row, row.digest) for row in (found[1] if found else ()))
        return rows

    def differing(self, input: Input, documents: Iterator[Document]) -> Rows:
        """Rows of a whole pass over an input whose parts were made of something else."""
        wrong = Rows()
        wanted: dict[int, bytes] = {}
        for shard in self.shards(input.file_id):
            wanted.update(self.digests(input, shard))
        for document in documents:
            digest = wanted.pop(document.row, None)
            if digest is not None and digest != document.digest:
                wrong.add(document.row)
        for row in sorted(wanted):
            wrong.add(row)
        return wrong


def _whole(fs: Fs, path: Path) -> bytes:
    """The bytes of a part, never more than its header says: what lies there may be of any kind and size."""
    found = fs.stat(path)
    if found.kind != "file":
        raise PartDamage("it is no file")
    data = fs.read(path, 0, min(found.size, parts.MAX_HEADER_BYTES))
    if found.size == len(data):
        return data
    line, newline, _ = data.partition(b"\n")
    if not newline:
        raise PartDamage(f"it has {found.size} bytes and no header")
    size = len(line) + 1 + parts.decode_header(line).length
    if found.size != size:
        raise PartDamage(f"the file has {found.size} bytes, and the header says {size}")
    return data + fs.read(path, len(data), size - len(data))


def _again(path: Path, read: Callable[[], bytes]) -> bytes:
    """Read a file; an error that passes, as on a network file system, costs up to two more tries."""
    for pause in PAUSES_S:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            log.warning("read file=%s error=%s again_in_s=%.2f", path.name, error.strerror, pause)
            time.sleep(pause)
    return read()


def differs(fs: Fs, place: Path, wanted: Job, read: Callable[[Input], Iterator[Document]]) -> str:
    """What of a folder's inputs changed since its parts were made; "" for nothing."""
    kept = Kept(fs, place, wanted.key)
    for input in wanted.inputs:
        record = final.read_record(fs, place, input)
        if record is not None and record["identity"] == wanted.key and hash_input(input) == record["input"]:
            continue
        if kept.any(input.file_id):
            if (rows := kept.differing(input, read(input))).runs:
                return f"{input.rel} {rows}"
        elif record is not None:
            return changed_shards(input, list(final.shards(record)))
    return ""
