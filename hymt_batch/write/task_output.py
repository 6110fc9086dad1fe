"""One task of a prepared job: it commits the parts of its units, and publishes, sweeps and surveys nothing.

A task takes a claim on each unit before it begins it, in place of the folder's lease. When all parts of a shard are
committed, it makes the row record of the shard, which replaces them. Independent of what a unit is translated with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import DeviceError, HymtError, IdentityError, InputChangedError, LeaseError, MissingError
from hymt_batch.fs import OS_FS
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Input, Prompt, Shard, ShardRecord
from hymt_batch.shard import format_units
from hymt_batch.storage_error import output_folder_error, wrap_os_errors
from hymt_batch.write import file_record, ownership, path_check
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.claim import Claims
from hymt_batch.write.closed_rows import NOTHING_KNOWN, KnownRows
from hymt_batch.write.job_output import JobOutput, OpenedFolder
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.part import make_shard_record
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.shard_plan import PlannedFile, PlannedUnit, ShardPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """What one task translates."""

    plan: ShardPlan  # of the folder
    units: Sequence[int]  # indices, in order
    lease_times: LeaseTimes  # of the claims


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """What a task did."""

    folder: Path
    units: Sequence[int]  # those that it was asked for; all are complete
    num_units: int  # of the plan
    num_rows_decoded: int  # texts committed by this run


class TaskOutput(JobOutput):
    """The units of one task, claimed by this process until the end of the `with` block."""

    def __init__(self, opened: OpenedFolder, task: Task) -> None:
        """Use `open`."""
        fs, folder = opened.fs, opened.path
        self.claims = Claims(fs, folder, task.plan.layout, task.lease_times.ttl_s, task.lease_times.beat_s)
        super().__init__(opened, self.claims.check)
        self._task = task
        self._open_units = [task.plan.unit(index) for index in task.units]  # not known to be complete
        self._unit_of: dict[tuple[str, int], int] = {}  # (file_id, shard index) -> unit, of what is decoded
        self._shards_left: dict[int, set[tuple[str, int]]] = {}  # unit -> its shards without a record
        own = {(file.input.file_id, shard.index) for unit in self._open_units for file, shard in unit.shards()}
        self.attempts = AttemptMarkers(fs, folder, opened.job.layout, own)

    def find_known(self, shard: Shard, prompts: Sequence[Prompt]) -> KnownRows:
        """See `JobOutput.find_known`. An update records that it began: only then is the folder of all files listed."""
        if self._job.changes is None and not self._job.earlier:
            return NOTHING_KNOWN
        return super().find_known(shard, prompts)

    @classmethod
    def open(
        cls,
        folder: Path,
        requested: RequestedJob,
        access: InputAccess,
        config: WriteConfig,
        task: Task,
        fs: Fs = OS_FS,
    ) -> TaskOutput:
        """Check that the folder was prepared for this job, and find which units are complete; claims nothing yet.

        Args:
            folder: The folder of the job.
            requested: The job of this run.
            access, config: See `Output.open`.
            task: What this task translates.
            fs: The file system.

        Raises:
            IdentityError: The folder was prepared for a job with other settings.
            InputChangedError: The list of inputs is another one.
        """
        fs = fs.within(folder)
        try:
            path_check.check_state(fs, folder)
            job, changed = ownership.inspect_folder(fs, folder, requested)
            if changed is not None:
                raise changed
            if job is None or job.identity_sha256 != task.plan.identity_sha256:
                raise IdentityError(
                    f"the plan of {folder} is not that of the job in it",
                    fix="Run `hymt-batch prepare` again: what is translated is kept.",
                )
            output = cls(OpenedFolder(folder, job, requested, access, config, fs), task)
            output._open_units = [unit for unit in output._open_units if not output._finish_if_committed(unit)]
            return output
        except OSError as error:
            raise output_folder_error(folder, error, is_prepared=True) from error

    def __enter__(self) -> TaskOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        orderly = error is None or isinstance(error, HymtError)
        self.close(orderly=orderly and not isinstance(error, DeviceError))

    def close(self, *, orderly: bool = True, why: str = "") -> None:
        """Release the claims; see `JobOutput.close`."""
        if orderly:
            self.attempts.remove_own()
        self.claims.release_all()

    @property
    def is_complete(self) -> bool:
        return not self._open_units

    def begin_units(self) -> Iterator[PlannedUnit]:
        """Claim the units that are not complete one after the other, and yield those on which no other task works."""
        for unit in list(self._open_units):
            with wrap_os_errors(f"the claim on shard {unit.index}"):
                is_ours = self.claims.take(unit.index)
            if not is_ours:
                holder = self.claims.others[unit.index]
                log.warning("shard %d: process %d on %s works on it", unit.index, holder.pid, holder.host)
                continue
            with wrap_os_errors(f"the state of shard {unit.index}"):
                is_done = self._finish_if_committed(unit)  # by another task, until now
            if is_done:
                self._end(unit.index)
                continue
            shards = [(file.input.file_id, shard.index) for file, shard in unit.shards()]
            self._shards_left[unit.index] = set(shards)
            self._unit_of |= dict.fromkeys(shards, unit.index)
            yield unit

    def check_shard(self, unit: PlannedUnit, file: PlannedFile, record: ShardRecord, shard: Shard | None) -> Shard:
        """Return a shard that was read, if it has the bytes that the plan has.

        Raises:
            InputChangedError: It has others.
        """
        if shard is not None and make_shard_record(shard) == record:
            return shard
        raise InputChangedError(
            f"{file.input.rel} changed since the job was prepared: shard {record.index} of the file (shard "
            f"{unit.index} of the plan) has other bytes",
            fix="Restore the file, or prepare the job again with overwrite=true or under another name.",
        )

    def _finish_if_committed(self, unit: PlannedUnit) -> bool:
        """Return whether a unit is complete; makes the records of shards whose parts are all committed."""
        return all(
            self.finish_if_committed(file.input, record) or self._is_published(file.input)
            for file, record in unit.shards()
        )

    def _is_published(self, input: Input) -> bool:
        record = file_record.read_record(self._fs, self.folder, input, self._job.layout)
        return record is not None and record["identity"] == self._job.identity_sha256

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        raise AssertionError("a task reads no shard that is complete")

    def finish_shard(self, shard: Shard) -> None:
        """Make the row record of a shard; with the last shard of a unit, release its claim."""
        key = (shard.input.file_id, shard.index)
        unit = self._unit_of.get(key)
        if unit is None or key not in self._shards_left.get(unit, ()):
            return
        self._store.finish_shard(shard.input.file_id, make_shard_record(shard))
        self._shards_left[unit].discard(key)
        if not self._shards_left[unit]:
            self._end(unit)

    def _end(self, unit: int) -> None:
        self._open_units = [other for other in self._open_units if other.index != unit]
        self._shards_left.pop(unit, None)
        self.claims.release(unit)

    def summarize(self) -> TaskSummary:
        """Return what this task did.

        Raises:
            LeaseError: Other tasks work on some of its units.
            MissingError: A unit is not complete.
        """
        left = [unit.index for unit in self._open_units]
        held = [unit for unit in left if unit in self.claims.others]
        if held:
            holder = self.claims.others[held[0]]
            raise LeaseError(
                f"other tasks work on the shards {format_units(held, 20)} of {self.folder}, such as process "
                f"{holder.pid} on {holder.host}, since {holder.since}",
                why="both would do the same work",
                fix="Wait for them; `hymt-batch missing` shows what is left then.",
            )
        if left:
            raise MissingError(
                f"the shards {format_units(left, 20)} of {self.folder} are not complete",
                fix="Run the same command again to translate them.",
            )
        return TaskSummary(self.folder, self._task.units, self._task.plan.num_units, self._store.num_rows_committed)
