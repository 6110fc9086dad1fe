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
from hymt_batch.fs import Fs, exists, names, remove
from hymt_batch.manifest import Job, Plain, StateDamage, StateDenied, StateMissing, StateNewer
from hymt_batch.records import Input
from hymt_batch.write import part as parts
from hymt_batch.write import versions
from hymt_batch.write.folder import forget, homes, read_header, wipe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The job that a run asks for."""

    job: Job
    own: frozenset[str] = frozenset()  # keys of the identity that a folder decides for itself when it is made
    aliases: tuple[Plain, ...] = ()  # other identities with which this very job may have been made

    def known_as(self, key: str) -> Job | None:
        """The wanted job under the identity of that digest, of this version or an earlier one; None if it never was."""
        here = (self.job.identity, *self.aliases)
        for identity in chain(here, chain.from_iterable(map(versions.earlier, here))):
            if manifest.digest(identity) == key:
                return self.under(identity)
        return None

    def under(self, identity: Plain) -> Job:
        """The wanted job under another identity."""
        return Job(identity, self.job.inputs, self.job.environment, self.job.created)


def choose(
    fs: Fs,
    folder: Path,
    wanted: Wanted,
    *,
    overwrite: bool,
    on_mismatch: str,
    on_input_change: str,
    differs: Callable[[Path, Job], str],
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
        job: Job | None = None
        try:
            job, changed = judge(fs, candidate, wanted)
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
        if problem is None and job and on_input_change == "fork" and (what := differs(candidate, job)):
            log.warning("fork from=%s changed=%r", candidate.name, what)
            problem = InputChangedError(what)
        if problem is None:
            return candidate
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")


def judge(fs: Fs, folder: Path, wanted: Wanted) -> tuple[Job | None, InputChangedError | None]:
    """The job of a folder, None where there is none yet; and the differing inputs as an error to raise, or not.

    Raises:
        IdentityError: It is another job, or one that cannot be known.
    """
    job = read_or_heal(fs, folder, wanted)
    if job is None:
        there = [input.out_rel for input in wanted.job.inputs if exists(fs, manifest.translated(folder, input.out_rel))]
        if not there:
            return None, None
        job = read_or_heal(fs, folder, wanted)  # another process may have begun, and published, since
        if job is None:
            raise IdentityError(
                f"{folder} already holds translated/{there[0]}, and nothing tells which job made it. "
                f"{_ways_out(folder)}"
            )
    if (version := versions.version_of(job.identity)) > versions.VERSION:
        raise IdentityError(
            f"{folder} belongs to a job of a newer hymt-batch: its identity is of version {version}, and this one "
            f"knows up to {versions.VERSION}. Install the newer one again, or set name=ANOTHER for a second job."
        )
    differences = versions.differences(job.identity, wanted.job.identity, wanted.own)
    if differences:
        raise IdentityError(
            f"{folder} belongs to a job with other settings, and a job never mixes two:\n"
            f"{manifest.explain(differences)}\n{_ways_out(folder)}"
        )
    return job, inputs_differ(job, wanted.job)


def inputs_differ(job: Job, wanted: Job) -> InputChangedError | None:
    def keys(inputs: Sequence[Input]) -> dict[str, tuple[str, ...]]:
        return {i.rel: (i.format, i.compression, i.out_rel, i.file_id, i.dataset) for i in inputs}

    old, new = keys(job.inputs), keys(wanted.inputs)
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


def read_or_heal(fs: Fs, folder: Path, wanted: Wanted) -> Job | None:
    """The folder's job; where `job.json` is damaged or gone, the job that all sealed records name. None: nothing does.

    Raises:
        IdentityError: The records are of another job, or of several.
        PreflightError: This user may not read it.
    """
    try:
        return manifest.read_job(fs, folder)
    except StateDenied as denied:
        raise PreflightError(
            f"the job of {folder} cannot be known: of .hymt/job.json, {denied}. Give this user the right to (chmod, "
            "chown), or set name=ANOTHER for a second job."
        ) from None
    except StateDamage as damage:
        found = dict(_evidence(fs, folder))
        if not found and not isinstance(damage, StateNewer):
            return None
        job = None
        if len(found) == 1 and not isinstance(damage, StateNewer):
            ((key, identity),) = found.items()
            job = wanted.known_as(key) if identity is None else wanted.under(identity)
        if job is None:
            raise IdentityError(
                f"the job of {folder} cannot be known: of .hymt/job.json, {damage}, and what else lies there "
                f"was made with other settings. {_ways_out(folder)}"
            ) from None
        return job


def _evidence(fs: Fs, folder: Path) -> Iterator[tuple[str, Plain | None]]:
    """Digests of the identities that the rest of a folder's state names, with the identity itself where it is told."""
    told: dict[str, Plain] = {}
    with contextlib.suppress(StateDamage, ValueError):
        found = manifest.read(fs, folder)
        identity, key = found["identity"], str(found["identity_sha256"])
        if isinstance(identity, dict) and manifest.digest(identity) == key:
            told[key] = identity
        yield key, told.get(key)
    for home in homes(fs, folder):
        with contextlib.suppress(StateDamage, KeyError):
            key = str(manifest.load(fs, home / "file.json")["identity"])
            yield key, told.get(key)
        for shard in names(fs, home):
            for name in names(fs, home / shard):
                if parts.NAME.fullmatch(name):
                    with contextlib.suppress(OSError, parts.PartDamage):
                        key = read_header(fs, home / shard / name).identity
                        yield key, told.get(key)


def _ways_out(folder: Path) -> str:
    return (
        f"Set name=ANOTHER for a second job, or overwrite=true to start over in {folder.name}, or on_mismatch=fork to "
        f"work in {folder.name}-2."
    )


def settle(fs: Fs, folder: Path, wanted: Wanted, *, overwrite: bool, on_input_change: str) -> Job:
    """Under the lease: wipe what is to be overwritten, then make the folder's job, or find it made.

    Raises:
        IdentityError: Another process made another job meanwhile.
        InputChangedError: The list of inputs differs and is not to be redone.
    """
    if overwrite:
        wipe(fs, folder, wanted.job.inputs)
    while True:
        healed, problem = judge(fs, folder, wanted)
        if problem is not None and on_input_change != "redo":
            raise problem
        try:
            job = manifest.read_job(fs, folder)
        except StateDamage as damage:
            if healed is not None:
                log.warning("job_json damage=%r: made again, as all records of the folder are of this job", str(damage))
            if not isinstance(damage, StateMissing):
                remove(fs, manifest.state(folder) / "job.json")
            job = healed or wanted.job
            if manifest.create_job(fs, folder, job):
                return job
            continue
        if problem is None:
            return job
        stay = {input.rel: input for input in wanted.job.inputs}
        gone = [
            input
            for input in job.inputs
            if stay.get(input.rel) is None or inputs_differ(_only(job, input), _only(job, stay[input.rel]))
        ]
        if gone:
            told = ", ".join(f"translated/{input.out_rel}" for input in gone[:20])
            more = f" and {len(gone) - 20} more" if len(gone) > 20 else ""
            log.warning("redo folder=%s removes what its inputs no longer have: %s%s", folder.name, told, more)
        for input in gone:
            forget(fs, folder, [input])
        job = Job(job.identity, wanted.job.inputs, job.environment, job.created)
        manifest.replace_job(fs, folder, job)
        return job


def _only(job: Job, input: Input) -> Job:
    return Job(job.identity, (input,), job.environment, job.created)
