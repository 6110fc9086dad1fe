"""Which folder a job gets, and the making or the wiping of its state.

`choose` only reads: nothing is touched before identity is settled. The rest is called under the lease. Does not know
parts beyond their names.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.errors import IdentityError, InputChangedError
from hymt_batch.fs import Fs, exists, names, remove
from hymt_batch.manifest import Job, StateDamage, StateMissing, StateNewer
from hymt_batch.records import Input
from hymt_batch.write import aside, final
from hymt_batch.write import part as parts
from hymt_batch.write.final import TMP
from hymt_batch.write.store import PROBE, Folders

log = logging.getLogger(__name__)


def choose(
    fs: Fs,
    folder: Path,
    wanted: Job,
    *,
    overwrite: bool,
    on_mismatch: str,
    on_input_change: str,
    differs: Callable[[Path], str],
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
        try:
            problem: Exception | None = judge(fs, candidate, wanted)
        except IdentityError as error:
            if on_mismatch != "fork":
                raise
            problem = error
        if isinstance(problem, InputChangedError):
            if on_input_change == "refuse":
                raise problem
            if on_input_change == "redo":
                problem = None
        if problem is None and on_input_change == "fork" and (what := differs(candidate)):
            log.warning("fork from=%s changed=%r", candidate.name, what)
            problem = InputChangedError(what)
        if problem is None:
            return candidate
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")


def judge(fs: Fs, folder: Path, wanted: Job) -> InputChangedError | None:
    """Whether a folder may be used for a job; the differing inputs as an error to raise, or not."""
    job = read_or_heal(fs, folder, wanted)
    if job is None:
        there = [input.out_rel for input in wanted.inputs if exists(fs, manifest.translated(folder, input.out_rel))]
        if not there:
            return None
        job = read_or_heal(fs, folder, wanted)  # another process may have begun, and published, since
        if job is None:
            raise IdentityError(
                f"{folder} already holds translated/{there[0]}, and nothing tells which job made it. "
                f"{_ways_out(folder)}"
            )
    differences = manifest.diff(job.identity, wanted.identity)
    if differences:
        raise IdentityError(
            f"{folder} belongs to a job with other settings, and a job never mixes two:\n"
            f"{manifest.explain(differences)}\n{_ways_out(folder)}"
        )
    return inputs_differ(job, wanted)


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


def read_or_heal(fs: Fs, folder: Path, wanted: Job) -> Job | None:
    """The folder's job. A missing or damaged `job.json` counts as none when all else there is of the wanted job."""
    try:
        return manifest.read_job(fs, folder)
    except StateDamage as damage:
        others = {key for key in _evidence(fs, folder) if key != wanted.key}
        if isinstance(damage, StateNewer) or others:
            raise IdentityError(
                f"the job of {folder} cannot be known: of .hymt/job.json, {damage}. {_ways_out(folder)}"
            ) from None
        if not isinstance(damage, StateMissing):
            log.warning("job_json damage=%r: made again, since all parts are of this job", str(damage))
        return None


def _evidence(fs: Fs, folder: Path) -> Iterator[str]:
    """Identities that the rest of a folder's state names."""
    with contextlib.suppress(StateDamage):
        yield str(manifest.read(fs, folder)["identity_sha256"])
    for home in _homes(fs, folder):
        with contextlib.suppress(StateDamage, KeyError):
            yield str(manifest.load(fs, home / "file.json")["identity"])
        for shard in names(fs, home):
            for name in names(fs, home / shard):
                if parts.NAME.fullmatch(name):
                    with contextlib.suppress(OSError, parts.PartDamage):
                        yield read_header(fs, home / shard / name).identity


def read_header(fs: Fs, path: Path) -> parts.Header:
    """The header of a part, its payload unread. Raises OSError or PartDamage."""
    data = fs.read(path, 0, 4096)
    if b"\n" not in data:
        data = fs.read(path, 0, parts.MAX_HEADER_BYTES)
    return parts.decode_header(data.partition(b"\n")[0])


def _homes(fs: Fs, folder: Path) -> list[Path]:
    root = manifest.state(folder)
    return [root / name for name in names(fs, root) if name.startswith("f") and len(name) > 1]


def _ways_out(folder: Path) -> str:
    return (
        f"Set name=ANOTHER for a second job, or overwrite=true to start over in {folder.name}, or on_mismatch=fork to "
        f"work in {folder.name}-2."
    )


def settle(fs: Fs, folder: Path, wanted: Job, *, overwrite: bool, on_input_change: str) -> Job:
    """Under the lease: wipe what is to be overwritten, then make the folder's job, or find it made.

    Raises:
        IdentityError: Another process made another job meanwhile.
        InputChangedError: The list of inputs differs and is not to be redone.
    """
    if overwrite:
        wipe(fs, folder, wanted.inputs)
    while True:
        problem = judge(fs, folder, wanted)
        if problem is not None and on_input_change != "redo":
            raise problem
        try:
            job = manifest.read_job(fs, folder)
        except StateDamage as damage:
            if not isinstance(damage, StateMissing):
                remove(fs, manifest.state(folder) / "job.json")
            if manifest.create_job(fs, folder, wanted):
                return wanted
            continue
        if problem is None:
            return job
        stay = {input.rel: input for input in wanted.inputs}
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
            _forget(fs, folder, [input])
        job = Job(job.identity, wanted.inputs, job.environment, job.created)
        manifest.replace_job(fs, folder, job)
        return job


def _only(job: Job, input: Input) -> Job:
    return Job(job.identity, (input,), job.environment, job.created)


def _forget(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove what a job knows and made of some inputs: first what calls it finished, then outputs, then state.

    The state tells which bytes are the job's own: what differs is kept in set_aside/.
    """
    made = aside.made(fs, folder)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    for input in inputs:
        record = final.read_record(fs, folder, input)
        ours = (made.get(input.out_rel), record["output"]["sha256"] if record else None)
        aside.spare(fs, folder, input.out_rel, ours, Folders(fs, folder).ensure)
        for path in (manifest.translated(folder, input.out_rel), manifest.errors_file(folder, input.rel)):
            remove(fs, path)
            _leave(fs, folder, path.parent)
    for input in inputs:
        _remove_home(fs, manifest.file_state(folder, input.file_id))


def _leave(fs: Fs, folder: Path, path: Path) -> None:
    """Remove the folders of an output that hold nothing any more; a folder that is not of a job counts as damage."""
    with contextlib.suppress(OSError):
        while path.parent != folder and not names(fs, path):
            fs.rmdir(path)
            path = path.parent


def wipe(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Start over: what a killed wipe leaves still belongs to the old job, whose `job.json` goes last."""
    job: Any = None
    with contextlib.suppress(StateDamage):
        job = manifest.read_job(fs, folder)
    if exists(fs, folder / "manifest.json") or job is not None or _homes(fs, folder):
        log.warning("overwrite folder=%s", folder.name)
    _forget(fs, folder, [*(job.inputs if job else ()), *inputs])
    for home in _homes(fs, folder):
        _remove_home(fs, home)
    remove(fs, manifest.state(folder) / "job.json")
    fs.fsync_dir(manifest.state(folder))


def _remove_home(fs: Fs, home: Path) -> None:
    remove(fs, home / "file.json")
    collect(fs, home)
    for name in names(fs, home):
        if name.startswith(".tmp-"):
            remove(fs, home / name)
    with contextlib.suppress(OSError):
        fs.rmdir(home)


def collect(fs: Fs, home: Path) -> None:
    """Remove the parts of a file, and what a kill left beside them; its `file.json` stays."""
    for shard in names(fs, home):
        if parts.SHARD_NAME.fullmatch(shard):
            for name in names(fs, home / shard):
                with contextlib.suppress(OSError):
                    fs.unlink(home / shard / name)
            with contextlib.suppress(OSError):
                fs.rmdir(home / shard)


def tidy(fs: Fs, home: Path) -> None:
    """`collect` for a file that is finished: what the store refuses to remove is in nobody's way."""
    try:
        collect(fs, home)
    except OSError as error:
        log.warning("parts of %s are left: %s", home.name, error.strerror)


def sweep(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove what killed processes left half-made. Under the lease; a writer without one notices and tries again."""
    root = manifest.state(folder)
    half = [(folder, ".tmp-"), (root, ".tmp-"), (root, PROBE), (root / "lease", "stale-"), (root / "lease", ".tmp-")]
    for input in inputs:
        half += [(path.parent, TMP) for path in (manifest.translated(folder, input.out_rel),)]
        half += [(manifest.errors_file(folder, input.rel).parent, TMP)]
        home = manifest.file_state(folder, input.file_id)
        half += [(home, ".tmp-"), *((home / shard, ".tmp-") for shard in names(fs, home) if shard.startswith("s"))]
    for place, prefix in dict.fromkeys(half):
        for name in names(fs, place):
            if name.startswith(prefix):
                with contextlib.suppress(OSError):
                    fs.unlink(place / name)
