"""Whose folder it is: which folder a job gets, whose job lies there, and how a lost `job.json` is made again.

`choose` only reads: nothing is touched before identity is settled. `settle` is called under the lease. A folder's own
identity stands, be it of an earlier version; the wanted one is compared with what it means today.
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
    auto_keys: frozenset[str] = frozenset()  # keys of the identity that a folder decides for itself when it is made
    aliases: tuple[JsonDict, ...] = ()  # other identities with which this very job may have been made

    def with_identity_sha256(self, identity_sha256: str) -> JobRecord | None:
        """The wanted job under the identity of that digest, of this version or an earlier one; None if it never was."""
        here = (self.job.identity, *self.aliases)
        for identity in chain(here, chain.from_iterable(map(identity_versions.earlier_identities, here))):
            if manifest.digest(identity) == identity_sha256:
                return self.with_identity(identity)
        return None

    def with_identity(self, identity: JsonDict) -> JobRecord:
        """The wanted job under another identity."""
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
    """The folder this job may use: the one asked for, or with fork the first of NAME-2, NAME-3... that fits.

    Args:
        fs: The store.
        folder: The folder asked for.
        wanted: Identity and inputs of this run.
        overwrite: Start over; any job may be there.
        on_mismatch: "refuse" or "fork".
        on_input_change: "refuse", "redo" or "fork".
        differs: Says which rows of a folder's job changed, or ""; asked for fork alone, as it reads the whole input.

    Raises:
        IdentityError: Another job's folder.
        InputChangedError: The list of inputs differs.
    """
    if overwrite:
        return folder
    number, candidate = 1, folder
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
        if problem is None and job and on_input_change == "fork" and (what := describe_changes(candidate, job)):
            log.warning("fork from=%s changed=%r", candidate.name, what)
            problem = InputChangedError(what)
        if problem is None:
            return candidate
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")


def inspect_folder(fs: Fs, folder: Path, requested: RequestedJob) -> tuple[JobRecord | None, InputChangedError | None]:
    """The job of a folder, None where there is none yet; and the differing inputs as an error to raise, or not.

    Raises:
        IdentityError: It is another job, or one that cannot be known.
    """
    job = read_or_recover_job(fs, folder, requested)
    if job is None:
        there = [
            input.out_rel
            for input in requested.job.inputs
            if stat_or_none(fs, manifest.translated_path(folder, input.out_rel))
        ]
        if not there:
            return None, None
        job = read_or_recover_job(fs, folder, requested)  # another process may have begun, and published, since
        if job is None:
            raise IdentityError(
                f"{folder} already holds translated/{there[0]}, and nothing tells which job made it. "
                f"{_suggested_fixes(folder)}"
            )
    if (version := identity_versions.version_of(job.identity)) > identity_versions.VERSION:
        raise IdentityError(
            f"{folder} belongs to a job of a newer hymt-batch: its identity is of version {version}, and this one "
            f"knows up to {identity_versions.VERSION}. Install the newer one again, or set name=ANOTHER for a "
            "second job."
        )
    differences = identity_versions.differences(job.identity, requested.job.identity, requested.auto_keys)
    if differences:
        raise IdentityError(
            f"{folder} belongs to a job with other settings, and a job never mixes two:\n"
            f"{manifest.format_diff(differences)}\n{_suggested_fixes(folder)}"
        )
    return job, inputs_differ_error(job, requested.job)


def inputs_differ_error(job: JobRecord, requested: JobRecord) -> InputChangedError | None:
    def keys(inputs: Sequence[Input]) -> dict[str, tuple[str, ...]]:
        return {i.rel: (i.format, i.compression, i.out_rel, i.file_id, i.dataset) for i in inputs}

    old, new = keys(job.inputs), keys(requested.inputs)
    found = [f"  added: {rel}" for rel in new if rel not in old]
    found += [f"  removed: {rel}" for rel in old if rel not in new]
    found += [f"  read in another way: {rel}" for rel in new if rel in old and old[rel] != new[rel]]
    if not found:
        return None
    if len(found) > 20:
        found[20:] = [f"  and {len(found) - 20} more"]
    return InputChangedError(
        "the list of inputs changed since this job began:\n" + "\n".join(found) + "\nIf this is another job, set "
        "name=ANOTHER. Else put the old files back, or set on_input_change=redo to translate what is new and drop what "
        "is gone, or on_input_change=fork to start a job of its own."
    )


def read_or_recover_job(fs: Fs, folder: Path, requested: RequestedJob) -> JobRecord | None:
    """The folder's job; where `job.json` is damaged or gone, the job that all sealed records name. None: nothing does.

    Raises:
        IdentityError: The records are of another job, or of several.
        PreflightError: This user may not read it.
    """
    try:
        return manifest.read_job(fs, folder)
    except StatePermissionError as denied:
        raise PreflightError(
            f"the job of {folder} cannot be known: of .hymt/job.json, {denied}. Give this user the right to (chmod, "
            "chown), or set name=ANOTHER for a second job."
        ) from None
    except StateDamagedError as damage:
        found = dict(_recorded_identities(fs, folder))
        if not found and not isinstance(damage, StateVersionError):
            return None
        job = None
        if len(found) == 1 and not isinstance(damage, StateVersionError):
            ((key, identity),) = found.items()
            job = requested.with_identity_sha256(key) if identity is None else requested.with_identity(identity)
        if job is None:
            raise IdentityError(
                f"the job of {folder} cannot be known: of .hymt/job.json, {damage}, and what else lies there "
                f"was made with other settings. {_suggested_fixes(folder)}"
            ) from None
        return job


def _recorded_identities(fs: Fs, folder: Path) -> Iterator[tuple[str, JsonDict | None]]:
    """Digests of the identities that the rest of a folder's state names, with the identity itself where it is told."""
    told: dict[str, JsonDict] = {}
    with contextlib.suppress(StateDamagedError, ValueError):
        found = manifest.read(fs, folder)
        identity, key = found["identity"], str(found["identity_sha256"])
        if isinstance(identity, dict) and manifest.digest(identity) == key:
            told[key] = identity
        yield key, told.get(key)
    for home in file_state_folders(fs, folder):
        with contextlib.suppress(StateDamagedError, KeyError):
            key = str(manifest.load(fs, home / "file.json")["identity"])
            yield key, told.get(key)
        for shard in list_names(fs, home):
            for name in list_names(fs, home / shard):
                if parts.PART_NAME.fullmatch(name):
                    with contextlib.suppress(OSError, parts.PartDamagedError):
                        key = read_part_header(fs, home / shard / name).identity
                        yield key, told.get(key)


def _suggested_fixes(folder: Path) -> str:
    return (
        f"Set name=ANOTHER for a second job, or overwrite=true to start over in {folder.name}, or on_mismatch=fork to "
        f"work in {folder.name}-2."
    )


def create_or_open_job(
    fs: Fs, folder: Path, requested: RequestedJob, *, overwrite: bool, on_input_change: str
) -> JobRecord:
    """Under the lease: wipe what is to be overwritten, then make the folder's job, or find it made.

    Raises:
        IdentityError: Another process made another job meanwhile.
        InputChangedError: The list of inputs differs and is not to be redone.
    """
    if overwrite:
        wipe(fs, folder, requested.job.inputs)
    while True:
        healed, problem = inspect_folder(fs, folder, requested)
        if problem is not None and on_input_change != "redo":
            raise problem
        try:
            job = manifest.read_job(fs, folder)
        except StateDamagedError as damage:
            if healed is not None:
                log.warning("job_json damage=%r: made again, as all records of the folder are of this job", str(damage))
            if not isinstance(damage, StateMissingError):
                remove(fs, manifest.state_folder(folder) / "job.json")
            job = healed or requested.job
            if manifest.create_job(fs, folder, job):
                return job
            continue
        if problem is None:
            return job
        stay = {input.rel: input for input in requested.job.inputs}
        gone = [
            input
            for input in job.inputs
            if stay.get(input.rel) is None
            or inputs_differ_error(_with_single_input(job, input), _with_single_input(job, stay[input.rel]))
        ]
        if gone:
            told = ", ".join(f"translated/{input.out_rel}" for input in gone[:20])
            more = f" and {len(gone) - 20} more" if len(gone) > 20 else ""
            log.warning("redo folder=%s removes what its inputs no longer have: %s%s", folder.name, told, more)
        for input in gone:
            discard_inputs(fs, folder, [input])
        job = JobRecord(job.identity, requested.job.inputs, job.environment, job.created)
        manifest.replace_job(fs, folder, job)
        return job


def _with_single_input(job: JobRecord, input: Input) -> JobRecord:
    return JobRecord(job.identity, (input,), job.environment, job.created)
