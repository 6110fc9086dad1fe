"""The plan of a prepared job, `.hymt/plan.json`: its inputs with their checksums, and where each of its shards lies.

It is written once, under the lease, and never changes; tasks and the merge only read it. What is handed out is a unit:
a shard of a file, or a run of small files that are decoded together. Independent of who translates which unit.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from hymt_batch import file_units, manifest
from hymt_batch.errors import IdentityError, InputChangedError, PreflightError, UsageError
from hymt_batch.fs import remove, stat_or_none, write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, StateDamagedError, StateMissingError, StatePermissionError
from hymt_batch.records import Input, ShardRecord, SkippedFile, plural
from hymt_batch.state_layout import FLAT, StateLayout
from hymt_batch.write.shard_table import ShardTable

log = logging.getLogger(__name__)

NOT_PREPARED_WHY = "tasks and the merge work by its plan, which `hymt-batch prepare` writes"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of a prepared job."""

    input: Input
    num_bytes: int  # on the disk
    sha256: str  # of these bytes
    max_rows: int | None  # its rows that are within source.limit; None without a limit
    shards: ShardTable
    can_seek: bool  # a task can read a shard without what comes before it

    def shard_record(self, index: int) -> ShardRecord:
        """Return the record of a shard, which must exist."""
        record = self.shards.get(index)
        assert record is not None
        return record


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """What one claim is for: one shard of a file, or all shards of files that are decoded together."""

    index: int  # from 0 within the plan
    files: Sequence[PlannedFile]
    shard_index: int | None  # None: all shards of all files

    def shards(self) -> Iterator[tuple[PlannedFile, ShardRecord]]:
        """Yield the shards of the unit, in order."""
        for file in self.files:
            record = None if self.shard_index is None else file.shards.get(self.shard_index)
            yield from [(file, record)] if record is not None else ((file, shard) for shard in file.shards)

    @property
    def name(self) -> str:
        """What messages call it."""
        first = self.files[0].input.rel
        if self.shard_index is not None:
            return f"{first} shard {self.shard_index}"
        return first if len(self.files) == 1 else f"{first} to {self.files[-1].input.rel}"


@dataclass(frozen=True)
class ShardPlan:
    """The contents of `plan.json`."""

    identity_sha256: str  # of the job
    files: Sequence[PlannedFile]
    first_files: Sequence[str]  # first file of each unit; see `file_units.group`
    devices: Mapping[str, Any]  # for which `auto` was resolved: "device", "dtype", and "simulated" as it was set
    settings: JsonDict  # of the job, nested as in its dataclasses
    formats: Sequence[str] = ()
    skipped: Sequence[SkippedFile] = ()
    layout: StateLayout = FLAT  # of the job

    @cached_property
    def _groups(self) -> list[tuple[PlannedFile, ...]]:
        by_id = {file.input.file_id: file for file in self.files}
        groups = file_units.group([file.input for file in self.files], self.first_files)
        return [tuple(by_id[input.file_id] for input in group) for group in groups]

    @cached_property
    def _ends(self) -> list[int]:
        """For each group, the number of units up to its end."""
        return list(accumulate(1 if len(group) > 1 else group[0].shards.end for group in self._groups))

    @property
    def num_units(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def num_rows(self) -> int:
        return sum(record.num_rows for file in self.files for record in file.shards)

    def unit(self, index: int) -> PlannedUnit:
        """Return the unit with an index from 0 to `num_units` - 1."""
        position = bisect_right(self._ends, index)
        group = self._groups[position]
        first = self._ends[position - 1] if position else 0
        return PlannedUnit(index, group, None if len(group) > 1 else index - first)

    def units(self) -> Iterator[PlannedUnit]:
        """Yield all units in order."""
        return map(self.unit, range(self.num_units))

    def with_inputs(self, inputs: Sequence[Input]) -> ShardPlan:
        """Return the plan with these files, which are found elsewhere now, or are others."""
        found = {input.rel: input for input in inputs}
        if len(found) != len(self.files) or any(file.input.rel not in found for file in self.files):
            raise InputChangedError(
                "source.path names other files than those for which the job was prepared",
                why=f"the plan has {plural(len(self.files), 'file')}, such as {self.files[0].input.rel}"
                if self.files
                else "the plan has no file",
                fix="Start all tasks with the settings of `hymt-batch prepare`.",
            )
        # the size decides the units, so it stays
        files = [replace(file, input=replace(found[file.input.rel], size=file.input.size)) for file in self.files]
        return replace(self, files=files)

    @property
    def contents(self) -> JsonDict:
        """What decides whether two plans are the same: the job, its files, and their cuts."""
        return {key: value for key, value in _to_json(self).items() if key in ("identity_sha256", "files", "units")}

    @property
    def last_max_rows(self) -> int | None:
        """Rows of the last file that are within source.limit."""
        return self.files[-1].max_rows if self.files else None


def plan_path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "plan.json"


def write(fs: Fs, folder: Path, plan: ShardPlan) -> None:
    """Write the plan durably; the caller holds the lease."""
    write_atomic(fs, plan_path(folder), manifest.seal_compact(_to_json(plan)))


def discard(fs: Fs, folder: Path) -> None:
    """Remove the plan durably, if there is one, because the job no longer follows it; the caller holds the lease."""
    if stat_or_none(fs, plan_path(folder)) is not None:
        remove(fs, plan_path(folder))
        fs.fsync_dir(plan_path(folder).parent)


def read_if_any(fs: Fs, folder: Path) -> ShardPlan | None:
    """Return the plan of a folder; None if it has none.

    Raises:
        IdentityError: It is damaged, or was written by a newer version.
        PreflightError: This user may not read it.
    """
    try:
        return _from_json(manifest.load(fs, plan_path(folder)))
    except StateMissingError:
        return None
    except StatePermissionError as denied:
        raise PreflightError(
            f"{plan_path(folder)}: {denied}", fix="Give your user access to it (chmod, chown)."
        ) from None
    except (StateDamagedError, KeyError, TypeError, ValueError) as damage:
        raise IdentityError(
            f"the plan {plan_path(folder)} cannot be used",
            why=str(damage) or "it lacks fields that every plan has",
            fix="Remove it and run `hymt-batch prepare` again: what is translated is kept.",
        ) from None


def read(fs: Fs, folder: Path) -> ShardPlan:
    """Return the plan of a prepared folder.

    Raises:
        UsageError: The folder was not prepared.
        IdentityError, PreflightError: See `read_if_any`.
    """
    plan = read_if_any(fs, folder)
    if plan is None:
        raise UsageError(
            f"{folder} was not prepared",
            why=NOT_PREPARED_WHY,
            fix=f"Run hymt-batch prepare with the settings of the job and name={folder.name} first.",
        )
    return plan


def _to_json(plan: ShardPlan) -> JsonDict:
    return {
        "identity_sha256": plan.identity_sha256,
        "files": [
            {
                "input": asdict(file.input),
                "bytes": file.num_bytes,
                "sha256": file.sha256,
                "max_rows": file.max_rows,
                "shards": file.shards.pack(),
                "can_seek": file.can_seek,
            }
            for file in plan.files
        ],
        "units": list(plan.first_files),
        "devices": dict(plan.devices),
        "settings": plan.settings,
        "formats": list(plan.formats),
        "skipped": [asdict(file) for file in plan.skipped],
    } | ({"layout": asdict(plan.layout)} if plan.layout != FLAT else {})


def _from_json(value: JsonDict) -> ShardPlan:
    files = [
        PlannedFile(
            Input(**file["input"]),
            int(file["bytes"]),
            str(file["sha256"]),
            file["max_rows"],
            ShardTable.unpack(file["shards"]),
            bool(file["can_seek"]),
        )
        for file in value["files"]
    ]
    return ShardPlan(
        str(value["identity_sha256"]),
        files,
        tuple(map(str, value["units"])),
        dict(value["devices"]),
        dict(value["settings"]),
        tuple(map(str, value["formats"])),
        manifest.skipped_in(value),
        manifest.read_layout(value),
    )
