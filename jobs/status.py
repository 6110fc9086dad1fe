"""Show the progress of a job from its files: `hymt-batch status name=NAME`.

Takes no lease and changes nothing. Of large jobs it reads only the headers of parts. Imports no heavy library.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import statistics
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hymt_batch import manifest, sanitize, state_layout, streams
from hymt_batch.check.checks import derive
from hymt_batch.check.settings import CheckConfig, flags_of
from hymt_batch.errors import ExitCode, IdentityError, PreflightError
from hymt_batch.fs import OS_FS, list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, StateDamagedError, StateMissingError, StatePermissionError
from hymt_batch.records import ERROR_STATUSES, Input, Measures, SkippedFile, Status, count_error_rows, plural
from hymt_batch.run.log_file import LOG_NAME
from hymt_batch.run.reporter import format_duration
from hymt_batch.write import (
    error_rows,
    file_record,
    identity_versions,
    input_locations,
    job_folders,
    lease,
    manifest_only,
    output_settings,
    passes,
    path_check,
    row_lines,
    row_record,
    run_progress,
    segment_run,
    state_file,
    stop_reason,
    task_status,
)
from hymt_batch.write import lease_holder as holders
from hymt_batch.write import part as parts
from hymt_batch.write.folder_finding import FIXES, Findings, Kind
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.run_reader import rows_in_progress
from hymt_batch.write.state_file import StateFileDamagedError

if TYPE_CHECKING:
    from hymt_batch.schema import StatusJob

H = TypeVar("H")

NOT_PUBLISHED = "is missing or not the published version"
MAX_TASKS = 20  # that the text lists
MAX_FAILED = 20  # files that are not of their format, and that the text lists
MAX_MESSAGE_CHARS = 300  # longer messages are shortened to this length
MIN_PAUSE_S, PAUSE_FACTOR = 60.0, 10
"""A gap between two parts is a pause of the job if it exceeds MIN_PAUSE_S and PAUSE_FACTOR times the median gap."""
MAX_BEAT_AGE_S = 300.0
"""A holder on another machine counts as running until its heartbeat is older than this: the default of
launch.lease_ttl_s, and room for the attribute cache of a network file system and for clocks that differ."""
MAX_FLAG_BYTES = 32 << 20  # of parts and row records whose flags are counted; more would take seconds
READ_BYTES = 1 << 16  # of a part or record that are read at once: most parts are smaller
SEVERITY = (ExitCode.COMPLETE, ExitCode.TOO_MANY_ERRORS, ExitCode.MISSING, ExitCode.PREFLIGHT, ExitCode.DAMAGE)
"""Exit codes of fail=true from best to worst; a sweep has the worst of its points."""


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
    rows_in_progress: list[dict[str, Any]] = field(
        default_factory=list
    )  # divided rows: id, num_segments, num_committed
    rows_total: int | None = None  # rows of the whole input; None if no run has recorded it
    rows_total_estimated: bool = False  # the newest run has not read all of the input
    share: float | None = None  # of what is decoded, 0 to 1, as the newest run saw it; None if not recorded
    left_s: float | None = None  # seconds that the rest takes, by the newest run; None if not known
    error_rows: int = 0
    max_error_rate: float = CheckConfig().max_error_rate  # of the newest run; the default if that is not recorded
    max_failed_files: int = CheckConfig().max_failed_files  # of the newest run
    rows_per_s: float | None = None  # rows per second over the newest 100 parts
    counts: dict[str, int] = field(default_factory=dict)  # row status -> committed rows
    flags: dict[str, int] = field(default_factory=dict)  # flag -> committed rows
    tries: dict[str, int] = field(default_factory=dict)  # step of the code ladder -> decodings, in published files
    holder: dict[str, Any] | None = None  # the process that holds the lease
    holder_alive: bool | None = None  # None if this machine cannot determine it
    running: bool = False  # a process holds the lease and is alive, as far as this machine can tell
    # number, rows, replaced (rows that are published as the pass has them) and is_finished of each pass of `retry`
    passes: list[dict[str, Any]] = field(default_factory=list)
    prepared: dict[str, Any] | None = None  # shards, shards_complete, rows and tasks of a prepared job
    log: str = ""  # path of the newest log file
    ended: dict[str, Any] | None = None  # why the last run stopped: exit_code, why, at (UTC), error
    errors: list[dict[str, str]] = field(default_factory=list)  # first rows without a translation: id, status, message
    notes: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)  # published files not of their format: rel, why
    skipped: list[dict[str, str]] = field(default_factory=list)  # files that were found and are not read: rel, why

    @property
    def error_rate(self) -> float:
        """Share of the selected rows that have no translation."""
        return self.error_rows / max(1, self.rows - self.counts.get(Status.NOT_SELECTED, 0))

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of fail=true."""
        if self.state == "unreadable":
            return ExitCode.PREFLIGHT
        if self.running:
            return ExitCode.COMPLETE
        if self.state == "damaged":
            return ExitCode.DAMAGE
        if self.state != "complete":
            return ExitCode.MISSING
        return ExitCode.TOO_MANY_ERRORS if self.has_too_many_errors else ExitCode.COMPLETE

    @property
    def has_too_many_errors(self) -> bool:
        """True if more rows or files have no translation than the newest run allowed."""
        too_many_files = len(self.failed) > self.max_failed_files and self.max_error_rate < 1
        return too_many_files or self.error_rate > self.max_error_rate

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and the findings as lines too."""
        value = asdict(self) | {"findings": self.findings.to_json(), "exit_code": int(self.exit_code)}
        return value | {"problems": self.findings.lines(), "obstacles": self.findings.lines(Kind.OBSTACLE)}


@dataclass(slots=True)
class _Folder:
    """A folder that is inspected, and what is the same for all its files."""

    fs: Fs
    path: Path
    job: JobRecord
    identity_sha256: str
    states: frozenset[Path]  # state folders: files without one were not begun
    lists: frozenset[str]  # those of errors/ and review/ that have something; most files of most jobs have no list
    derive: Callable[[Measures], Sequence[str]]  # returns the flags that measurements give a row
    flag_bytes_left: int = MAX_FLAG_BYTES


def _flags_of(job: JobRecord) -> Callable[[Measures], Sequence[str]]:
    """Return what gives rows their flags under the output settings of a job."""
    recorded = identity_versions.with_added_output(output_settings.settings_of(job))
    limits = flags_of(recorded, identity_versions.loop_repeats_of(job.identity))
    return lambda measures: derive(measures, None, limits, limits.flags)


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
    logs = [name for name in list_names(fs, folder / "logs") if LOG_NAME.fullmatch(name)]
    job_status.log = str(folder / "logs" / logs[-1]) if logs else ""
    _add_holder(fs, folder, job_status)
    _add_tasks(fs, folder, job_status)
    for path, what in path_check.state_obstacles(fs, folder):
        job_status.findings.add(Kind.OBSTACLE, path.relative_to(folder), what)
    stop_record = stop_reason.read(fs, folder)
    job_status.ended = asdict(stop_record) if stop_record else None
    progress = run_progress.read(fs, folder)
    if progress is not None:
        job_status.max_error_rate, job_status.max_failed_files = progress.limits
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
    _add_passes(fs, folder, job, job_status)
    rates, flags = _Rates(), Counter[str]()
    states = frozenset(state_layout.file_states(fs, folder))
    lists = frozenset(key for key in ("errors", "review") if list_names(fs, folder / key))
    inspected = _Folder(fs, folder, job, job.identity_sha256, states, lists, _flags_of(job))
    for input in job.inputs:
        if job.layout.file_state(folder, input.file_id) in states:
            _add_file(inspected, input, job_status, rates, flags)
    job_status.counts, job_status.flags = dict(sorted(job_status.counts.items())), dict(sorted(flags.items()))
    if inspected.flag_bytes_left <= 0:
        job_status.notes.append("the flags are those of published files and of the first other rows: there are many")
    job_status.rows = sum(job_status.counts.values())
    job_status.error_rows = count_error_rows(job_status.counts)
    job_status.rows_per_s = _rows_per_s(rates.parts if len(rates.parts) > 1 else rates.records)
    job_status.errors = list(itertools.islice(error_rows.read_all(fs, folder, job), num_errors))
    complete = _is_complete(fs, folder, job, job_status)
    job_status.state = "damaged" if job_status.findings else "running" if job_status.running and not complete else ""
    if not job_status.state:
        job_status.state = "complete" if complete else "stopped"
    _add_progress(job_status, progress, complete)
    if job_status.state != "complete" and not job_status.running and job_status.ended is None:
        job_status.ended = _describe_death(job_status.holder)


def _add_passes(fs: Fs, folder: Path, job: JobRecord, job_status: JobStatus) -> None:
    """Add the passes that are part of the job, and the one that is not finished, if there is one."""
    replaced: dict[int, int] = {}
    with contextlib.suppress(StateDamagedError, KeyError, TypeError):
        replaced = {item["number"]: item["replaced"] for item in manifest.read(fs, folder).get("passes", ())}
    for job_pass in job.passes:
        rows = sum(job_pass.files.values())
        number = job_pass.number
        counts = {"number": number, "rows": rows, "replaced": replaced.get(number, 0)}
        job_status.passes.append({**counts, "is_finished": True})
    with contextlib.suppress(StateDamagedError):
        if (begun := passes.read(fs, folder, passes.next_number(job))) is not None:
            counts = {"number": begun.number, "rows": begun.num_rows, "replaced": 0}
            job_status.passes.append({**counts, "is_finished": False})


def _add_progress(job_status: JobStatus, progress: RunProgress | None, complete: bool) -> None:
    """Fill in the totals: those of a complete job are its rows, others are what the newest run recorded."""
    if complete:
        job_status.rows_total, job_status.share, job_status.left_s = job_status.rows, 1.0, 0.0
    elif job_status.prepared is not None:
        job_status.rows_total = job_status.prepared["rows"]
        job_status.share = job_status.rows / max(1, job_status.rows_total)
    elif progress is not None and progress.share != 1.0 and progress.at >= job_status.created:
        # else it is that of a job that was complete, or that was there before, and nothing is known of this one yet
        job_status.rows_total_estimated = progress.is_estimate
        if progress.num_rows is not None:
            job_status.rows_total = max(progress.num_rows, job_status.rows)
        job_status.share, job_status.left_s = progress.share, progress.seconds_left
        if job_status.running and progress.seconds_left is not None:
            age_s = (datetime.now(UTC) - datetime.fromisoformat(progress.at)).total_seconds()
            job_status.left_s = round(max(0.0, progress.seconds_left - max(0.0, age_s)), 1)


def _describe_death(holder: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return why a run stopped that left its lease behind and recorded no reason; None if there is no such run."""
    if holder is None:
        return None
    why = (
        f"process {holder['pid']} on {holder['host']} ended without a word: it was killed (as when memory runs out), "
        "or its machine went down"
    )
    beat = datetime.fromtimestamp(time.time() - holder["beat_age_s"], UTC) if holder["beat_age_s"] is not None else None
    return {"exit_code": None, "why": why, "at": beat.isoformat(timespec="seconds") if beat else "", "error": None}


def _add_from_manifest(fs: Fs, folder: Path, job_status: JobStatus, num_errors: int) -> bool:
    """Fill in the status of a finished folder without state; return False if it has state, or no valid manifest."""
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return False
    if not manifest_only.has_no_state(fs, folder):
        return False
    job_status.files = job_status.files_published = len(value["inputs"])
    job_status.failed = list(value.get("failed", ()))
    job_status.rows, job_status.counts = manifest.count_texts([value]), dict(value["counts"])
    job_status.error_rows, job_status.flags = count_error_rows(job_status.counts), dict(value["flags"])
    job_status.tries = dict(value.get("tries", {}))
    job_status.rows_total, job_status.share, job_status.left_s = job_status.rows, 1.0, 0.0
    for file in (*value["outputs"], *value["errors"], *value.get("review", ())):
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
    alive, beat_age_s = holders.is_alive(holder, holders.current_process()), job_status.holder["beat_age_s"]
    job_status.holder_alive = alive
    job_status.running = bool(alive) or (alive is None and (beat_age_s is None or beat_age_s <= MAX_BEAT_AGE_S))


def _add_tasks(fs: Fs, folder: Path, job_status: JobStatus) -> None:
    """Fill in the tasks of a prepared job, one of which is enough for the job to be running."""
    try:
        tasks = task_status.read(fs, folder, MAX_BEAT_AGE_S)
    except IdentityError as error:
        job_status.findings.add(Kind.DAMAGE, ".hymt/plan.json", error.why or error.what)
        return
    except PreflightError:
        return  # this user may not read it, as what is read below
    if tasks is not None:
        job_status.prepared = asdict(tasks)
        job_status.running = job_status.running or tasks.num_working > 0


def _describe_tasks(prepared: dict[str, Any]) -> list[str]:
    """Return lines about the shards of a prepared job and the tasks that work on them."""
    complete, shards = prepared["shards_complete"], prepared["shards"]
    lines = [
        f"  prepared  {complete:,} of {plural(shards, 'shard')} complete, {plural(prepared['rows'], 'row')} in all"
    ]
    for task in prepared["tasks"][:MAX_TASKS]:
        state = "works on it" if task["working"] else "is dead" if task["alive"] is False else "is silent"
        lines.append(
            f"  task      shard {task['shard']}: process {task['pid']} on {task['host']} since {task['since']} "
            f"{state}, last heartbeat {task['beat_age_s']} s ago"
        )
    if (more := len(prepared["tasks"]) - MAX_TASKS) > 0:
        lines.append(f"  task      and {more:,} more")
    return lines


def _add_file(inspected: _Folder, input: Input, job_status: JobStatus, rates: _Rates, flags: Counter[str]) -> None:
    fs, folder = inspected.fs, inspected.path
    record = file_record.read_record(fs, folder, input, inspected.job.layout)
    if record is not None and file_record.is_current(record, inspected.job, input, inspected.identity_sha256):
        job_status.files_published += 1
        num_shards = len(file_record.shard_table_of(record))
        job_status.shards += num_shards
        job_status.shards_complete += num_shards
        _add_counts(job_status, record["counts"])
        flags.update(record["flags"])
        job_status.tries = manifest.sum_counts([job_status.tries, record.get("tries", {})])
        job_status.failed += manifest.failed_files([record])
        published = [(manifest.translated_path(folder, input.out_rel), record["output"])]
        for key, path in manifest.list_paths(folder, input.rel).items():
            if record.get(key) or key in inspected.lists:
                published.append((path, record.get(key)))
        for path, recorded in published:
            file_stat = stat_or_none(fs, path)
            if (file_stat.size if file_stat else None) != (recorded["bytes"] if recorded else None):
                job_status.findings.add(Kind.DAMAGE, path.relative_to(folder), NOT_PUBLISHED)
        return
    entries = list(state_layout.shard_entries(fs, inspected.job.layout.file_state(folder, input.file_id)))
    recorded_shards = set()
    for path in entries:
        if match := row_record.RECORD_NAME.fullmatch(path.name):
            decode = row_record.decode_header
            header = _read_state(inspected, path, decode, _rows_of_record, job_status, flags)
            if header is not None:
                recorded_shards.add(int(match[1]))
                job_status.shards += 1
                job_status.shards_complete += 1
                _add_counts(job_status, header[0].counts)
                rates.records.append((header[1], header[0].shard.num_rows))
    for shard in entries:
        match = parts.SHARD_NAME.fullmatch(shard.name)
        if not match or int(match[1]) in recorded_shards:  # parts beside their record are about to be removed
            continue
        num_committed, num_parts = 0, -1
        part_names = list_names(fs, shard)
        runs = [name for name in part_names if parts.RUN_NAME.fullmatch(name)]
        _add_runs(
            inspected,
            shard,
            [run for run in runs if run.partition("-")[0] not in part_names],
            job_status,
        )
        for name in part_names:
            if not parts.PART_NAME.fullmatch(name):
                continue
            path, decode_part = shard / name, parts.decode_header
            part_header = _read_state(inspected, path, decode_part, _rows_of_part, job_status, flags)
            if part_header is not None:
                num_committed, num_parts = num_committed + 1, part_header[0].num_parts
                _add_counts(job_status, part_header[0].counts)
                rates.parts.append((part_header[1], part_header[0].num_rows))
        job_status.shards += num_committed > 0 or bool(runs)
        job_status.shards_complete += num_committed == num_parts
        job_status.parts += num_committed


def _add_runs(inspected: _Folder, shard_folder: Path, names: list[str], job_status: JobStatus) -> None:
    """Add the divided rows that have these runs; a damaged run becomes a problem."""
    headers = []
    for name in names:
        try:
            headers.append(segment_run.read_header(inspected.fs, shard_folder / name))
        except FileNotFoundError:
            continue  # another process removed it after the listing
        except StateFileDamagedError as error:
            path = (shard_folder / name).relative_to(inspected.path)
            job_status.findings.add(Kind.DAMAGE, path, str(error))
    job_status.rows_in_progress += map(asdict, rows_in_progress(headers))


def _read_state(
    inspected: _Folder,
    path: Path,
    decode_header: Callable[[bytes], H],
    rows_of: Callable[[bytes], bytes],
    job_status: JobStatus,
    flags: Counter[str],
) -> tuple[H, int] | None:
    """Return the header of a part or record and its modification time in ns, and count the flags of its rows.

    Args:
        inspected: The folder.
        path: The part or record. A damaged one becomes a problem.
        decode_header: Decodes its first line.
        rows_of: Returns the lines of its rows; called as long as MAX_FLAG_BYTES allow.
        job_status: Gets the problem.
        flags: Counts of flags.
    """
    fs = inspected.fs
    try:
        data = fs.read(path, 0, READ_BYTES)
        line = data.partition(b"\n")[0] if b"\n" in data else state_file.read_header_line(fs, path)
        header, mtime_ns = decode_header(line), fs.stat(path).mtime_ns
    except FileNotFoundError:
        return None  # another process removed it after the listing
    except PermissionError:
        raise
    except (OSError, StateFileDamagedError) as error:
        job_status.findings.add(Kind.DAMAGE, path.relative_to(inspected.path), str(error))
        return None
    if inspected.flag_bytes_left > 0:
        with contextlib.suppress(OSError, StateFileDamagedError, zlib.error, ValueError):  # the next run checks them
            if len(data) == READ_BYTES:
                data = fs.read(path, 0, inspected.flag_bytes_left)
            inspected.flag_bytes_left -= len(data)
            flags.update(row_lines.count_flags(rows_of(data), inspected.derive))
    return header, mtime_ns


def _rows_of_record(data: bytes) -> bytes:
    return zlib.decompress(row_record.decode_payload(data)[1])


def _rows_of_part(data: bytes) -> bytes:
    return parts.decode_payload(data)[1]


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


def _describe_progress(job_status: JobStatus) -> list[str]:
    """Return lines about the rows that are being decoded and about the rest of the work."""
    lines: list[str] = []
    for row in job_status.rows_in_progress[:20]:
        num_segments = plural(row["num_segments"], "segment")
        lines.append(f"  long row  {escape_line(row['id'])}: {row['num_committed']:,} of {num_segments} done")
    if job_status.share is not None and job_status.state != "complete":
        left_s = job_status.left_s
        left = f", about {format_duration(left_s)} left" if left_s is not None else ""
        lines.append(f"  done      {math.floor(100 * min(job_status.share, 0.999))} % of the work{left}")
    return lines


def render(job_status: JobStatus) -> str:
    """Return the status as text."""
    lines = [f"{job_status.folder}: {job_status.state}"]
    if job_status.files:
        lines += [
            f"  created   {job_status.created}",
            f"  files     {job_status.files_published} of {job_status.files} published",
            f"  shards    {job_status.shards_complete} complete of {job_status.shards} begun",
            f"  parts     {job_status.parts} waiting to be assembled",
            f"  rows      {_describe_rows(job_status)}",
        ]
    if job_status.prepared is not None and job_status.state != "complete":
        lines += _describe_tasks(job_status.prepared)
    lines += _describe_progress(job_status)
    if errors := {name: count for name, count in job_status.counts.items() if name in ERROR_STATUSES}:
        lines.append(f"  errors    {_describe_counts(errors)}")
    if job_status.state == "complete" and job_status.error_rate > job_status.max_error_rate:
        rate = f"{100 * job_status.error_rate:.2f} % of the rows have no translation"
        lines.append(f"  errors    {rate}, more than check.max_error_rate={job_status.max_error_rate:g}")
    for file in job_status.failed[:MAX_FAILED]:
        lines.append(f"  failed    {file['why']}")
    if (more := len(job_status.failed) - MAX_FAILED) > 0:
        lines.append(f"  failed    and {plural(more, 'more file')}")
    if job_status.flags:
        lines.append(f"  flags     {_describe_counts(job_status.flags)}")
    if job_status.tries:
        lines.append(f"  tries     {_describe_counts(job_status.tries)}")
    for item in job_status.passes:
        result = f"{item['replaced']:,} replaced" if item["is_finished"] else "not finished: run the same retry again"
        lines.append(f"  pass {item['number']}    {plural(item['rows'], 'row')} decoded again, {result}")
    if job_status.rows_per_s is not None:
        lines.append(f"  speed     {job_status.rows_per_s:g} rows/s over the newest parts")
    if job_status.holder is not None:
        beat = f"last heartbeat {job_status.holder['beat_age_s']} s ago"
        liveness = {True: "alive", False: "dead", None: beat if job_status.running else f"{beat}: probably dead"}
        lines.append(
            f"  held by   process {job_status.holder['pid']} on {job_status.holder['host']} since "
            f"{job_status.holder['since']}, {liveness[job_status.holder_alive]}"
        )
    if job_status.ended is not None and job_status.state not in ("running", "complete"):
        stop_record = job_status.ended
        code = "" if stop_record["exit_code"] is None else f" with exit code {stop_record['exit_code']}"
        lines.append(f"  ended     {stop_record['at']}{code}: {stop_record['why']}")
    if job_status.log:
        lines.append(f"  log       {job_status.log}")
    lines += [f"  error     {row['id']} {row['status']}: {escape_line(row['message'])}" for row in job_status.errors]
    if job_status.skipped:
        lines.append(f"  skipped   {plural(len(job_status.skipped), 'file')}, not read")
        lines += [f"            {escape_line(file['rel'])}: {file['why']}" for file in job_status.skipped[:20]]
    if len(job_status.skipped) > 20:
        lines.append(f"            and {len(job_status.skipped) - 20} more")
    lines += [f"  note      {note}" for note in job_status.notes]
    lines += [f"  problem   {problem}" for problem in job_status.findings.lines()[:20]]
    if len(job_status.findings) > 20:
        lines.append(f"  problem   and {len(job_status.findings) - 20} more")
    if next_step := _next_step(job_status):
        lines.append(f"  {next_step}")
    return "\n".join(lines)


def _next_step(job_status: JobStatus) -> str:
    """Return what to do now; "" if nothing is to be done."""
    if job_status.findings.lines(Kind.OBSTACLE):
        return FIXES[Kind.OBSTACLE]
    if job_status.state == "damaged":
        return "Run the job again to rebuild what is damaged."
    if job_status.state == "stopped" and job_status.prepared is not None:
        return "Run the tasks of the shards that hymt-batch missing prints, then hymt-batch merge."
    return "Run the same command again to continue." if job_status.state == "stopped" else ""


def escape_line(message: str) -> str:
    """Escape line breaks and tabs of a message, and shorten it to one line of MAX_MESSAGE_CHARS."""
    line = message.replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def _describe_rows(job_status: JobStatus) -> str:
    """Return how many rows are committed, of how many, and how many of them have no translation."""
    total, rows = job_status.rows_total, job_status.rows
    is_partial = total is not None and job_status.state != "complete"
    of_all = f" of {'about ' if job_status.rows_total_estimated else ''}{total}" if is_partial else ""
    return f"{rows}{of_all} committed, {job_status.error_rows} of them without a translation"


def _describe_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def render_line(job_status: JobStatus) -> str:
    """Return the status of a point of a sweep, on one line."""
    if not job_status.files:
        return f"{job_status.folder}: {job_status.state}"
    files = f"{job_status.files_published} of {plural(job_status.files, 'file')} published"
    rows = _describe_rows(job_status).replace(" committed", " rows committed")
    return f"{job_status.folder}: {job_status.state}, {files}, {rows}"


def run(job: StatusJob) -> ExitCode:
    """Print the status of a job, or one line per point of a sweep.

    Returns:
        COMPLETE; with fail=true, the worst `JobStatus.exit_code` of the job or of its points.

    Raises:
        UsageError: There is no such folder, or it is not that of a job.
    """
    parent = Path(job.output_dir) / job.name
    folders = job_folders.find(OS_FS, parent)
    reports = [status(folder, num_errors=job.errors) for folder in folders]
    for report in reports:
        report.max_error_rate = report.max_error_rate if job.max_error_rate is None else job.max_error_rate
    is_sweep = folders != [parent]
    if job.format.value == "json":
        lines = [json.dumps(report.to_json(), sort_keys=True) for report in reports]  # one line a point
    elif is_sweep:
        num_complete = sum(report.state == "complete" for report in reports)
        lines = [f"{parent}: {num_complete} of {plural(len(reports), 'point')} complete"]
        lines += map(render_line, reports)
    else:
        lines = [render(report) for report in reports]
    for line in lines:
        streams.print_result(sanitize.sanitize_text(line))
    codes = [report.exit_code for report in reports]
    return max(codes, key=SEVERITY.index) if job.fail else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("status")
