"""Verify all checksums and row counts of a job's output: `hymt-batch verify name=NAME`. Changes nothing."""

from __future__ import annotations

import contextlib
import csv
import errno
import itertools
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest, sanitize, streams
from hymt_batch.errors import ExitCode, HymtError, Problem
from hymt_batch.formats import registry
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.fs import OS_FS, has_content
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, StateDamagedError, StateMissingError, StatePermissionError
from hymt_batch.records import Input, plural
from hymt_batch.write import (
    error_line,
    file_record,
    foreign_files,
    input_locations,
    job_folders,
    lease,
    manifest_contents,
    manifest_only,
    passes,
    path_check,
)
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.folder_finding import FIXES, Findings, FolderFinding, Kind
from hymt_batch.write.input_changes import hash_input
from hymt_batch.write.pass_rows import PassTable
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.run_reader import RunReader, rows_in_progress
from hymt_batch.write.segment_run import RunHeader
from hymt_batch.write.state_file import StateFileDamagedError

if TYPE_CHECKING:
    from hymt_batch.schema import VerifyJob

SEVERITY = (ExitCode.COMPLETE, ExitCode.MISSING, ExitCode.INPUT_CHANGED, ExitCode.PREFLIGHT, ExitCode.DAMAGE)
REPORTED = ("damage", "unreadable", "changed", "missing")
"""The lists of lines in a report, the worst first."""


@dataclass(slots=True)
class VerifyReport:
    """The counts of checked files, parts and inputs, and the problems that were found."""

    folder: str
    files: int = 0  # published files that were checked
    parts: int = 0  # parts that were checked
    records: int = 0  # row records of complete shards that were checked
    rows: int = 0  # rows of the published files
    inputs: int = 0  # inputs that were checked
    findings: Findings = field(default_factory=Findings)
    notes: list[str] = field(default_factory=list)
    running: bool = False  # True if the process that holds the lease is, or may be, alive

    @property
    def damage(self) -> list[str]:
        return self.findings.lines(Kind.DAMAGE, Kind.OBSTACLE, Kind.FOREIGN)

    @property
    def unreadable(self) -> list[str]:
        return self.findings.lines(Kind.UNREADABLE)

    @property
    def changed(self) -> list[str]:
        return self.findings.lines(Kind.CHANGED)

    @property
    def missing(self) -> list[str]:
        return self.findings.lines(Kind.MISSING)

    @property
    def exit_code(self) -> ExitCode:
        worst = zip(reversed(SEVERITY), (self.damage, self.unreadable, self.changed, self.missing), strict=False)
        return next((code for code, found in worst if found), ExitCode.COMPLETE)

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and the findings of each kind as lines."""
        value = asdict(self) | {name: getattr(self, name) for name in REPORTED}
        value |= {"obstacles": self.findings.lines(Kind.OBSTACLE), "foreign": self.findings.lines(Kind.FOREIGN)}
        return value | {"findings": self.findings.to_json()}


def verify(folder: Path, fs: Fs = OS_FS, inputs: bool | Sequence[str] = False) -> VerifyReport:
    """Read and check everything that a job published or committed.

    Args:
        folder: The output folder.
        fs: The file system.
        inputs: True to check the inputs too, or their current paths if they were moved.
    """
    report, fs = VerifyReport(str(folder)), fs.within(folder)
    holder = lease.read(fs, folder)
    report.running = holder is not None and holders.is_alive(holder, holders.current_process()) is not False
    with _collect_unreadable(report, folder):
        for path, what in path_check.state_obstacles(fs, folder):
            report.findings.add(Kind.OBSTACLE, path.relative_to(folder), what)
        job = _read_job(fs, folder, report)
        if job is not None:
            hashes = _verify_by_manifest(fs, folder, job, report)
            if hashes is None:
                hashes = _verify_by_records(fs, folder, job, report)
            with _collect_unreadable(report, folder):
                for path, what in path_check.input_obstacles(fs, folder, job.inputs if job.created else ()):
                    report.findings.add(Kind.OBSTACLE, path.relative_to(folder), what)
                for path, what in foreign_files.find(fs, folder, job, include_leftovers=not report.missing):
                    report.findings.add(Kind.FOREIGN, path.relative_to(folder), what)
            if inputs is not False:
                _verify_inputs(fs, folder, hashes, [] if inputs is True else list(inputs), report)
    report.findings = report.findings.without_duplicates()
    return report


@contextlib.contextmanager
def _collect_unreadable(report: VerifyReport, folder: Path) -> Iterator[None]:
    """Record a path that this user may not read as unreadable, instead of damaged or missing."""
    try:
        yield
    except PermissionError as error:
        path = Path(os.fsdecode(error.filename)) if error.filename else folder
        name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
        if name not in report.unreadable:
            report.findings.add(Kind.UNREADABLE, name)


def _read_job(fs: Fs, folder: Path, report: VerifyReport) -> JobRecord | None:
    """Return the folder's job, from the manifest if the .hymt state is lost; None if neither is readable."""
    try:
        return manifest.read_job(fs, folder)
    except StatePermissionError:
        raise PermissionError(errno.EACCES, "denied", str(manifest.state_folder(folder) / "job.json")) from None
    except StateMissingError:
        with contextlib.suppress(StateDamagedError):
            if manifest_only.has_no_state(fs, folder):
                return manifest_only.job_from_manifest(manifest.read(fs, folder))
        report.findings.add(Kind.MISSING, "the job", ".hymt/job.json was never written")
    except StateDamagedError as damage:
        report.findings.add(Kind.DAMAGE, ".hymt/job.json", str(damage))
    return None


def _verify_by_manifest(fs: Fs, folder: Path, job: JobRecord, report: VerifyReport) -> dict[str, Any] | None:
    """Check a folder that lost its .hymt state against its manifest.

    Returns:
        The recorded size and hash of each input, or None if the folder has its state or has no valid manifest.
    """
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return None
    if value["identity"] != job.identity or not manifest_only.has_no_state(fs, folder):
        return None
    problems = manifest_only.find_problems(fs, folder, value)
    report.files, report.rows = len(value["outputs"]), int(value["rows"])
    for name, damage in problems:
        report.findings.add(Kind.DAMAGE, name, damage)
    if not problems:
        for file, input in zip(value["outputs"], job.inputs, strict=True):
            settings = {"encoding": _source_settings(job, input, file["format"])["encoding"]}
            _verify_row_count(folder / file["path"], str(file["path"]), file, file["format"], report, settings)
        report.notes.append(manifest_only.STATE_LOST_NOTE)
    return {entry["rel"]: {"bytes": entry["bytes"], "sha256": entry["sha256"]} for entry in value["inputs"]}


def _verify_by_records(fs: Fs, folder: Path, job: JobRecord, report: VerifyReport) -> dict[str, Any]:
    """Check every published file of a job against its record, and the parts of every other file.

    Returns:
        The recorded size and hash of the inputs of the published files.
    """
    rows, records = CommittedRows.open(fs, folder, job.identity_sha256, job.layout), []
    for input in job.inputs:
        with _collect_unreadable(report, folder):
            record = file_record.read_record(fs, folder, input, job.layout)
            if record is not None and file_record.is_current(record, job, input):
                records.append(record)
                _verify_published_file(fs, folder, record, report, _source_settings(job, input, record["format"]))
                _, damage = _read_row_records(rows.records, input, report)
                report.notes += [
                    f"{subject}: {what}; only assembling the file again would need it" for subject, what in damage
                ]
            else:
                _verify_rows(rows, input, report)
    with _collect_unreadable(report, folder):
        _verify_passes(fs, folder, job, report)
    if not report.unreadable:
        _verify_manifest(fs, folder, job, records, report)
    return {record["rel"]: record["input"] for record in records}


def _verify_passes(fs: Fs, folder: Path, job: JobRecord, report: VerifyReport) -> None:
    """Check the rows of the finished passes; like row records, they are needed only to assemble files again."""
    for job_pass in job.passes:
        name, damage = f"pass {job_pass.number}", list[str]()
        table, reason = None, "is missing or damaged"
        try:
            table = PassTable.open(fs, folder, job_pass, job.layout)
        except PermissionError:
            raise
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
        if table is None:
            damage.append(f"{name}: its record {reason}")
        for index in range(len(job_pass.shards)) if table is not None else ():
            try:
                is_there = table is not None and table.store.read(passes.FILE_ID, index) is not None
                report.records += is_there
                if not is_there:
                    damage.append(f"{name} rows of shard {index}: missing")
            except StateFileDamagedError as error:
                damage.append(f"{name} rows of shard {index}: {error}")
        report.notes += [f"{what}; only assembling its files again would need it" for what in damage]


def _source_settings(job: JobRecord, input: Input, kind: str) -> dict[str, Any]:
    """Return the settings by which the rows of an output are counted: after a conversion its encoding alone."""
    recorded = job.identity.get("source") or {}
    settings = dict(recorded) if input.format == kind else {}
    keeps_encoding = job.output_settings.get("write.encoding") == "input"
    is_text = (
        "encoding" in registry.get(kind).source_settings and "encoding" in registry.of_input(input).source_settings
    )
    settings["tgt_lang"] = (job.identity.get("prompt") or {}).get("tgt_lang") or ""
    return settings | {"encoding": recorded.get("encoding", UTF8) if keeps_encoding and is_text else UTF8}


def _verify_published_file(
    fs: Fs, folder: Path, record: dict[str, Any], report: VerifyReport, source_settings: dict[str, Any]
) -> None:
    report.files += 1
    report.rows += record["rows"]
    lists = manifest.list_paths(folder, record["rel"]).items()
    for path, recorded, kind, settings in (
        (manifest.translated_path(folder, record["out_rel"]), record["output"], record["format"], source_settings),
        *((path, record.get(key), error_line.FORMAT, {}) for key, path in lists),
    ):
        name = str(path.relative_to(folder))
        with _collect_unreadable(report, folder):
            if damage := file_record.describe_damage(fs, path, recorded):
                report.findings.add(Kind.DAMAGE, name, damage)
            elif recorded is not None:
                _verify_row_count(path, name, recorded, kind, report, settings)
    num_texts = manifest.count_texts([record])
    if sum(record["counts"].values()) != num_texts:
        what = f"the counts of its statuses do not add up to its {plural(num_texts, 'text')}"
        report.findings.add(Kind.DAMAGE, record["rel"], what)


def _verify_row_count(
    path: Path, name: str, recorded: dict[str, Any], kind: str, report: VerifyReport, source_settings: dict[str, Any]
) -> None:
    try:
        rows = sorted(registry.get(kind).count_rows(path, source_settings))
    except (OSError, ValueError, EOFError, csv.Error) as error:
        report.findings.add(Kind.DAMAGE, name, f"cannot be read as {kind} ({error})")
        return
    if recorded["rows"] not in rows:
        report.findings.add(Kind.DAMAGE, name, f"has {plural(rows[0], 'row')}, but its record has {recorded['rows']}")


def _read_row_records(
    records: RecordStore, input: Input, report: VerifyReport
) -> tuple[dict[int, bool], list[tuple[str, str]]]:
    """Check the row records of a file.

    Returns:
        Index of each shard with an intact record, and whether it is the last of its file; subject and damage of the
        others.
    """
    intact: dict[int, bool] = {}
    damage: list[tuple[str, str]] = []
    for shard in sorted(records.shard_indexes(input.file_id)):
        try:
            recorded = records.read(input.file_id, shard)
        except StateFileDamagedError as error:
            damage.append((f"{input.rel} rows of shard {shard}", str(error)))
            continue
        if recorded is not None:
            report.records += 1
            intact[shard] = recorded[0].shard.last
    return intact, damage


def _verify_rows(rows: CommittedRows, input: Input, report: VerifyReport) -> None:
    """Check the row records, parts and runs of a file that is not published, and list the missing ones."""
    part_reader = rows.reader
    recorded, damage = _read_row_records(rows.records, input, report)
    for subject, what in damage:
        report.findings.add(Kind.DAMAGE, subject, what)
    has_last_shard = any(recorded.values())
    shards = sorted({*part_reader.shard_indexes(input.file_id), *recorded})
    for shard in shards:
        if shard in recorded:
            continue
        valid_parts: dict[int, int] = {}  # part index -> number of parts of its shard
        for part in part_reader.part_indexes(input.file_id, shard):
            path = part_reader.path(input.file_id, shard, part)
            try:
                contents = part_reader.read(path, input.file_id, shard, part)
            except StateFileDamagedError as error:
                report.findings.add(Kind.DAMAGE, f"{input.rel} shard {shard} part {part}", str(error))
                continue
            if contents is not None:
                report.parts += 1
                valid_parts[part] = contents[0].num_parts
                has_last_shard = has_last_shard or contents[0].shard.last
        runs = _verify_runs(rows.runs, input, shard, report, joined=valid_parts)
        has_last_shard = has_last_shard or any(run.shard.last for run in runs)
        num_parts = max([*valid_parts.values(), *(run.num_parts for run in runs)], default=1)
        if len(valid_parts) < num_parts:
            first = next(part for part in itertools.count() if part not in valid_parts)
            what = f"{num_parts - len(valid_parts)} of {num_parts} parts, first {first}"
            report.findings.add(Kind.MISSING, f"{input.rel} shard {shard}", what)
    end = max(shards, default=-1) + 1
    for previous, next_shard in zip([-1, *shards], [*shards, end], strict=True):
        if next_shard - previous > 1:  # reported as a range: a foreign folder may have any index in its name
            last = f" to {next_shard - 1}" if next_shard - previous > 2 else ""
            report.findings.add(Kind.MISSING, f"{input.rel} shard {previous + 1}{last}")
    if not has_last_shard:
        report.findings.add(Kind.MISSING, f"{input.rel} from shard {end} on")
    report.findings.add(Kind.MISSING, input.rel, "not published")


def _verify_runs(
    run_reader: RunReader, input: Input, shard: int, report: VerifyReport, *, joined: Collection[int]
) -> list[RunHeader]:
    """Check the runs of divided rows, list the segments that are missing, and return the headers of intact runs.

    Args:
        run_reader: Reads runs.
        input: The file.
        shard: Index of the shard.
        report: Gets the findings.
        joined: Indices of the parts that are committed: their rows are joined.
    """
    runs: list[RunHeader] = []
    for part, run in sorted(run_reader.indexes(input.file_id, shard)):
        try:
            loaded = run_reader.read(input.file_id, shard, part, run)
        except StateFileDamagedError as error:
            report.findings.add(Kind.DAMAGE, f"{input.rel} shard {shard} part {part} run {run}", str(error))
            continue
        if loaded is not None:
            report.parts += 1
            runs.append(loaded[0])
    for row in rows_in_progress(run for run in runs if run.part_index not in joined):
        missing = row.num_segments - row.num_committed
        report.findings.add(Kind.MISSING, row.id, f"{missing} of its {plural(row.num_segments, 'segment')}")
    return runs


def _verify_manifest(fs: Fs, folder: Path, job: JobRecord, records: list[dict[str, Any]], report: VerifyReport) -> None:
    try:
        skipped = manifest.skipped_in(manifest.read(fs, folder))
        if len(records) < len(job.inputs):
            report.findings.add(Kind.DAMAGE, "manifest.json", "exists, although not every file is published")
        elif not has_content(fs, folder / "manifest.json", manifest_contents.build(job, records, skipped)):
            report.findings.add(Kind.DAMAGE, "manifest.json", "does not match the records of the published files")
    except StateMissingError:
        report.findings.add(Kind.MISSING, "manifest.json")
    except StatePermissionError:
        report.findings.add(Kind.UNREADABLE, "manifest.json")
    except StateDamagedError as damage:
        report.findings.add(Kind.DAMAGE, "manifest.json", str(damage))


def _verify_inputs(fs: Fs, folder: Path, hashes: dict[str, Any], paths: Sequence[str], report: VerifyReport) -> None:
    """Compare the inputs of published files with their recorded hashes.

    The inputs of other files are not compared: when the job continues, it compares them row by row.
    """
    locations = input_locations.find(fs, folder, list(hashes), paths)
    for rel, recorded in hashes.items():
        if rel not in locations:
            fix = "Set inputs=PATH, as in source.path=, to its new path."
            report.findings.append(
                FolderFinding(Kind.CHANGED, rel, Problem(what="is not where the job read it", fix=fix))
            )
            continue
        report.inputs += 1
        try:
            if hash_input(Input(rel, rel, locations[rel], "")) != recorded:
                report.findings.add(Kind.CHANGED, locations[rel], f"is not the file that was translated as {rel}")
        except HymtError as error:
            kind = Kind.UNREADABLE if isinstance(error.__context__, PermissionError) else Kind.CHANGED
            report.findings.append(FolderFinding(kind, locations[rel], error.problem))


def render(report: VerifyReport) -> str:
    """Return the report as text."""
    state = {
        ExitCode.COMPLETE: "complete and undamaged",
        ExitCode.DAMAGE: "damaged",
        ExitCode.PREFLIGHT: "this user may not read all of it",
        ExitCode.INPUT_CHANGED: "undamaged, but inputs changed",
        ExitCode.MISSING: "not complete",
    }
    lines = [f"{report.folder}: {state[report.exit_code]}"]
    checked = f"{plural(report.files, 'file')} with {plural(report.rows, 'row')}, {plural(report.parts, 'part')}"
    checked += f", {plural(report.records, 'row record')}"
    lines.append(f"  checked   {checked}" + (f", {plural(report.inputs, 'input')}" if report.inputs else ""))
    for name in REPORTED:
        problems = getattr(report, name)
        lines += [f"  {name:9} {line}" for line in problems[:50]]
        if len(problems) > 50:
            lines.append(f"  {name:9} and {len(problems) - 50} more")
    lines += [f"  note      {line}" for line in report.notes]
    return "\n".join([*lines, *(f"  {line}" for line in _advice(report))])


def _advice(report: VerifyReport) -> Iterator[str]:
    """Yield the steps that fix the reported problems."""
    if report.running and report.exit_code is ExitCode.MISSING:
        yield "The job is running: verify it after it has ended."
        return
    if report.findings.lines(Kind.OBSTACLE):
        yield FIXES[Kind.OBSTACLE]
    elif report.findings.lines(Kind.FOREIGN):
        yield FIXES[Kind.FOREIGN]
    if report.unreadable:
        yield FIXES[Kind.UNREADABLE]
    elif report.findings.lines(Kind.OBSTACLE):
        return
    elif report.findings.lines(Kind.DAMAGE) or report.missing:
        yield FIXES[Kind.MISSING]
        if any(subject.startswith("translated/") for subject in report.findings.subjects(Kind.DAMAGE)):
            yield "The job then keeps changed files of translated/ in set_aside/."
    if report.changed:
        yield FIXES[Kind.CHANGED]


def run(job: VerifyJob) -> ExitCode:
    """Print the report of a job, or of each point of a sweep.

    Returns:
        The worst exit code of the reports.

    Raises:
        UsageError: The folder does not exist.
        PreflightError: This user may not read the folder.
    """
    exit_codes = []
    inputs = job.inputs if isinstance(job.inputs, bool) else [job.inputs] if isinstance(job.inputs, str) else job.inputs
    for folder in job_folders.find(OS_FS, Path(job.output_dir) / job.name):
        report = verify(folder, inputs=inputs)
        text = json.dumps(report.to_json(), sort_keys=True) if job.format.value == "json" else render(report)
        streams.print_result(sanitize.sanitize_text(text))
        exit_codes.append(report.exit_code)
    return max(exit_codes, key=SEVERITY.index)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("verify")
