"""Which job an output folder belongs to: choose a job's folder, check its identity, recover a lost `job.json`.

`choose_folder` only reads: nothing is written before the identity is checked. `create_or_open_job` runs under the
lease. A folder keeps the identity it was created with. If an earlier version created it, its identity is upgraded
before it is compared with the requested one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import IdentityError, InputChangedError, PreflightError
from hymt_batch.fs import Fs, list_names, remove, stat_or_none
from hymt_batch.manifest import (
    JobRecord,
    JsonDict,
    StateDamagedError,
    StateMissingError,
    StatePermissionError,
    StateVersionError,
)
from hymt_batch.records import Input
from hymt_batch.write import identity_versions
from hymt_batch.write import part as parts
from hymt_batch.write.cleanup import discard_inputs, file_state_folders, read_part_header, wipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestedJob:
    """The job that a run asks for."""

    job: JobRecord
    auto_keys: frozenset[str] = frozenset()  # keys of the identity whose values are fixed when a folder is created
    aliases: tuple[JsonDict, ...] = ()  # other identities with which this same job may have been created

    def with_identity_sha256(self, identity_sha256: str) -> JobRecord | None:
        """Return the requested job with the identity of this digest; None if no version gives the job that identity."""
        current = (self.job.identity, *self.aliases)
        for identity in chain(current, chain.from_iterable(map(identity_versions.earlier_identities, current))):
            if manifest.digest(identity) == identity_sha256:
                return self.with_identity(identity)
        return None

    def with_identity(self, identity: JsonDict) -> JobRecord:
        """Return the requested job with another identity."""
        return JobRecord(identity, self.job.inputs, self.job.environment, self.job.created)


def choose_folder(
    fs: Fs,
    folder: Path,
    requested: RequestedJob,
    *,
    overwrite: bool,
    on_mismatch: str,
    on_input_change: str,
    describe_changes: Callable[[Path, JobRecord], str],
) -> Path:
    """Return the folder this job may use: the requested one, or with fork the first of NAME-2, NAME-3... that fits.

    Args:
        fs: The file system.
        folder: The requested folder.
        requested: Identity and inputs of this run.
        overwrite: Start over; the folder may hold any job.
        on_mismatch: "refuse" or "fork".
        on_input_change: "refuse", "redo" or "fork".
        describe_changes: Returns which rows changed since a folder's job was created, or "". Called only with fork,
            because it reads the whole input.

    Raises:
        IdentityError: The folder belongs to another job.
        InputChangedError: The list of inputs differs.
    """
    if overwrite:
        return folder
    suffix, candidate = 1, folder
    while True:
        job: JobRecord | None = None
        try:
            job, changed = inspect_folder(fs, candidate, requested)
            problem: Exception | None = changed
        except IdentityError as error:
            if on_mismatch != "fork":
                raise
            problem = error
        if isinstance(problem, InputChangedError):
            if on_input_change == "refuse":
                raise problem
            if on_input_change == "redo":
                problem = None
        if problem is None and job and on_input_change == "fork" and (change := describe_changes(candidate, job)):
            log.warning("fork from=%s changed=%r", candidate.name, change)
            problem = InputChangedError(change)
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
                f"{folder} already holds translated/{existing[0]}, but nothing there shows which job wrote it. "
                f"{_suggested_fixes(folder)}"
            )
    if (version := identity_versions.version_of(job.identity)) > identity_versions.VERSION:
        raise IdentityError(
            f"{folder} belongs to a job of a newer hymt-batch: its identity has version {version}, and this "
            f"hymt-batch reads versions up to {identity_versions.VERSION}. Install the newer hymt-batch again, or set "
            "name=ANOTHER for a second job."
        )
    differences = identity_versions.differences(job.identity, requested.job.identity, requested.auto_keys)
    if differences:
        raise IdentityError(
            f"{folder} belongs to a job with other settings, and one output never mixes settings:\n"
            f"{manifest.format_diff(differences)}\n{_suggested_fixes(folder)}"
        )
    return job, inputs_differ_error(job, requested.job)


def inputs_differ_error(job: JobRecord, requested: JobRecord) -> InputChangedError | None:
    def keys(inputs: Sequence[Input]) -> dict[str, tuple[str, ...]]:
        return {i.rel: (i.format, i.compression, i.out_rel, i.file_id, i.dataset) for i in inputs}

    old, new = keys(job.inputs), keys(requested.inputs)
    changes = [f"  added: {rel}" for rel in new if rel not in old]
    changes += [f"  removed: {rel}" for rel in old if rel not in new]
    changes += [f"  read differently: {rel}" for rel in new if rel in old and old[rel] != new[rel]]
    if not changes:
        return None
    if len(changes) > 20:
        changes[20:] = [f"  and {len(changes) - 20} more"]
    return InputChangedError(
        "the list of inputs changed since this job began:\n" + "\n".join(changes) + "\nIf this is another job, set "
        "name=ANOTHER. Otherwise restore the old files, or set on_input_change=redo to translate the new files and "
        "drop the removed ones, or on_input_change=fork to start a separate job."
    )


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
            f"cannot determine which job {folder} belongs to: .hymt/job.json: {denied}. Give your user access to it "
            "(chmod, chown), or set name=ANOTHER for a second job."
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
        if job is None:
            raise IdentityError(
                f"cannot determine which job {folder} belongs to: .hymt/job.json: {damage}, and the other records in "
                f"the folder were written with other settings. {_suggested_fixes(folder)}"
            ) from None
        return job


def _recorded_identities(fs: Fs, folder: Path) -> Iterator[tuple[str, JsonDict | None]]:
    """Yield the identity digest in each record except `job.json`, with the identity itself if it is known."""
    identities: dict[str, JsonDict] = {}
    with contextlib.suppress(StateDamagedError, ValueError):
        value = manifest.read(fs, folder)
        identity, key = value["identity"], str(value["identity_sha256"])
        if isinstance(identity, dict) and manifest.digest(identity) == key:
            identities[key] = identity
        yield key, identities.get(key)
    for file_state in file_state_folders(fs, folder):
        with contextlib.suppress(StateDamagedError, KeyError):
            key = str(manifest.load(fs, file_state / "file.json")["identity"])
            yield key, identities.get(key)
        for shard in list_names(fs, file_state):
            for name in list_names(fs, file_state / shard):
                if parts.PART_NAME.fullmatch(name):
                    with contextlib.suppress(OSError, parts.PartDamagedError):
                        key = read_part_header(fs, file_state / shard / name).identity
                        yield key, identities.get(key)


def _suggested_fixes(folder: Path) -> str:
    return (
        f"Set name=ANOTHER for a second job, or overwrite=true to start over in {folder.name}, or on_mismatch=fork to "
        f"work in {folder.name}-2."
    )


def create_or_open_job(
    fs: Fs, folder: Path, requested: RequestedJob, *, overwrite: bool, on_input_change: str
) -> JobRecord:
    """Create the folder's `job.json`, or open it if it exists; with `overwrite`, wipe the folder first.

    Called under the lease.

    Raises:
        IdentityError: Another process has just created a different job here.
        InputChangedError: The list of inputs differs, and on_input_change is not "redo".
    """
    if overwrite:
        wipe(fs, folder, requested.job.inputs)
    while True:
        existing_job, problem = inspect_folder(fs, folder, requested)
        if problem is not None and on_input_change != "redo":
            raise problem
        try:
            job = manifest.read_job(fs, folder)
        except StateDamagedError as damage:
            if existing_job is not None:
                log.warning("job_json damage=%r: rebuilt, as all records in the folder belong to this job", str(damage))
            if not isinstance(damage, StateMissingError):
                remove(fs, manifest.state_folder(folder) / "job.json")
            job = existing_job or requested.job
            if manifest.create_job(fs, folder, job):
                return job
            continue
        if problem is None:
            return job
        requested_inputs = {input.rel: input for input in requested.job.inputs}
        removed = [
            input
            for input in job.inputs
            if requested_inputs.get(input.rel) is None
            or inputs_differ_error(_with_single_input(job, input), _with_single_input(job, requested_inputs[input.rel]))
        ]
        if removed:
            names = ", ".join(f"translated/{input.out_rel}" for input in removed[:20])
            more = f" and {len(removed) - 20} more" if len(removed) > 20 else ""
            log.warning(
                "redo folder=%s removes outputs whose inputs were removed or changed: %s%s", folder.name, names, more
            )
        for input in removed:
            discard_inputs(fs, folder, [input])
        job = JobRecord(job.identity, requested.job.inputs, job.environment, job.created)
        manifest.replace_job(fs, folder, job)
        return job


def _with_single_input(job: JobRecord, input: Input) -> JobRecord:
    return JobRecord(job.identity, (input,), job.environment, job.created)
