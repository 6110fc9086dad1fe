"""The output folder of one job: open it, commit parts, finish files, finalize.

The part format, the commit of a part, the lease and the assembly of a file are in the modules beside this one.
Independent of the model and of how parts are planned.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hymt_batch import file_units, manifest, state_layout
from hymt_batch.errors import DeviceError, ExitCode, HymtError, MissingError, PreflightError, Problem, StoppedError
from hymt_batch.fs import OS_FS, remove
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Input, Part, Shard, ShardRecord
from hymt_batch.storage_error import output_folder_error, wrap_os_errors
from hymt_batch.write import (
    claim,
    cleanup,
    closed_rows,
    input_locations,
    lease,
    manifest_only,
    ownership,
    pass_output,
    passes,
    path_check,
    retired,
    row_selection,
    run_progress,
    shard_plan,
    stop_reason,
    taken_state,
    update_counts,
)
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.changed_inputs import changed_files, describe_changes
from hymt_batch.write.claim import REFUSE_TASKS, TaskRule
from hymt_batch.write.input_changes import input_changed_error
from hymt_batch.write.job_output import JobOutput, OpenedFolder
from hymt_batch.write.lease import DEFAULT_TIMES, Lease, LeaseTimes
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.part import make_shard_record
from hymt_batch.write.pass_output import PassOutput
from hymt_batch.write.passes import PassRecord
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.publisher import Publisher
from hymt_batch.write.row_selection import Criteria, SelectedRows
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.space import check_space
from hymt_batch.write.storage import DurableFolders, check_storage
from hymt_batch.write.summary import Summary, summarize
from hymt_batch.write.update import InputUpdate

log = logging.getLogger(__name__)


class Output(JobOutput):
    """An output folder, leased by this process until the end of the `with` block: commit parts, publish files."""

    def __init__(self, opened: OpenedFolder, held_lease: Lease | None) -> None:
        """Use `open`."""
        check_lease, epoch = (held_lease.check, held_lease.epoch) if held_lease else (_no_lease, 0)
        super().__init__(opened, check_lease, epoch)
        self._check_lease, self._epoch = check_lease, epoch
        fs, folder, job, requested = self._fs, self.folder, self._job, opened.requested
        self.attempts = AttemptMarkers(fs, folder, job.layout)
        self._skipped, self._hash_of, self._changes = requested.skipped, opened.hash_of, opened.changes
        self._lease, self._exited, self._opened_at = held_lease, False, time.monotonic()
        self._publisher = Publisher(fs, folder, job, self._inputs, self._config, self._access, self._store, check_lease)
        self._bare_manifest: JsonDict | None = None  # manifest of a finished job without .hymt state
        self._is_new = job is requested.job  # this run created it: nothing is committed that it did not commit itself
        self._num_assembled_again = 0

    @classmethod
    def open(
        cls,
        folder: Path,
        requested: RequestedJob,
        access: InputAccess,
        config: WriteConfig,
        lease_times: LeaseTimes = DEFAULT_TIMES,
        fs: Fs = OS_FS,
        tasks: TaskRule = REFUSE_TASKS,
    ) -> Output:
        """Check that the folder belongs to this job, take the lease and load what is already committed.

        Nothing is written before the folder's identity is checked.

        Args:
            folder: The requested folder. With fork, the folder in use may be another one: see `self.folder`.
            requested: The job of this run.
            access: How the inputs are read a second time, and how rows are shaped.
            config: How translations are stored.
            lease_times: Times of the lease.
            fs: The file system.
            tasks: What to do about tasks that work on shards of the folder.

        Raises:
            IdentityError: The folder belongs to a job with other settings.
            InputChangedError: Files were added, removed or changed.
            LeaseError: Another process uses the folder.
            PreflightError: The file system cannot hold the output.
        """
        fs = fs.within(folder)
        path_check.check_names(requested.job.inputs, folder)
        held_lease: Lease | None = None
        is_prepared = False
        try:
            folder = _prepare_folder(fs, folder, requested, access)
            is_prepared = True
            if lease_times.ttl_s > 0:
                held_lease = lease.acquire(fs, folder, ttl_s=lease_times.ttl_s, beat_s=lease_times.beat_s)
            if held_lease:
                _tidy(fs, folder, requested, tasks, lease_times)
            taken_state.give_back_all(fs, folder)
            stop_reason.clear(fs, folder)
            check_storage(fs, folder)
            check_lease = held_lease.check if held_lease else _no_lease
            output = cls(_open_job(fs, folder, requested, access, config, check_lease), held_lease)
            output._load_committed()
            output._report_environment(requested.job.environment)
            return output
        except BaseException as error:
            reported_error = error
            if isinstance(error, OSError):
                reported_error = output_folder_error(folder, error, is_prepared=is_prepared)
            if held_lease:
                _give_up(fs, folder, held_lease, error, reported_error)
            if reported_error is not error:
                raise reported_error from error
            raise

    def _load_committed(self) -> None:
        """Find what is published, and check that the rest can be written."""
        fs, folder = self._fs, self.folder
        self._bare_manifest = manifest_only.read_if_complete(fs, folder, self._job, self._inputs, redo=self._redo)
        if self._bare_manifest is not None:
            log.warning("%s: %s", folder.name, manifest_only.STATE_LOST_NOTE)
            return
        self._publisher.load_published(self._closed_rows, redo=self._redo, is_new=self._is_new, hash_of=self._hash_of)
        if open_inputs := self._publisher.unpublished_inputs():
            states = state_layout.file_states(fs, folder)
            check_space(fs, folder, open_inputs, self._config.min_free, states)
            path_check.check_writable(fs, folder, open_inputs, states)
        if not self._publisher.is_finished:
            input_locations.save(fs, folder, self._inputs, self._skipped)

    def _report_environment(self, current: JsonDict) -> None:
        """Log how the environment differs from that of the job's first run, if anything is decoded in it."""
        if not self.is_complete:
            _report_environment(self._job.environment, current)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        orderly = error is None or isinstance(error, HymtError)
        self._exited = True
        if isinstance(error, (Exception, KeyboardInterrupt)):
            self._save_stop_reason(*stop_reason.describe(error))
        self.close(orderly=orderly and not isinstance(error, DeviceError))

    def _save_stop_reason(self, code: ExitCode, problem: Problem) -> None:
        """Write why this run stops, unless another run took over the folder."""
        with contextlib.suppress(StoppedError):
            if self._lease:
                self._lease.check()
            stop_reason.write(self._fs, self.folder, code, problem)

    def save_progress(self, progress: RunProgress, *, only_new_limit: bool = False) -> None:
        """Write how far this run came, for `status`, unless another run took over the folder.

        Args:
            progress: How far it came.
            only_new_limit: Write only if an earlier run recorded another limit of error rows. So a folder that an
                earlier version finished stays as it is.
        """
        if only_new_limit:
            recorded = run_progress.read(self._fs, self.folder)
            if recorded is None or recorded.limits == progress.limits:
                return
        with contextlib.suppress(StoppedError):
            if self._lease:
                self._lease.check()
            run_progress.write(self._fs, self.folder, progress)

    def close(self, *, orderly: bool = True, why: str = "") -> None:
        """Release the lease; everything committed stays.

        Args:
            orderly: Remove this run's attempt markers. False keeps them: a part in progress may have caused the stop.
            why: Why the process is about to exit, if this is called inside the `with` block.
        """
        if not self._exited:
            self._exited = True
            what = why or ("a signal stopped it at once" if orderly else "a step did not end")
            self._save_stop_reason(ExitCode.STOPPED, Problem(what=what))
        if orderly:
            self.attempts.remove_own()
        if self._lease:
            self._lease.release()
            self._lease = None

    @property
    def num_published(self) -> int:
        """Number of files that are published."""
        return len(self._inputs) if self._bare_manifest is not None else len(self._publisher.published)

    @property
    def is_complete(self) -> bool:
        """True if every file is published, so that nothing is left but to finalize."""
        return self._bare_manifest is not None or self._publisher.all_published

    def file_records(self) -> Sequence[JsonDict]:
        """Return the records of all files, which must be published, without their shards."""
        return self._publisher.file_records()

    def assemble_outdated(self) -> None:
        """Assemble the files that have earlier output settings again, from their row records; decodes nothing."""
        if self._bare_manifest is None and (count := self._publisher.assemble_outdated()):
            self._num_assembled_again = count
            log.info("assembled files=%d again with other output settings or a pass: nothing was decoded", count)

    def units(self) -> Iterator[list[Input]]:
        """Yield the files of each unit, in order; see `file_units.group`."""
        return file_units.group(self._inputs, self._job.units)

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """Return the record of a complete shard, so that a run can skip it; None while any of its parts is missing."""
        if self._publisher.is_published(input):
            return self._publisher.shard_record(input, shard_index)
        return None if self._has_nothing_of(input) else self._store.shard_record(input, shard_index)

    def _has_nothing_of(self, input: Input) -> bool:
        """True if nothing of a file can be committed: this run created the job, and no folder for the file."""
        return self._is_new and not self._store.has_made_folder(input)

    def has(self, part: Part) -> bool:
        """True if a part, or a run of a divided row, is committed, intact, and was decoded from exactly these rows.

        Raises:
            InputChangedError: The part was decoded from other rows, and on_input_change refuses changes.
        """
        if not self._publisher.is_published(part.shard.input):
            if self._has_nothing_of(part.shard.input):
                return False
            return super().has(part)
        self._publisher.check_shard(part.shard, redo=self._redo)
        return True

    def finish_shard(self, shard: Shard) -> None:
        """Mark a shard whose parts are all committed as complete; the last shard of a file publishes it. Idempotent."""
        if self._publisher.has_complete_shard(shard.input, shard.index):
            return
        if missing := self._store.missing_parts(shard):
            raise MissingError(
                f"{shard.name} is not complete",
                why=f"its parts {missing} are not committed",
                fix="Run the same command again to translate them.",
            )
        self.finish_skipped_shard(shard.input, make_shard_record(shard))

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        """Do what `finish_shard` does, for a shard that was skipped because `shard_record` returned its record."""
        if self._publisher.is_published(input):
            return
        self._store.finish_shard(input.file_id, record)
        self._publisher.complete_shard(input, record)

    @property
    def is_finished(self) -> bool:
        """True if every file is published, and the manifest describes them."""
        return self._bare_manifest is not None or self._publisher.is_finished

    @property
    def is_bare(self) -> bool:
        """True if the job is complete, but its state is lost."""
        return self._bare_manifest is not None

    def select_rows(self, criteria: Criteria, check_stop: Callable[[], None]) -> SelectedRows:
        """Return the rows of a complete job that a pass decodes again; see `row_selection.select`."""
        publisher = self._publisher
        with wrap_os_errors("the rows of the job"):
            return row_selection.select(
                self._inputs, publisher.record_of, publisher.published_rows, criteria, check_stop
            )

    def read_stopped_pass(self) -> PassRecord | None:
        """Return the pass that was stopped before it became part of the job; see `passes.read_stopped`."""
        return passes.read_stopped(self._fs, self.folder, self._job)

    def create_pass(self, record: PassRecord, *, replaces: bool = False) -> None:
        """Write which rows a new pass has, durably; see `passes.create`."""
        passes.create(self._fs, self.folder, record, self._check_lease, replaces=replaces)

    def open_pass(self, record: PassRecord) -> PassOutput:
        """Open a pass of the job, to commit its rows."""
        with wrap_os_errors(f"pass {record.number}"):
            access, check_lease, epoch = self._access, self._check_lease, self._epoch
            return PassOutput(
                self._fs, self.folder, record, self._job.layout, access, check_lease, epoch, close_job=self.close
            )

    def add_pass(self, record: PassRecord) -> None:
        """Make a pass whose rows are all recorded a part of the job, in one step: `job.json` lists it.

        The files that have rows of it are then assembled again, by this run or, if it is killed, by the next one.

        Raises:
            MissingError: Some rows of the pass are not recorded.
        """
        with wrap_os_errors(f"pass {record.number}"):
            job_pass = passes.finished(self._fs, self.folder, record, self._job.layout)
        if job_pass is None:
            raise MissingError(
                f"pass {record.number} of {self.folder.name} is not complete", fix="Run the same command again."
            )
        with wrap_os_errors("job.json"):
            self._check_lease()
            remove(self._fs, self.folder / "manifest.json")  # first, because it describes the files as they were
            self._fs.fsync_dir(self.folder)
            self._check_lease()  # a run that took over may have written a manifest
            self._job = replace(self._job, passes=(*self._job.passes, job_pass))
            manifest.replace_job(self._fs, self.folder, self._job)
        self._publisher.add_pass(self._job)

    def finalize(self) -> Summary:
        """Write the manifest once every file is published, then remove what is not needed any more.

        Can be repeated after a kill.

        Raises:
            MissingError: A file is not complete; the message lists the missing shards.
        """
        seconds = time.monotonic() - self._opened_at
        if self._bare_manifest is not None:
            return replace(manifest_only.summarize(self.folder, self._bare_manifest, seconds), skipped=self._skipped)
        self._publisher.finish(self._skipped)
        self.attempts.clear()
        stop_reason.clear(self._fs, self.folder)
        claim.clear(self._fs, self.folder)  # of tasks that came late: all that they work on is published
        with contextlib.suppress(HymtError):  # what is left is removed by the next run
            if self._closed_rows.has_any():
                closed_rows.discard(self._fs, self.folder, self._check_lease)
        if self._changes is not None:
            retired.remove_old(self._fs, self.folder, self._config.keep_retired_days)
        for input in self._inputs:  # last, because nothing needs the parts from here on
            if self._config.keep_rows and not self._store.can_have_parts(input):
                continue
            file_state = self._job.layout.file_state(self.folder, input.file_id)
            cleanup.try_remove_rows(self._fs, file_state, keep_records=self._config.keep_rows)
        for job_pass in self._job.passes:
            pass_output.remove_leftovers(self._fs, passes.pass_folder(self.folder, job_pass.number))
            pass_state = passes.state_folder_of(self.folder, job_pass.number)
            cleanup.try_remove_rows(self._fs, pass_state, keep_records=True)
        records = self._publisher.file_records()
        summary = summarize(self.folder, records, seconds, self._store.num_rows_committed)
        counts = None if self._changes is None else update_counts.count(self._changes, records)
        return replace(
            summary, num_files_assembled_again=self._num_assembled_again, skipped=self._skipped, update=counts
        )


def _prepare_folder(fs: Fs, folder: Path, requested: RequestedJob, access: InputAccess) -> Path:
    """Choose the folder of a job, check that nothing blocks its paths, and create the folders inside."""

    def find_changes(candidate: Path, job: JobRecord) -> str:
        wanted = replace(requested.with_identity(job.identity), layout=job.layout)
        return describe_changes(fs, candidate, wanted, access.read_documents)

    path_check.check_state(fs, folder)
    folder = ownership.choose_folder(fs, folder, requested, find_changes)
    path_check.check_state(fs, folder)
    path_check.check_inputs(fs, folder, requested.job.inputs)
    folders = DurableFolders(fs, folder)
    for name in (".hymt/lease", ".hymt/quarantine", "translated"):
        folders.ensure(folder / name)
    return folder


def _tidy(fs: Fs, folder: Path, requested: RequestedJob, tasks: TaskRule, lease_times: LeaseTimes) -> None:
    """Deal with the tasks that work in a folder, and remove what killed processes left; the caller holds the lease.

    Raises:
        LeaseError: Tasks work in the folder, and `tasks` refuses to work beside them.
    """
    tasks.settle(fs, folder, lease_times.ttl_s, lease_times.beat_s)
    if not tasks.ignore:
        cleanup.remove_leftovers(fs, folder, requested.job.inputs)
    if requested.overwrite or requested.accepts_changes:
        shard_plan.discard(fs, folder)  # first, so that no task begins by it


def _open_job(
    fs: Fs,
    folder: Path,
    requested: RequestedJob,
    access: InputAccess,
    config: WriteConfig,
    check_lease: Callable[[], None],
) -> OpenedFolder:
    """Create or open the job of a folder, with the inputs and output settings of this run; the lease is held."""
    update = InputUpdate(fs, folder, requested, config, check_lease)
    job = ownership.create_or_open_job(
        fs,
        folder,
        requested,
        lambda job: _check_change(fs, folder, job, requested, access, config),
        update.begin,
        update.keep_removed,
        check_lease,
    )
    if requested.accepts_changes:
        job = _separate_changed_files(fs, folder, job, requested.job.inputs, access)
    update.close_changed(job)
    return OpenedFolder(folder, job, requested, access, config, fs, update.hash_of, update.changes)


def _check_change(
    fs: Fs, folder: Path, job: JobRecord, requested: RequestedJob, access: InputAccess, config: WriteConfig
) -> None:
    """Check, before a job gets other output settings, that its files can be assembled again.

    Raises:
        InputChangedError: An input changed since it was decoded.
        PreflightError: There is not enough space, or a permission is missing.
    """
    inputs = requested.job.inputs
    if not requested.accepts_changes and (
        changed := describe_changes(fs, folder, replace(job, inputs=inputs), access.read_documents)
    ):
        raise input_changed_error(changed)
    states = state_layout.file_states(fs, folder)
    check_space(fs, folder, inputs, config.min_free, states)
    path_check.check_writable(fs, folder, inputs, states)


def _separate_changed_files(
    fs: Fs, folder: Path, job: JobRecord, inputs: Sequence[Input], access: InputAccess
) -> JobRecord:
    """Make each changed file a unit of its own, durably and before anything that was decoded of it is replaced.

    So its unit is not decoded again, and after a kill the next run decodes the same units.
    """
    shared = [input for unit in file_units.group(inputs, job.units) if len(unit) > 1 for input in unit]
    if not (changed := changed_files(fs, folder, job, shared, access.read_documents) if shared else set()):
        return job
    job = replace(job, units=file_units.regroup(inputs, job.inputs, job.units, job.identity, changed))
    manifest.replace_job(fs, folder, job)
    return job


def _give_up(fs: Fs, folder: Path, held_lease: Lease, error: BaseException, reported_error: BaseException) -> None:
    """Write why a run cannot use its folder, and release the lease.

    Raises:
        StoppedError: Another process took over the folder, which is the reason for a storage error of this one.
    """
    try:
        if isinstance(error, (OSError, PreflightError)):
            held_lease.check()
        if isinstance(error, Exception):
            stop_reason.write(fs, folder, *stop_reason.describe(reported_error))
    finally:
        held_lease.release()


def _no_lease() -> None:
    """Check nothing: leases are disabled."""


def _report_environment(recorded: JsonDict, current: JsonDict) -> None:
    """Log how the environment differs from that of the job's first run."""
    differences = manifest.diff(recorded, current)
    # keys that an earlier version did not record are new, not changed
    if newly_recorded := [difference for difference in differences if difference[1] is manifest.MISSING]:
        log.info("environment now also records:\n%s", manifest.format_diff(newly_recorded))
    if changed := [difference for difference in differences if difference[1] is not manifest.MISSING]:
        log.warning("environment differs from the job's first run:\n%s", manifest.format_diff(changed))
