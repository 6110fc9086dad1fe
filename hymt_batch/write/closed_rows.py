"""The closed generation of a changed file: its rows as they were published, from which an update takes what it knows.

When a published file changes, an update renames its state folder `.hymt/f<id>` to `.hymt/c<id>`, by way of a name of
its own (see `taken_state`). Nothing changes there any more; it is removed when the whole job is complete again. Until
then, every run takes the rows that it knows from there and from nowhere else, so that a text never depends on where a
run stopped. Explained in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import logging
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hymt_batch import manifest, state_layout
from hymt_batch.errors import StoppedError
from hymt_batch.fs import read_twice, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import ERROR_STATUSES, Input, Row, ShardRecord, Status
from hymt_batch.state_layout import StateLayout
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import file_record, pass_rows, row_record, state_file, taken_state
from hymt_batch.write.pass_rows import PassRows
from hymt_batch.write.row_record import RecordContents, RecordedPart, RecordHeader
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.state_file import StateFileDamagedError

log = logging.getLogger(__name__)

TRIED_AGAIN = ERROR_STATUSES - {Status.CRASH_QUARANTINED}
"""Statuses of rows that are not known. A row that ended its process again and again stays as it is."""

ORIGIN_DIGITS = 16
"""Hex digits of the sha256 of an identity in `Row.origin`."""

CLOSED_NAME = re.compile(r"c[0-9a-f]{16}")
MAX_LOADED = 4
"""Most row records of a closed generation that are kept in memory."""


class RowKey(NamedTuple):
    """By what a row is recognised."""

    sent: bytes  # see `sent_key`
    digest: bytes  # of its source; for rows of versions that did not record what they sent; b"" if it says too little


@dataclass(frozen=True, slots=True)
class KnownRows:
    """The rows of a shard that the earlier version of its file has, and how they were decoded."""

    rows: Mapping[int, Row]  # index of the document in its shard -> its row, with the place that it had
    environments: tuple[JsonDict, ...] = ()  # in which the records were decoded that they come from, each once
    degraded: tuple[str, ...] = ()  # see part.PartOrigin


NOTHING_KNOWN = KnownRows({})


class ClosedRows:
    """The closed generations of a folder. Changes nothing on disk."""

    def __init__(self, fs: Fs, folder: Path, job: JobRecord) -> None:
        self._fs, self._folder, self._job = fs, folder, job
        self._has_any: bool | None = None
        self._file: tuple[str, _ClosedFile | None] | None = None  # the last one that was asked for

    def has_file(self, input: Input) -> bool:
        """Return whether a generation of a file is closed, so that some of its rows may be known."""
        return self.has_any() and self._open(input) is not None

    def record(self, input: Input) -> JsonDict | None:
        """Return the record of the earlier version of a file; None if no generation of the file is closed."""
        return read_record(self._fs, self._folder, input, self._job.layout) if self.has_any() else None

    def find(self, input: Input, keys: Mapping[int, RowKey]) -> KnownRows:
        """Return the rows that are known of a shard; `keys` maps the index of a document to its key."""
        closed = self._open(input) if keys and self.has_any() else None
        if closed is None:
            return NOTHING_KNOWN
        with wrap_os_errors(f"the earlier rows of {input.rel}"):
            return closed.find(keys)

    def _open(self, input: Input) -> _ClosedFile | None:
        if self._file is None or self._file[0] != input.file_id:
            with wrap_os_errors(f"the earlier rows of {input.rel}"):
                self._file = input.file_id, _ClosedFile.open(self._fs, self._folder, input, self._job)
        return self._file[1]

    def has_any(self) -> bool:
        """Return whether a generation of any file was closed when this was first asked."""
        if self._has_any is None:
            with wrap_os_errors("the earlier rows"):
                # the folder exists: if a network file system does not find it, that is an error, and not "no rows"
                self._has_any = any(map(is_closed_folder, state_layout.state_names(self._fs, self._folder)))
        return self._has_any


class _ClosedFile:
    """The rows of one closed generation, found by their keys."""

    def __init__(self, fs: Fs, folder: Path, file_id: str, record: JsonDict, job: JobRecord) -> None:
        self._fs, self._file_id, self._layout = fs, file_id, job.layout
        self._path = job.layout.closed_state(folder, file_id)
        numbers = [item["number"] for item in record.get("passes", ())]  # with which the file was published
        self._passes = {job_pass.number: job_pass for job_pass in job.passes if job_pass.number in numbers}
        self._pass_rows = PassRows(fs, folder, replace(job, passes=tuple(self._passes.values())))
        self._identity = str(record["identity"])
        self._shards: ShardTable = file_record.shard_table_of(record)
        self._loaded: dict[int, RecordContents] = {}  # by shard index, the one used last at the end
        self._keys, self._places = self._index()

    @classmethod
    def open(cls, fs: Fs, folder: Path, input: Input, job: JobRecord) -> _ClosedFile | None:
        record = read_record(fs, folder, input, job.layout)
        return None if record is None else cls(fs, folder, input.file_id, record, job)

    def _index(self) -> tuple[array[int], array[int]]:
        """Return the first 8 bytes of the keys of all rows in ascending order, and shard and offset of each row.

        16 bytes a row; equal keys are in the order of the file.
        """
        keys, places = array("Q"), array("Q")
        for shard in self._shards:
            contents = self._load(shard.index)
            for offset, row in enumerate(contents.rows if contents else ()):
                if row.num_source_tokens and row.status not in TRIED_AGAIN:
                    keys.append(_prefix(row.key or row.digest))
                    places.append(shard.index << 32 | offset)
        order = sorted(range(len(keys)), key=keys.__getitem__)
        return array("Q", map(keys.__getitem__, order)), array("Q", map(places.__getitem__, order))

    def _candidates(self, value: bytes) -> Iterator[tuple[int, int]]:
        """Yield shard and offset of each row whose key may be this one."""
        prefix = _prefix(value)
        at = bisect_left(self._keys, prefix)
        while at < len(self._keys) and self._keys[at] == prefix:
            yield divmod(self._places[at], 1 << 32)
            at += 1

    def find(self, keys: Mapping[int, RowKey]) -> KnownRows:
        """See `ClosedRows.find`."""
        wanted: dict[int, list[tuple[int, int]]] = {}  # shard -> offset of a row, and the document that it may be
        for index, key in keys.items():
            for value in filter(None, key):
                for shard_index, offset in self._candidates(value):
                    wanted.setdefault(shard_index, []).append((offset, index))
        rows: dict[int, Row] = {}
        environments: dict[bytes, JsonDict] = {}
        degraded: dict[str, None] = {}
        for shard_index in sorted(wanted):  # each record is loaded once for each shard of the new version
            contents = self._load(shard_index)
            if contents is None:
                continue
            is_used = False
            for offset, index in wanted[shard_index]:
                row, key = contents.rows[offset], keys[index]
                if index not in rows and (row.key == key.sent if row.key else row.digest == key.digest):
                    origin = row.origin or self._identity[:ORIGIN_DIGITS]
                    rows[index], is_used = replace(row, key=key.sent, origin=origin), True
            for part in contents.parts if is_used else ():
                for environment in (part.environment, *part.other_environments):
                    environments.setdefault(manifest.canonical_json(environment), environment)
                degraded.update(dict.fromkeys(part.degraded))
        return KnownRows(rows, tuple(environments.values()), tuple(degraded))

    def _load(self, shard_index: int) -> RecordContents | None:
        """Return what the record of a shard holds; None if it is missing or damaged: its rows are decoded again."""
        contents = self._loaded.pop(shard_index, None)
        if contents is None:
            try:
                loaded = read_twice(lambda: self._read(shard_index))
            except StateFileDamagedError as damage:
                log.warning("row_record file_id=%s shard=%d ignored=%r", self._file_id, shard_index, str(damage))
                return None
            if loaded is None:
                return None
            contents = self._with_passes(loaded[0].shard, loaded[1])
        self._loaded[shard_index] = contents
        if len(self._loaded) > MAX_LOADED:
            del self._loaded[next(iter(self._loaded))]
        return contents

    def _with_passes(self, shard: ShardRecord, contents: RecordContents) -> RecordContents:
        """Return the rows of a shard as they were published: those of passes in the place of earlier ones."""
        later_rows = self._pass_rows.load(self._file_id, shard) if self._passes else {}
        if not later_rows:
            return contents
        rows, used = list(contents.rows), set[int]()
        for row_index, later in later_rows.items():
            row = rows[row_index - shard.first_row]
            for number, of_pass in later:
                if of_pass.digest == row.digest and pass_rows.is_as_good(of_pass, row):
                    origin = manifest.digest(self._passes[number].identity)[:ORIGIN_DIGITS]
                    row = replace(of_pass, row_index=row_index, key=row.key, origin=origin)
                    used.add(number)
            rows[row_index - shard.first_row] = row
        environments = [environment for number in sorted(used) for environment in self._passes[number].environments]
        parts = (*contents.parts, *(RecordedPart(0, "", environment, ()) for environment in environments))
        return RecordContents(parts, rows)

    def _read(self, shard_index: int) -> tuple[RecordHeader, RecordContents] | None:
        path = self._layout.shard_parent(self._path, shard_index) / row_record.record_name(shard_index)
        data = state_file.read_file(self._fs, path, lambda line: row_record.decode_header(line).payload_bytes)
        if data is None:
            return None
        header, contents = row_record.decode(data)
        if (header.identity, header.file_id) != (self._identity, self._file_id):
            raise StateFileDamagedError("it belongs to another job or file")
        if header.shard != self._shards.get(shard_index):
            raise StateFileDamagedError("it is not of the published file")
        return header, contents


def _prefix(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")


def closed_folders(fs: Fs, folder: Path) -> list[Path]:
    """Return the state folders of all closed generations."""
    return [path for path in state_layout.file_states(fs, folder) if is_closed_folder(path.name)]


def is_closed_folder(name: str) -> bool:
    """Return whether a folder of this name holds a closed generation."""
    return CLOSED_NAME.fullmatch(name) is not None


def read_record(fs: Fs, folder: Path, input: Input, layout: StateLayout) -> JsonDict | None:
    """Return the record of the earlier version of a file; None if no generation of the file is closed."""
    path = layout.closed_state(folder, input.file_id) / "file.json"
    return read_twice(lambda: file_record.read_record_at(fs, path, input))


def close(fs: Fs, folder: Path, inputs: Iterable[Input], layout: StateLayout, check_lease: Callable[[], None]) -> None:
    """Close the generations of published files, durably. Call it under the lease.

    A generation that is closed already is older than the published file, and is removed.

    Raises:
        OSError: The file system failed; the generation of each file is closed or not.
        StoppedError: Another process took over the folder. What it has made stays as it is.
    """
    parents = set[Path]()  # the groups of the files, or the folder of all
    taken: list[tuple[Path, Path]] = []  # a folder under a name of its own, and where it goes
    for input in inputs:
        source, target = layout.file_state(folder, input.file_id), layout.closed_state(folder, input.file_id)
        parents.add(source.parent)
        record = taken_state.record_bytes(fs, source)
        check_lease()
        if (path := taken_state.take(fs, source, record) if record else None) is not None:
            taken.append((path, target))
        elif not taken_state.record_bytes(fs, target):  # if it has a record, another process closed the generation
            raise _taken_over(folder, check_lease)
    _sync_all(fs, parents)  # before the second rename, so that a power loss cannot leave only that one
    for path, target in taken:
        older = _take_closed(fs, target, check_lease)
        if not taken_state.rename(fs, path, target):
            raise _taken_over(folder, check_lease)
        if older is not None:
            taken_state.remove(fs, older)
    _sync_all(fs, parents)


def _sync_all(fs: Fs, parents: Iterable[Path]) -> None:
    for parent in sorted(parents):
        fs.fsync_dir(parent)


def _take_closed(fs: Fs, path: Path, check_lease: Callable[[], None]) -> Path | None:
    """Take a closed generation away to be removed, and return where it is; None if there is none."""
    record = taken_state.record_bytes(fs, path)
    check_lease()
    return None if stat_or_none(fs, path) is None else taken_state.take(fs, path, record)


def _taken_over(folder: Path, check_lease: Callable[[], None]) -> StoppedError:
    check_lease()  # it says who took over the folder
    return taken_state.taken_over_error(f"the state of {folder.name}")


def discard(fs: Fs, folder: Path, check_lease: Callable[[], None]) -> None:
    """Remove all closed generations, once all files are published and the manifest is written."""
    with contextlib.suppress(OSError, StoppedError):  # what is left is removed by the next run
        for path in closed_folders(fs, folder):
            if (taken := _take_closed(fs, path, check_lease)) is not None:
                taken_state.remove(fs, taken)
