"""The passes of a job: rows of a finished job that are decoded again, each pass in a folder of its own.

`.hymt/passes/p<number>/pass.json` says which rows a pass has and with which identity they are decoded. It is written
once, before anything is decoded, and never changes. The rows form one virtual file (`FILE_ID`), whose parts and row
records lie beside it as those of a job do. A pass whose rows are all recorded becomes part of the job when `job.json`
lists it; what is not listed there has no effect on the published files. Explained in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import list_names, remove, remove_tree, stat_or_none, write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobPass, JobRecord, JsonDict, StateDamagedError, StateMissingError
from hymt_batch.records import Input
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.storage import DurableFolders

FILE_ID = "0" * 16
"""Id of the virtual file that has the rows of a pass; no input has it."""

DIGEST_CHARS = 16  # of the digest of a row, as hex digits


@dataclass(frozen=True, slots=True)
class PassFile:
    """The rows of one file that a pass has."""

    file_id: str
    rel: str
    rows: array[int]  # indices within the file, ascending
    digests: str  # digest of the source of each, as hex digits without separators

    def digest(self, position: int) -> bytes:
        """Return the digest of the row at a position in `rows`."""
        start = DIGEST_CHARS * position
        return bytes.fromhex(self.digests[start : start + DIGEST_CHARS])


@dataclass(frozen=True)
class PassRecord:
    """The contents of `pass.json`. The rows of all files are numbered from 0, in the order of the files."""

    number: int  # from 1
    identity: JsonDict  # with which the rows are decoded
    environment: JsonDict  # of the run that began the pass
    statuses: tuple[str, ...]  # by which the rows were selected
    flags: tuple[str, ...]
    files: tuple[PassFile, ...]

    @cached_property
    def identity_sha256(self) -> str:
        return manifest.digest(self.identity)

    @cached_property
    def num_rows(self) -> int:
        return sum(len(file.rows) for file in self.files)

    @cached_property
    def first_rows(self) -> Mapping[str, int]:
        """File id -> number of its first row within the pass."""
        first, firsts = 0, {}
        for file in self.files:
            firsts[file.file_id] = first
            first += len(file.rows)
        return firsts

    @property
    def input(self) -> Input:
        """The virtual file that has the rows of the pass."""
        name = f"pass {self.number}"
        return Input(name, name, "", "text", file_id=FILE_ID)

    @property
    def selection(self) -> str:
        """By what the rows were selected, as on the command line."""
        chosen = [("statuses", self.statuses), ("flags", self.flags)]
        return " ".join(f"{name}=[{','.join(values)}]" for name, values in chosen if values)


def passes_folder(folder: Path) -> Path:
    return manifest.state_folder(folder) / "passes"


def pass_folder(folder: Path, number: int) -> Path:
    """Return the folder of a pass, which is laid out like the output folder of a job that publishes nothing."""
    return passes_folder(folder) / f"p{number:04}"


def state_folder_of(folder: Path, number: int) -> Path:
    """Return the folder of the parts and row records of a pass."""
    return manifest.file_state_folder(pass_folder(folder, number), FILE_ID)


def _record_path(folder: Path, number: int) -> Path:
    return pass_folder(folder, number) / "pass.json"


def create(fs: Fs, folder: Path, record: PassRecord) -> None:
    """Write the record of a new pass durably; what an unreadable earlier one left in its folder is removed first."""
    discard(fs, folder, record.number)
    DurableFolders(fs, folder).ensure(pass_folder(folder, record.number) / ".hymt")
    value: JsonDict = {
        "number": record.number,
        "identity": record.identity,
        "environment": record.environment,
        "statuses": list(record.statuses),
        "flags": list(record.flags),
        "files": [
            {"file_id": file.file_id, "rel": file.rel, "rows": _to_ranges(file.rows), "digests": file.digests}
            for file in record.files
        ],
    }
    write_atomic(fs, _record_path(folder, record.number), manifest.seal_compact(value))


def read(fs: Fs, folder: Path, number: int) -> PassRecord | None:
    """Return the record of a pass; None if there is none.

    Raises:
        StateDamagedError: It is damaged, or this user may not read it.
    """
    try:
        value = manifest.load(fs, _record_path(folder, number))
    except StateMissingError:
        return None
    try:
        files = tuple(
            PassFile(str(file["file_id"]), str(file["rel"]), _from_ranges(file["rows"]), str(file["digests"]))
            for file in value["files"]
        )
        if any(len(file.digests) != DIGEST_CHARS * len(file.rows) for file in files) or value["number"] != number:
            raise ValueError
        return PassRecord(
            number,
            dict(value["identity"]),
            dict(value["environment"]),
            tuple(map(str, value["statuses"])),
            tuple(map(str, value["flags"])),
            files,
        )
    except (KeyError, TypeError, ValueError):
        raise StateDamagedError("it lacks fields that every pass has") from None


def _to_ranges(rows: Sequence[int]) -> list[list[int]]:
    """Return ascending numbers as [first, count] of each run of consecutive ones."""
    ranges: list[list[int]] = []
    for row in rows:
        if ranges and row == sum(ranges[-1]):
            ranges[-1][1] += 1
        else:
            ranges.append([row, 1])
    return ranges


def _from_ranges(ranges: Sequence[Sequence[int]]) -> array[int]:
    rows = array("q")
    for first, num_rows in ranges:
        if num_rows < 1 or (rows and first <= rows[-1]):
            raise ValueError
        rows.extend(range(first, first + num_rows))
    return rows


def discard(fs: Fs, folder: Path, number: int) -> None:
    """Remove a pass that is not part of the job, its record first: without it, the rest counts for nothing."""
    path = pass_folder(folder, number)
    if stat_or_none(fs, path) is None:
        return
    remove(fs, _record_path(folder, number))
    fs.fsync_dir(path)
    remove_tree(fs, path)


def discard_all(fs: Fs, folder: Path) -> None:
    """Remove all passes of a job that starts over."""
    if list_names(fs, path := passes_folder(folder)):
        remove_tree(fs, path)


def finished(fs: Fs, folder: Path, record: PassRecord) -> JobPass | None:
    """Return what a job records of a pass whose rows are all recorded and intact; None if some are missing."""
    store = RecordStore(fs, pass_folder(folder, record.number), record.identity_sha256)
    environments: dict[bytes, JsonDict] = {}
    num_rows, shards = 0, list[int]()
    for index in count():
        loaded = store.load(FILE_ID, index)
        if loaded is None or loaded.shard.first_row != num_rows:
            return None
        shards.append(num_rows)
        num_rows += loaded.shard.num_rows
        for part in loaded.contents.parts:
            for environment in (part.environment, *part.other_environments):
                environments.setdefault(manifest.canonical_json(environment), environment)
        if loaded.shard.last:
            break
    if num_rows != record.num_rows:
        return None
    files = {file.file_id: len(file.rows) for file in record.files}
    listed = tuple(environments[key] for key in sorted(environments))
    return JobPass(record.number, record.identity, record.statuses, record.flags, files, listed, tuple(shards))


def recover(fs: Fs, folder: Path) -> tuple[JobPass, ...]:
    """Return the finished passes of a job whose `job.json` is lost, by what is in their folders.

    They are those of the job of the folder: a job that starts over removes them.
    """
    found: list[JobPass] = []
    for number in count(1):
        job_pass = None
        with contextlib.suppress(StateDamagedError):
            record = read(fs, folder, number)
            if record is not None:
                job_pass = finished(fs, folder, record)
        if job_pass is None:
            return tuple(found)
        found.append(job_pass)
    raise AssertionError("unreachable")


def next_number(job: JobRecord) -> int:
    """Return the number of the pass that is not finished, if there is one, or of the next one."""
    return max((job_pass.number for job_pass in job.passes), default=0) + 1


@dataclass(frozen=True, slots=True)
class PassTable:
    """Where the rows of a finished pass are."""

    record: PassRecord
    store: RecordStore
    shards: Sequence[int]  # number of the first row of each shard

    @classmethod
    def open(cls, fs: Fs, folder: Path, job_pass: JobPass) -> PassTable | None:
        """Open a finished pass; None if its record is lost."""
        record = None
        with contextlib.suppress(StateDamagedError):
            record = read(fs, folder, job_pass.number)
        if record is None or record.identity != job_pass.identity:
            return None
        store = RecordStore(fs, pass_folder(folder, record.number), record.identity_sha256)
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
