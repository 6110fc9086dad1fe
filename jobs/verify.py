"""Check all checksums and row counts of a job's output: `hymt-batch verify name=NAME`. Changes nothing."""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest, shown, streams
from hymt_batch.errors import ExitCode, HymtError
from hymt_batch.fs import OS, Fs, same
from hymt_batch.manifest import Job, StateDamage, StateDenied, StateMissing
from hymt_batch.records import Input
from hymt_batch.write import final, finished, foreign, job_folders, lease, located, place
from hymt_batch.write import holder as holders
from hymt_batch.write.inputs import hash_input
from hymt_batch.write.kept import Kept
from hymt_batch.write.part import PartDamage
from hymt_batch.write.row_count import count_rows

if TYPE_CHECKING:
    from hymt_batch.schema import VerifyJob

SEVERITY = (ExitCode.COMPLETE, ExitCode.MISSING, ExitCode.INPUT_CHANGED, ExitCode.PREFLIGHT, ExitCode.DAMAGE)


@dataclass(slots=True)
class Report:
    """What was checked, and what was found."""

    folder: str
    files: int = 0  # published and checked
    parts: int = 0  # checked
    rows: int = 0  # in published files
    inputs: int = 0  # checked
    damage: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # by this user: they may be whole
    changed: list[str] = field(default_factory=list)  # inputs that are not what was translated, or are not found
    missing: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)  # of `damage`: what is not of this job
    obstacles: list[str] = field(default_factory=list)  # of `damage`: what stands in the place of a file or folder
    notes: list[str] = field(default_factory=list)
    running: bool = False  # a living process holds the lease

    @property
    def exit_code(self) -> ExitCode:
        worst = zip(reversed(SEVERITY), (self.damage, self.unreadable, self.changed, self.missing), strict=False)
        return next((code for code, lines in worst if lines), ExitCode.COMPLETE)


def verify(folder: Path, fs: Fs = OS, inputs: bool | Sequence[str] = False) -> Report:
    """Read everything a job published or committed.

    Args:
        folder: The output folder.
        fs: The store.
        inputs: Whether to check the inputs too, or where they are now.
    """
    report, fs = Report(str(folder)), fs.within(folder)
    holder = lease.read(fs, folder)
    report.running = holder is not None and holders.alive(holder, holders.myself()) is not False
    with _reading(report, folder):
        report.obstacles += [f"{path.relative_to(folder)}: {what}" for path, what in place.in_state(fs, folder)]
        job = _job(fs, folder, report)
        if job is not None:
            hashes = _by_manifest(fs, folder, job, report)
            if hashes is None:
                hashes = _by_records(fs, folder, job, report)
            with _reading(report, folder):
                found = place.in_inputs(fs, folder, job.inputs if job.created else ())
                report.obstacles += [f"{path.relative_to(folder)}: {what}" for path, what in found]
                report.foreign += foreign.find(fs, folder, job.inputs, half_made=not report.missing)
            if inputs is not False:
                _inputs(fs, folder, hashes, [] if inputs is True else list(inputs), report)
    for worse, lines in ((report.obstacles, report.foreign), (report.obstacles + report.foreign, report.damage)):
        names = {one.partition(": ")[0] for one in worse}  # what else is said of these comes of it
        lines[:] = [one for one in lines if one.partition(": ")[0] not in names]
    report.damage += report.obstacles + report.foreign
    return report


@contextlib.contextmanager
def _reading(report: Report, folder: Path) -> Iterator[None]:
    """What this user may not read is told as that, and is neither damaged nor missing."""
    try:
        yield
    except PermissionError as error:
        path = Path(os.fsdecode(error.filename)) if error.filename else folder
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        if name not in report.unreadable:
            report.unreadable.append(name)


def _job(fs: Fs, folder: Path, report: Report) -> Job | None:
    """The folder's job, by the manifest where all state is gone; None where nothing tells it."""
    try:
        return manifest.read_job(fs, folder)
    except StateDenied:
        raise PermissionError(errno.EACCES, "denied", str(manifest.state(folder) / "job.json")) from None
    except StateMissing:
        with contextlib.suppress(StateDamage):
            if finished.bare(fs, folder):
                return finished.job(manifest.read(fs, folder))
        report.missing.append("the job: .hymt/job.json was never written")
    except StateDamage as damage:
        report.damage.append(f".hymt/job.json: {damage}")
    return None


def _by_manifest(fs: Fs, folder: Path, job: Job, report: Report) -> dict[str, Any] | None:
    """Check a folder that lost its state against its manifest; None where it has a state, or no manifest."""
    try:
        value = manifest.read(fs, folder)
    except StateDamage:
        return None
    if value["identity"] != job.identity or not finished.bare(fs, folder):
        return None
    problems = finished.proven(fs, folder, value)
    report.files, report.rows = len(value["outputs"]), int(value["rows"])
    report.damage += problems
    if not problems:
        for file in value["outputs"]:
            _rows(folder / file["path"], str(file["path"]), file, file["format"], report, ("", ""))
        report.notes.append(finished.NOTE)
    return {one["rel"]: {"bytes": one["bytes"], "sha256": one["sha256"]} for one in value["inputs"]}


def _by_records(fs: Fs, folder: Path, job: Job, report: Report) -> dict[str, Any]:
    """Check every file of a job against its record, or its parts; what is recorded of the published ones' inputs."""
    kept, records = Kept(fs, folder, job.key), []
    for input in job.inputs:
        with _reading(report, folder):
            record = final.read_record(fs, folder, input)
            if record is not None and record["identity"] == job.key:
                records.append(record)
                _published(fs, folder, record, report, _marks(job, input, record["format"]))
            else:
                _unfinished(kept, input, report)
    if not report.unreadable:
        _manifest(fs, folder, job, records, report)
    return {record["rel"]: record["input"] for record in records}


def _marks(job: Job, input: Input, kind: str) -> tuple[str, str]:
    """Delimiter and escape of an output; "" where they are the format's own."""
    source = job.identity.get("source") or {} if input.format == kind else {}
    return source.get("delimiter") or "", source.get("escape") or ""


def _published(fs: Fs, folder: Path, record: dict[str, Any], report: Report, marks: tuple[str, str]) -> None:
    report.files += 1
    report.rows += record["rows"]
    output, errors = manifest.translated(folder, record["out_rel"]), manifest.errors_file(folder, record["rel"])
    for path, wanted, kind in ((output, record["output"], record["format"]), (errors, record["errors"], "jsonl")):
        name = str(path.relative_to(folder))
        with _reading(report, folder):
            if what := final.damage(fs, path, wanted):
                report.damage.append(f"{name}: {what}")
            elif wanted is not None:
                _rows(path, name, wanted, kind, report, marks)
    if sum(record["counts"].values()) != record["rows"]:
        report.damage.append(f"{record['rel']}: its statuses do not add up to its {record['rows']} rows")


def _rows(path: Path, name: str, wanted: dict[str, Any], kind: str, report: Report, marks: tuple[str, str]) -> None:
    try:
        rows = sorted(count_rows(path, kind, *marks))
    except (OSError, ValueError, EOFError, csv.Error) as error:
        report.damage.append(f"{name}: cannot be read as {kind} ({error})")
        return
    if wanted["rows"] not in rows:
        report.damage.append(f"{name}: has {rows[0]} rows, recorded are {wanted['rows']}")


def _unfinished(kept: Kept, input: Input, report: Report) -> None:
    """The parts of a file that is not published: each one whole, and which are missing."""
    ends = False
    shards = sorted(kept.shards(input.file_id))
    for shard in shards:
        here: dict[int, int] = {}  # part -> parts of the shard
        for part in kept.parts_of(input.file_id, shard):
            path = kept.path(input.file_id, shard, part)
            try:
                found = kept.judge(path, input.file_id, shard, part)
            except PartDamage as damage:
                report.damage.append(f"{input.rel} shard {shard} part {part}: {damage}")
                continue
            if found is not None:
                report.parts += 1
                here[part] = found[0].num_parts
                ends = ends or found[0].shard.last
        num_parts = max(here.values(), default=1)
        if len(here) < num_parts:
            first = next(part for part in itertools.count() if part not in here)
            report.missing.append(
                f"{input.rel} shard {shard}: {num_parts - len(here)} of {num_parts} parts, first {first}"
            )
    end = max(shards, default=-1) + 1
    for gap, after in zip([-1, *shards], [*shards, end], strict=True):
        if after - gap > 1:  # a foreign folder may have any number in its name
            report.missing.append(f"{input.rel} shard {gap + 1}" + (f" to {after - 1}" if after - gap > 2 else ""))
    if not ends:
        report.missing.append(f"{input.rel} from shard {end} on")
    report.missing.append(f"{input.rel}: not published")


def _manifest(fs: Fs, folder: Path, job: Job, records: list[dict[str, Any]], report: Report) -> None:
    try:
        manifest.read(fs, folder)
        if len(records) < len(job.inputs):
            report.damage.append("manifest.json: is there, though not every file is published")
        elif not same(fs, folder / "manifest.json", manifest.build(job, records)):
            report.damage.append("manifest.json: does not say what the published files say")
    except StateMissing:
        report.missing.append("manifest.json")
    except StateDenied:
        report.unreadable.append("manifest.json")
    except StateDamage as damage:
        report.damage.append(f"manifest.json: {damage}")


def _inputs(fs: Fs, folder: Path, hashes: dict[str, Any], given: Sequence[str], report: Report) -> None:
    """Compare the inputs of published files with what was translated; those of others are compared row by row later."""
    found = located.find(fs, folder, list(hashes), given)
    for rel, wanted in hashes.items():
        if rel not in found:
            report.changed.append(f"{rel}: is not found where the job read it. Set inputs=PATH, as source.path= was")
            continue
        report.inputs += 1
        try:
            if hash_input(Input(rel, rel, found[rel], "")) != wanted:
                report.changed.append(f"{found[rel]}: is not the file that was translated as {rel}")
        except HymtError as error:
            denied = isinstance(error.__context__, PermissionError)
            (report.unreadable if denied else report.changed).append(f"{found[rel]}: {error.message}")


def render(report: Report) -> str:
    """The report as lines for people."""
    state = {
        ExitCode.COMPLETE: "complete and undamaged",
        ExitCode.DAMAGE: "damaged",
        ExitCode.PREFLIGHT: "this user may not read all of it",
        ExitCode.INPUT_CHANGED: "undamaged, but inputs changed",
        ExitCode.MISSING: "not complete",
    }
    lines = [f"{report.folder}: {state[report.exit_code]}"]
    checked = f"{report.files} files with {report.rows} rows, {report.parts} parts"
    lines.append(f"  checked   {checked}" + (f", {report.inputs} inputs" if report.inputs else ""))
    for name in ("damage", "unreadable", "changed", "missing"):
        found = getattr(report, name)
        lines += [f"  {name:9} {one}" for one in found[:50]]
        if len(found) > 50:
            lines.append(f"  {name:9} and {len(found) - 50} more")
    lines += [f"  note      {one}" for one in report.notes]
    return "\n".join([*lines, *(f"  {one}" for one in _advice(report))])


def _advice(report: Report) -> Iterator[str]:
    """What helps, and nothing else."""
    if report.running and report.exit_code is ExitCode.MISSING:
        yield "The job is running: verify it when it has ended."
        return
    if report.obstacles:
        yield "Move away what stands in the place of a file or folder, then run the job again."
    elif report.foreign:
        yield "Move away what is not of this job."
    if report.unreadable:
        yield "Run verify as the user who ran the job, or give this one the right to read (chmod, chown)."
    elif report.obstacles:
        return
    elif (damaged := [one for one in report.damage if one not in report.foreign]) or report.missing:
        yield "Run the job again: what is damaged or missing is made anew."
        if any(one.startswith("translated/") for one in damaged):
            yield "A file of translated/ that somebody changed is kept in set_aside/ then."
    if report.changed:
        yield "Put the old inputs back, or translate what changed with on_input_change=redo."


def run(job: VerifyJob) -> ExitCode:
    """Print the report, of a sweep one a point; the worst verdict is the exit code.

    Raises:
        UsageError: There is no such folder.
        PreflightError: This user may not look into it.
    """
    codes = []
    paths = job.inputs if isinstance(job.inputs, bool) else [job.inputs] if isinstance(job.inputs, str) else job.inputs
    for folder in job_folders.find(OS, Path(job.output_dir) / job.name):
        report = verify(folder, inputs=paths)
        text = json.dumps(asdict(report), sort_keys=True) if job.format.value == "json" else render(report)
        streams.show(shown.shown(text))
        codes.append(report.exit_code)
    return max(codes, key=SEVERITY.index)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("verify")
