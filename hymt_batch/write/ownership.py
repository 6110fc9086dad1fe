"""Which job an output folder belongs to: choose a job's folder, check its identity, recover a lost `job.json`.

`choose_folder` only reads: nothing is written before the identity is checked. `create_or_open_job` runs under the
lease. A folder keeps the identity it was created with. If an earlier version created it, its identity is upgraded
before it is compared with the requested one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from hymt_batch import file_units, manifest, state_layout
from hymt_batch.errors import IdentityError, InputChangedError, PreflightError
from hymt_batch.fs import list_names, remove, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import (
    JobRecord,
    JsonDict,
    StateDamagedError,
    StateMissingError,
    StatePermissionError,
    StateVersionError,
)
from hymt_batch.records import SkippedFile
from hymt_batch.write import adopted_identity, identity_versions, input_list, output_settings, passes, row_record
from hymt_batch.write import part as parts
from hymt_batch.write.changed_inputs import inputs_differ_error
from hymt_batch.write.cleanup import wipe
from hymt_batch.write.input_changes import input_changed_error
from hymt_batch.write.state_file import StateFileDamagedError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestedJob:
    """The job that a run asks for, and what to do if the folder holds another one."""

    job: JobRecord  # with the paths of its inputs
    auto_keys: frozenset[str] = frozenset()  # keys of the identity whose values are fixed when a folder is created
    aliases: tuple[JsonDict, ...] = ()  # other identities with which this same job may have been created
    overwrite: bool = False  # start over, whatever the folder holds
    on_mismatch: str = "refuse"  # or "keep" or "fork"
    on_input_change: str = "refuse"  # or "redo", "update" or "fork"
    skipped: tuple[SkippedFile, ...] = ()  # files that were found beside the inputs and are not read
    model_names: Mapping[str, str] = field(default_factory=dict)  # sha256 of a model's file -> what messages call it

    @property
    def accepts_changes(self) -> bool:
        """True if changed inputs are translated again in this folder."""
        return self.on_input_change in ("redo", "update")

    def with_identity_sha256(self, identity_sha256: str) -> JobRecord | None:
        """Return the requested job with the identity of this digest; None if no version gives the job that identity."""
        current, settings = (self.job.identity, *self.aliases), self.job.output_settings
        earlier = (identity_versions.earlier_identities(identity, settings) for identity in current)
        for identity in chain(current, chain.from_iterable(earlier)):
            if manifest.digest(identity) == identity_sha256:
                return self.with_identity(identity)
        return None

    def with_identity(self, identity: JsonDict) -> JobRecord:
        """Return the requested job with another identity, which may be of an earlier version."""
        job = replace(self.job, identity=identity, units=file_units.plan(self.job.inputs, identity))
        if identity_versions.has_output_settings(identity):
            return replace(job, output_settings={})
        return job


def choose_folder(
    fs: Fs,
    folder: Path,
    requested: RequestedJob,
    describe_changes: Callable[[Path, JobRecord], str],
) -> Path:
    """Return the folder this job may use: the requested one, or with fork the first of NAME-2, NAME-3... that fits.

    Args:
        fs: The file system.
        folder: The requested folder.
        requested: The job of this run.
        describe_changes: Returns which rows changed since a folder's job was created, or "". Called only with fork,
            because it reads the whole input.

    Raises:
        IdentityError: The folder belongs to another job.
        InputChangedError: The list of inputs differs.
    """
    if requested.overwrite:
        return folder
    suffix, candidate = 1, folder
    while True:
        job: JobRecord | None = None
        try:
            job, changed = inspect_folder(fs, candidate, requested)
            problem: Exception | None = changed
        except IdentityError as error:
            if requested.on_mismatch != "fork":
                raise
            problem = error
        if isinstance(problem, InputChangedError):
            if requested.on_input_change == "refuse":
                raise problem
            problem = None if requested.accepts_changes else problem
        if (
            problem is None
            and job
            and requested.on_input_change == "fork"
            and (change := describe_changes(candidate, job))
        ):
            log.warning("fork from=%s changed=%r", candidate.name, change)
            problem = input_changed_error(change)
        if problem is None:
            return candidate
        suffix += 1
        candidate = folder.with_name(f"{folder.name}-{suffix}")


def inspect_folder(fs: Fs, folder: Path, requested: RequestedJob) -> tuple[JobRecord | None, InputChangedError | None]:
    """Return the job of a folder, and an error that describes how its inputs differ from the requested ones.

    Returns:
        The job, None if the folder has none yet; the error for the caller to raise or handle, None if the inputs agree.

    Raises:
        IdentityError: It is another job, or the job cannot be determined.
    """
    job = read_or_recover_job(fs, folder, requested)
    if job is None:
        existing = []
        if stat_or_none(fs, manifest.translated_path(folder, "")):
            existing = [
                input.out_rel
                for input in requested.job.inputs
                if stat_or_none(fs, manifest.translated_path(folder, input.out_rel))
            ]
        if not existing:
            return None, None
        job = read_or_recover_job(fs, folder, requested)  # another process may have started and published since
        if job is None:
            raise IdentityError(
                f"{folder} already holds translated/{existing[0]}, but nothing there shows which job wrote it",
                fix=_suggested_fixes(folder),
            )
    if (version := identity_versions.version_of(job.identity)) > identity_versions.VERSION:
        raise IdentityError(
            f"{folder} belongs to a job of a newer hymt-batch: its identity has version {version}, and this "
            f"hymt-batch reads versions up to {identity_versions.VERSION}",
            fix="Install the newer hymt-batch again, or set name=ANOTHER for a second job.",
        )
    differences = identity_versions.differences(job.identity, requested.job.identity, requested.auto_keys)
    reason = "one output never mixes settings"
    if differences and requested.on_mismatch == "keep":
        reason = adopted_identity.reason_against(fs, folder, job)
    if differences and reason:
        raise IdentityError(
            f"{folder} belongs to a job with other settings, and {reason}:\n"
            f"{manifest.format_diff(differences)}{identity_versions.name_models(differences, requested.model_names)}",
            fix=_suggested_fixes(folder, can_keep=not adopted_identity.reason_against(fs, folder, job)),
        )
    if changed := output_settings.differences(job, requested.job):
        if reason := output_settings.reason_against_change(fs, folder, job, requested.job):
            raise IdentityError(
                f"{folder} belongs to a job with other output settings:\n{manifest.format_diff(changed)}\n"
                f"Its files cannot be assembled again with these: {reason}.",
                fix=_suggested_fixes(folder),
            )
        job = output_settings.with_paths_of(job, requested.job)
    return job, inputs_differ_error(job, requested.job)


def read_or_recover_job(fs: Fs, folder: Path, requested: RequestedJob) -> JobRecord | None:
    """Return the folder's job; if `job.json` is damaged or missing, the job that all other records agree on.

    Returns:
        None if the folder has no record of any job.

    Raises:
        IdentityError: The records belong to another job, or to several.
        PreflightError: You may not read `job.json`.
    """
    try:
        return manifest.read_job(fs, folder)
    except StatePermissionError as denied:
        raise PreflightError(
            f"cannot determine which job {folder} belongs to: .hymt/job.json: {denied}",
            fix="Give your user access to it (chmod, chown), or set name=ANOTHER for a second job.",
        ) from None
    except StateDamagedError as damage:
        identities = dict(_recorded_identities(fs, folder))
        if not identities and not isinstance(damage, StateVersionError):
            return None
        job = None
        if len(identities) == 1 and not isinstance(damage, StateVersionError):
            ((identity_sha256, identity),) = identities.items()
            job = (
                requested.with_identity_sha256(identity_sha256)
                if identity is None
                else requested.with_identity(identity)
            )
        if job is not None and job.output_settings:
            with contextlib.suppress(StateDamagedError):
                job = replace(job, output_settings=manifest.read(fs, folder).get("output_settings") or {})
        if job is None:
            raise IdentityError(
                f"cannot determine which job {folder} belongs to: .hymt/job.json: {damage}, and the other records in "
                f"the folder were written with other settings",
                fix=_suggested_fixes(folder),
            ) from None
        layout = state_layout.find(fs, folder, job.layout)
        return replace(job, layout=layout, passes=passes.recover(fs, folder, layout))


def _recorded_identities(fs: Fs, folder: Path) -> Iterator[tuple[str, JsonDict | None]]:
    """Yield the identity digest in each record except `job.json`, with the identity itself if it is known."""
    identities: dict[str, JsonDict] = {}
    with contextlib.suppress(StateDamagedError, ValueError):
        value = manifest.read(fs, folder)
        identity, key = value["identity"], str(value["identity_sha256"])
        if isinstance(identity, dict) and manifest.digest(identity) == key:
            identities[key] = identity
        yield key, identities.get(key)
    for file_state in state_layout.file_states(fs, folder):
        with contextlib.suppress(StateDamagedError, KeyError):
            key = str(manifest.load(fs, file_state / "file.json")["identity"])
            yield key, identities.get(key)
        for shard in state_layout.shard_entries(fs, file_state):
            if row_record.RECORD_NAME.fullmatch(shard.name):
                with contextlib.suppress(OSError, StateFileDamagedError):
                    key = row_record.read_header(fs, shard).identity
                    yield key, identities.get(key)
                continue
            for name in list_names(fs, shard):
                if parts.PART_NAME.fullmatch(name):
                    with contextlib.suppress(OSError, StateFileDamagedError):
                        key = parts.read_header(fs, shard / name).identity
                        yield key, identities.get(key)


def _suggested_fixes(folder: Path, *, can_keep: bool = False) -> str:
    keep = ", or on_mismatch=keep on_input_change=update to keep what is translated" if can_keep else ""
    return (
        f"Set name=ANOTHER for a second job, or overwrite=true to start over in {folder.name}, or on_mismatch=fork to "
        f"work in {folder.name}-2{keep}."
    )


def create_or_open_job(
    fs: Fs,
    folder: Path,
    requested: RequestedJob,
    check_change: Callable[[JobRecord], None],
    begin_update: Callable[[JobRecord], JobRecord],
    keep_removed: Callable[[str], None] | None,
    check_lease: Callable[[], None],
) -> JobRecord:
    """Create the folder's `job.json`, or open it if it exists; with `overwrite`, wipe the folder first.

    If only the output settings differ, the job takes the requested ones; its files are then assembled again.
    `check_change` is called before that; it raises if the files of the job could not be assembled again. `begin_update`
    is called before anything changes; it records what is about to change, and returns the job as it is then.
    `keep_removed` is called with each output that is removed, because its input is gone; None to keep none.

    Called under the lease.

    Raises:
        IdentityError: Another process has just created a different job here.
        InputChangedError: The list of inputs differs, and on_input_change is neither "redo" nor "update".
    """
    if requested.overwrite:
        wipe(fs, folder, requested.job.inputs, check_lease)
    while True:
        existing_job, problem = inspect_folder(fs, folder, requested)
        if problem is not None and not requested.accepts_changes:
            raise problem
        try:
            job = manifest.read_job(fs, folder)
        except StateDamagedError as damage:
            if existing_job is not None:
                log.warning("job_json damage=%r: rebuilt, as all records in the folder belong to this job", str(damage))
            if not isinstance(damage, StateMissingError):
                remove(fs, manifest.state_folder(folder) / "job.json")
            job = existing_job or requested.job
            if manifest.create_job(fs, folder, job) and existing_job is None:
                return job
            continue
        job = begin_update(job)
        if output_settings.differences(job, requested.job):
            check_change(job)
            job = output_settings.change(fs, folder, job, requested.job)
        if problem is None:
            return job
        return input_list.take_inputs(fs, folder, job, requested.job, keep_removed, check_lease)
