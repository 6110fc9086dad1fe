"""The passes of a job: rows of a finished job that are decoded again, each pass in a folder of its own.

`.hymt/passes/p<number>/pass.json` says which rows a pass has and with which identity they are decoded. It is written
once, before anything is decoded, and never changes. The rows form one virtual file (`FILE_ID`), whose parts and row
records lie beside it as those of a job do. A pass whose rows are all recorded becomes part of the job when `job.json`
lists it; what is not listed there has no effect on the published files. Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.fs import has_content, list_names, read_twice, remove_tree
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import (
    JobPass,
    JobRecord,
    JsonDict,
    StateDamagedError,
    StateMissingError,
    StateUnreadableError,
)
from hymt_batch.records import Input
from hymt_batch.state_layout import FLAT, StateLayout
from hymt_batch.storage_error import wrap_os_errors, write_error
from hymt_batch.write import taken_state
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.storage import DurableFolders
from hymt_batch.write.taken_state import record_path

log = logging.getLogger(__name__)

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
    return FLAT.file_state(pass_folder(folder, number), FILE_ID)


def create(
    fs: Fs, folder: Path, record: PassRecord, check_lease: Callable[[], None], *, replaces: bool = False
) -> None:
    """Write the record of a new pass durably.

    Args:
        fs: The file system.
        folder: The output folder of the job.
        record: The pass.
        check_lease: Raises if this process must not write any more.
        replaces: An intact pass of this number, which is not finished, is removed first, as a damaged one always is.

    Raises:
        StoppedError: Another run has begun a pass of this number meanwhile, or the file system failed.
    """
    path = pass_folder(folder, record.number)
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
    data = manifest.seal_compact(value)
    with wrap_os_errors(f"pass {record.number}"):
        earlier = taken_state.record_bytes(fs, path)
        check_lease()
        if earlier == data and not replaces:
            return  # without leases, two runs of one command begin the same pass
        if earlier or list_names(fs, manifest.state_folder(path)):
            is_other = not replaces and read_if_intact(fs, folder, record.number) is not None
            taken = None if is_other else taken_state.take(fs, path, earlier)
            if taken is None:
                check_lease()  # it says who took over the folder
                raise taken_state.taken_over_error(f"pass {record.number}")
            taken_state.remove(fs, taken)
        DurableFolders(fs, folder).ensure(path)
        if not files.create(fs, record_path(path), data) and not has_content(fs, record_path(path), data):
            check_lease()
            raise taken_state.taken_over_error(f"pass {record.number}")


def read(fs: Fs, folder: Path, number: int) -> PassRecord | None:
    """Return the record of a pass; None if there is none.

    Raises:
        StateDamagedError: It is damaged.
        StateUnreadableError: It cannot be read. It may be intact.
    """
    value = read_twice(lambda: _load(fs, record_path(pass_folder(folder, number))))
    if value is None:
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


def read_stopped(fs: Fs, folder: Path, job: JobRecord) -> PassRecord | None:
    """Return the pass that was stopped; None if there is none, or if its record is damaged.

    Raises:
        HymtError: Its record cannot be read. It may be intact.
    """
    number = next_number(job)
    try:
        return read(fs, folder, number)
    except StateUnreadableError as unreadable:
        raise write_error(f"pass {number}", unreadable.cause) from None
    except StateDamagedError as damage:
        log.warning("pass %d: its record is damaged (%s): its rows are selected again", number, damage)
        return None


def read_if_intact(fs: Fs, folder: Path, number: int) -> PassRecord | None:
    """Return the record of a pass; None if it is missing or damaged.

    Raises:
        OSError: It cannot be read. It may be intact.
    """
    try:
        return read(fs, folder, number)
    except StateUnreadableError as error:
        raise error.cause from None
    except StateDamagedError:
        return None


def _load(fs: Fs, path: Path) -> JsonDict | None:
    try:
        return manifest.load(fs, path)
    except StateMissingError:
        return None


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


def discard_all(fs: Fs, folder: Path) -> None:
    """Remove all passes of a job that starts over."""
    if list_names(fs, path := passes_folder(folder)):
        remove_tree(fs, path)


def finished(fs: Fs, folder: Path, record: PassRecord, layout: StateLayout) -> JobPass | None:
    """Return what a job of this layout records of a pass whose rows are all recorded; None if some are missing."""
    store = RecordStore(fs, pass_folder(folder, record.number), record.identity_sha256, layout.of_pass)
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


def recover(fs: Fs, folder: Path, layout: StateLayout) -> tuple[JobPass, ...]:
    """Return the finished passes of a job whose `job.json` is lost, by what is in their folders.

    They are those of the job of the folder: a job that starts over removes them.

    Raises:
        OSError: A record cannot be read. It may be intact.
    """
    found: list[JobPass] = []
    for number in count(1):
        record = read_if_intact(fs, folder, number)
        job_pass = None if record is None else finished(fs, folder, record, layout)
        if job_pass is None:
            return tuple(found)
        found.append(job_pass)
    raise AssertionError("unreachable")


def next_number(job: JobRecord) -> int:
    """Return the number of the pass that is not finished, if there is one, or of the next one."""
    return max((job_pass.number for job_pass in job.passes), default=0) + 1
