"""Show the progress of a job from its files: `hymt-batch status name=NAME`.

Reads only the headers of parts and changes nothing. Imports no heavy library.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hymt_batch import manifest, sanitize, streams
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS, list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, StateDamagedError, StateMissingError, StatePermissionError
from hymt_batch.records import ERROR_STATUSES, Input, SkippedFile
from hymt_batch.write import (
    error_rows,
    file_record,
    input_locations,
    job_folders,
    lease,
    manifest_only,
    path_check,
    row_record,
    stop_reason,
)
from hymt_batch.write import lease_holder as holders
from hymt_batch.write import part as parts
from hymt_batch.write.folder_finding import FIXES, Findings, Kind
from hymt_batch.write.state_file import StateFileDamagedError

if TYPE_CHECKING:
    from hymt_batch.schema import StatusJob

H = TypeVar("H")

NOT_PUBLISHED = "is missing or not the published version"
MAX_MESSAGE_CHARS = 300  # longer messages are shortened to this length
MIN_PAUSE_S, PAUSE_FACTOR = 60.0, 10
"""A gap between two parts is a pause of the job if it exceeds MIN_PAUSE_S and PAUSE_FACTOR times the median gap."""


@dataclass(slots=True)
class JobStatus:
    """The progress and the state of a job."""

    folder: str
    state: str = "not started"  # not started, running, stopped, complete, damaged or unreadable (no permission)
    findings: Findings = field(default_factory=Findings)
    created: str = ""
    files: int = 0
    files_published: int = 0
    shards: int = 0  # shards that were begun
    shards_complete: int = 0
    parts: int = 0  # committed parts of files that are not yet published; 0 for a complete job
    rows: int = 0  # committed rows
    error_rows: int = 0
    rows_per_s: float | None = None  # rows per second over the newest 100 parts
    counts: dict[str, int] = field(default_factory=dict)  # row status -> committed rows
    holder: dict[str, Any] | None = None  # the process that holds the lease
    holder_alive: bool | None = None  # None if this machine cannot determine it
    log: str = ""  # path of the newest log file
    ended: dict[str, Any] | None = None  # why the last run stopped: exit_code, why, at (UTC), error
    errors: list[dict[str, str]] = field(default_factory=list)  # first rows without a translation: id, status, message
    notes: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)  # files that were found and are not read: rel, why

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and the findings as lines too."""
        value = asdict(self) | {"findings": self.findings.to_json()}
        return value | {"problems": self.findings.lines(), "obstacles": self.findings.lines(Kind.OBSTACLE)}


@dataclass(slots=True)
class _Rates:
    """When rows were committed: modification time in ns and number of rows.

    The time of a record is that of its shard's last part, so the two are never mixed.
    """

    parts: list[tuple[int, int]] = field(default_factory=list)
    records: list[tuple[int, int]] = field(default_factory=list)


def status(folder: Path, fs: Fs = OS_FS, num_errors: int = 0) -> JobStatus:
    """Return the status of an output folder; problems with its files are part of the status and never raise.

    `num_errors` is how many rows without a translation the status lists.
    """
    job_status, fs = JobStatus(str(folder)), fs.within(folder)
    try:
        job_status.skipped = [asdict(file) for file in _skipped_files(fs, folder)]
        _inspect(fs, folder, job_status, num_errors)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        job_status.state = "unreadable" if denied else "damaged"
        why = "this user may not read it" if denied else error.strerror or str(error)
        job_status.findings.add(Kind.UNREADABLE if denied else Kind.DAMAGE, os.fsdecode(error.filename or folder), why)
    return job_status


def _skipped_files(fs: Fs, folder: Path) -> tuple[SkippedFile, ...]:
    """Return the files that the job skipped: those in its manifest, or else those that the last run found."""
    listed = manifest.read_skipped(fs, folder)
    return input_locations.read_skipped(fs, folder) if listed is None else listed


def _inspect(fs: Fs, folder: Path, job_status: JobStatus, num_errors: int) -> None:
    logs = list_names(fs, folder / "logs")
    job_status.log = str(folder / "logs" / logs[-1]) if logs else ""
    _add_holder(fs, folder, job_status)
    for path, what in path_check.state_obstacles(fs, folder):
        job_status.findings.add(Kind.OBSTACLE, path.relative_to(folder), what)
    stop_record = stop_reason.read(fs, folder)
    job_status.ended = asdict(stop_record) if stop_record else None
    try:
        job = manifest.read_job(fs, folder)
    except StateDamagedError as damage:
        if isinstance(damage, StatePermissionError):
            raise PermissionError(errno.EACCES, "denied", str(manifest.state_folder(folder) / "job.json")) from None
        if isinstance(damage, StateMissingError) and _add_from_manifest(fs, folder, job_status, num_errors):
            return
        if not isinstance(damage, StateMissingError) or stat_or_none(fs, folder / "manifest.json"):
            job_status.state = "damaged"
            job_status.findings.add(Kind.DAMAGE, ".hymt/job.json", str(damage))
        return
    job_status.created, job_status.files = job.created, len(job.inputs)
    if _add_from_manifest(fs, folder, job_status, num_errors):
        return
    rates = _Rates()
    for input in job.inputs:
        _add_file(fs, folder, job, input, job_status, rates)
    job_status.counts = dict(sorted(job_status.counts.items()))
    job_status.rows = sum(job_status.counts.values())
    job_status.error_rows = sum(n for name, n in job_status.counts.items() if name in ERROR_STATUSES)
    job_status.rows_per_s = _rows_per_s(rates.parts if len(rates.parts) > 1 else rates.records)
    job_status.errors = list(itertools.islice(error_rows.read_all(fs, folder, job), num_errors))
    complete = _is_complete(fs, folder, job, job_status)
    is_held = job_status.holder is not None and job_status.holder_alive is not False
    job_status.state = "damaged" if job_status.findings else "running" if is_held and not complete else "stopped"
    if complete and not job_status.findings:
        job_status.state = "complete"


def _add_from_manifest(fs: Fs, folder: Path, job_status: JobStatus, num_errors: int) -> bool:
    """Fill in the status of a finished folder without state; return False if it has state, or no valid manifest."""
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return False
    if not manifest_only.has_no_state(fs, folder):
        return False
    job_status.files = job_status.files_published = len(value["outputs"])
    job_status.rows, job_status.counts = value["rows"], dict(value["counts"])
    job_status.error_rows = sum(n for name, n in job_status.counts.items() if name in ERROR_STATUSES)
    for file in (*value["outputs"], *value["errors"]):
        file_stat = stat_or_none(fs, folder / file["path"])
        if (file_stat.size if file_stat else None) != file["bytes"]:
            job_status.findings.add(Kind.DAMAGE, file["path"], NOT_PUBLISHED)
    rows = (row for file in value["errors"] for row in error_rows.read_errors_file(fs, folder / file["path"]))
    job_status.errors = list(itertools.islice(rows, num_errors))
    job_status.state, job_status.notes = (
        "damaged" if job_status.findings else "complete",
        [manifest_only.STATE_LOST_NOTE],
    )
    return True


def _add_holder(fs: Fs, folder: Path, job_status: JobStatus) -> None:
    holder = lease.read(fs, folder)
    if holder is None:
        return
    file_stat = stat_or_none(fs, lease.lease_path(folder))
    job_status.holder = {name: getattr(holder, name) for name in ("host", "pid", "since", "epoch", "slurm_job")}
    job_status.holder["beat_age_s"] = max(0.0, round(time.time() - file_stat.mtime_ns / 1e9, 1)) if file_stat else None
    job_status.holder_alive = holders.is_alive(holder, holders.current_process())


def _add_file(fs: Fs, folder: Path, job: JobRecord, input: Input, job_status: JobStatus, rates: _Rates) -> None:
    record = file_record.read_record(fs, folder, input)
    if record is not None and file_record.is_current(record, job, input):
        job_status.files_published += 1
        num_shards = len(file_record.shard_table_of(record))
        job_status.shards += num_shards
        job_status.shards_complete += num_shards
        _add_counts(job_status, record["counts"])
        for path, recorded in (
            (manifest.translated_path(folder, input.out_rel), record["output"]),
            (manifest.errors_path(folder, input.rel), record["errors"]),
        ):
            file_stat = stat_or_none(fs, path)
            if (file_stat.size if file_stat else None) != (recorded["bytes"] if recorded else None):
                job_status.findings.add(Kind.DAMAGE, path.relative_to(folder), NOT_PUBLISHED)
        return
    state_folder = manifest.file_state_folder(folder, input.file_id)
    names = list_names(fs, state_folder)
    recorded_shards = set()
    for name in names:
        if match := row_record.RECORD_NAME.fullmatch(name):
            header = _read_header(fs, folder, state_folder / name, row_record.read_header, job_status)
            if header is not None:
                recorded_shards.add(int(match[1]))
                job_status.shards += 1
                job_status.shards_complete += 1
                _add_counts(job_status, header[0].counts)
                rates.records.append((header[1], header[0].shard.num_rows))
    for shard in names:
        match = parts.SHARD_NAME.fullmatch(shard)
        if not match or int(match[1]) in recorded_shards:  # parts beside their record are about to be removed
            continue
        num_committed, num_parts = 0, -1
        for name in list_names(fs, state_folder / shard):
            if not parts.PART_NAME.fullmatch(name):
                continue
            part_header = _read_header(fs, folder, state_folder / shard / name, parts.read_header, job_status)
            if part_header is not None:
                num_committed, num_parts = num_committed + 1, part_header[0].num_parts
                _add_counts(job_status, part_header[0].counts)
                rates.parts.append((part_header[1], part_header[0].num_rows))
        job_status.shards += num_committed > 0
        job_status.shards_complete += num_committed == num_parts
        job_status.parts += num_committed


def _read_header(
    fs: Fs, folder: Path, path: Path, read: Callable[[Fs, Path], H], job_status: JobStatus
) -> tuple[H, int] | None:
    """Return the header of a part or record and its modification time in ns; a damaged one becomes a problem."""
    try:
        return read(fs, path), fs.stat(path).mtime_ns
    except FileNotFoundError:
        return None  # another process removed it after the listing
    except PermissionError:
        raise
    except (OSError, StateFileDamagedError) as error:
        job_status.findings.add(Kind.DAMAGE, path.relative_to(folder), str(error))
        return None


def _add_counts(job_status: JobStatus, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        job_status.counts[name] = job_status.counts.get(name, 0) + count


def _rows_per_s(rates: list[tuple[int, int]]) -> float | None:
    """Return the rows per second over the newest 100 parts, without pauses; the first part only marks the start.

    `rates` has the modification time in ns and the number of rows of each part.
    """
    newest = sorted(rates)[-100:]
    gaps = [((mtime_ns - previous) / 1e9, rows) for (previous, _), (mtime_ns, rows) in itertools.pairwise(newest)]
    median_s = statistics.median(seconds for seconds, _ in gaps) if gaps else 0.0
    gaps = [(seconds, rows) for seconds, rows in gaps if seconds <= max(MIN_PAUSE_S, PAUSE_FACTOR * median_s)]
    seconds = sum(gap_s for gap_s, _ in gaps)
    return round(sum(rows for _, rows in gaps) / seconds, 2) if seconds > 0 else None


def _is_complete(fs: Fs, folder: Path, job: JobRecord, job_status: JobStatus) -> bool:
    """Return whether the manifest, which is written last, belongs to this job and all files are published."""
    try:
        value = manifest.read(fs, folder)
    except StateMissingError:
        return False
    except StatePermissionError:
        raise PermissionError(errno.EACCES, "denied", str(folder / "manifest.json")) from None
    except StateDamagedError as damage:
        job_status.findings.add(Kind.DAMAGE, "manifest.json", str(damage))
        return False
    return value["identity"] == job.identity and job_status.files_published == job_status.files


def render(job_status: JobStatus) -> str:
    """Return the status as text."""
    lines = [f"{job_status.folder}: {job_status.state}"]
    if job_status.files:
        lines += [
            f"  created   {job_status.created}",
            f"  files     {job_status.files_published} of {job_status.files} published",
            f"  shards    {job_status.shards_complete} complete of {job_status.shards} begun",
            f"  parts     {job_status.parts} waiting to be assembled",
            f"  rows      {job_status.rows} committed, {job_status.error_rows} of them without a translation",
        ]
    if job_status.rows_per_s is not None:
        lines.append(f"  speed     {job_status.rows_per_s:g} rows/s over the newest parts")
    if job_status.holder is not None:
        liveness = {True: "alive", False: "dead", None: f"last heartbeat {job_status.holder['beat_age_s']} s ago"}
        lines.append(
            f"  held by   process {job_status.holder['pid']} on {job_status.holder['host']} since "
            f"{job_status.holder['since']}, {liveness[job_status.holder_alive]}"
        )
    if job_status.ended is not None and job_status.state not in ("running", "complete"):
        stop_record = job_status.ended
        lines.append(f"  ended     {stop_record['at']} with exit code {stop_record['exit_code']}: {stop_record['why']}")
    if job_status.log:
        lines.append(f"  log       {job_status.log}")
    lines += [f"  error     {row['id']} {row['status']}: {escape_line(row['message'])}" for row in job_status.errors]
    if job_status.skipped:
        lines.append(f"  skipped   {len(job_status.skipped)} files that are not read")
        lines += [f"            {file['rel']}: {file['why']}" for file in job_status.skipped[:20]]
    if len(job_status.skipped) > 20:
        lines.append(f"            and {len(job_status.skipped) - 20} more")
    lines += [f"  note      {note}" for note in job_status.notes]
    lines += [f"  problem   {problem}" for problem in job_status.findings.lines()[:20]]
    if len(job_status.findings) > 20:
        lines.append(f"  problem   and {len(job_status.findings) - 20} more")
    if job_status.findings.lines(Kind.OBSTACLE):
        lines.append(f"  {FIXES[Kind.OBSTACLE]}")
    elif job_status.state == "damaged":
        lines.append("  Run the job again to rebuild what is damaged.")
    elif job_status.state == "stopped":
        lines.append("  Run the same command again to continue.")
    return "\n".join(lines)


def escape_line(message: str) -> str:
    """Escape line breaks and tabs of a message, and shorten it to one line of MAX_MESSAGE_CHARS."""
    line = message.replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def render_line(job_status: JobStatus) -> str:
    """Return the status of a point of a sweep, on one line."""
    counts = f"{job_status.files_published} of {job_status.files} files published, {job_status.rows} rows committed"
    return f"{job_status.folder}: {job_status.state}, {counts}, {job_status.error_rows} of them without a translation"


def run(job: StatusJob) -> ExitCode:
    """Print the status of a job, or one line per point of a sweep; the exit code is COMPLETE whatever the status is.

    Raises:
        UsageError: The folder does not exist.
    """
    folders = job_folders.find(OS_FS, Path(job.output_dir) / job.name)
    for folder in folders:
        report = status(folder, num_errors=job.errors)
        if job.format.value == "json":
            text = json.dumps(report.to_json(), sort_keys=True)  # one line a point
            streams.print_result(sanitize.sanitize_text(text))
        else:
            streams.print_result(sanitize.sanitize_text(render(report) if len(folders) == 1 else render_line(report)))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("status")
