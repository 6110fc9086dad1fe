"""Show the progress of a job from its files: `hymt-batch status name=NAME`.

Reads headers, not payloads, and changes nothing. Imports nothing heavy.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest, shown, streams
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS, Fs, exists, names
from hymt_batch.manifest import Job, StateDamage, StateDenied, StateMissing
from hymt_batch.records import ERROR_STATUSES, Input
from hymt_batch.write import ending, error_rows, final, finished, job_folders, lease, place
from hymt_batch.write import holder as holders
from hymt_batch.write import part as parts
from hymt_batch.write.folder import read_header

if TYPE_CHECKING:
    from hymt_batch.schema import StatusJob


MAX_SHOWN = 300  # characters of a message
PAUSE_S, PAUSES = 60.0, 10
"""A gap between two parts that is longer than both, in seconds and in usual gaps, is a job that did not run."""


@dataclass(slots=True)
class Status:
    """How far a job is."""

    folder: str
    state: str = "not started"  # not started, running, stopped, complete, damaged or unreadable (by this user)
    problems: list[str] = field(default_factory=list)
    created: str = ""
    files: int = 0
    files_published: int = 0
    shards: int = 0  # begun
    shards_complete: int = 0
    parts: int = 0  # committed and still needed; none are left of a complete job
    rows: int = 0  # committed
    error_rows: int = 0
    rows_per_s: float | None = None  # over the last 100 parts
    counts: dict[str, int] = field(default_factory=dict)
    holder: dict[str, Any] | None = None  # of the lease
    holder_alive: bool | None = None  # None: this machine cannot tell
    log: str = ""  # the newest
    ended: dict[str, Any] | None = None  # why the last run stopped: exit_code, why, at (UTC)
    errors: list[dict[str, str]] = field(default_factory=list)  # first rows without a translation: id, status, message
    notes: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)  # of `problems`: what stands in the place of a file or folder


def status(folder: Path, fs: Fs = OS, num_errors: int = 0) -> Status:
    """The state of an output folder. Never raises for what is in it.

    Args:
        folder: The output folder.
        fs: The store.
        num_errors: Rows without a translation to tell.
    """
    found, fs = Status(str(folder)), fs.within(folder)
    try:
        _look(fs, folder, found, num_errors)
    except OSError as error:
        denied = isinstance(error, PermissionError)
        found.state = "unreadable" if denied else "damaged"
        why = "this user may not read it" if denied else error.strerror or str(error)
        found.problems.append(f"{os.fsdecode(error.filename or folder)}: {why}")
    return found


def _look(fs: Fs, folder: Path, found: Status, num_errors: int) -> None:
    logs = names(fs, folder / "logs")
    found.log = str(folder / "logs" / logs[-1]) if logs else ""
    _holder(fs, folder, found)
    found.obstacles = [f"{path.relative_to(folder)}: {what}" for path, what in place.in_state(fs, folder)]
    found.problems += found.obstacles
    last = ending.read(fs, folder)
    found.ended = asdict(last) if last else None
    try:
        job = manifest.read_job(fs, folder)
    except StateDamage as damage:
        if isinstance(damage, StateDenied):
            raise PermissionError(errno.EACCES, "denied", str(manifest.state(folder) / "job.json")) from None
        if isinstance(damage, StateMissing) and _by_manifest(fs, folder, found, num_errors):
            return
        if not isinstance(damage, StateMissing) or exists(fs, folder / "manifest.json"):
            found.state = "damaged"
            found.problems.append(f".hymt/job.json: {damage}")
        return
    found.created, found.files = job.created, len(job.inputs)
    if _by_manifest(fs, folder, found, num_errors):
        return
    rates: list[tuple[int, int]] = []  # mtime in ns, rows
    for input in job.inputs:
        _file(fs, folder, job, input, found, rates)
    found.counts = dict(sorted(found.counts.items()))
    found.rows = sum(found.counts.values())
    found.error_rows = sum(n for name, n in found.counts.items() if name in ERROR_STATUSES)
    found.rows_per_s = _rate(rates)
    found.errors = list(itertools.islice(error_rows.first(fs, folder, job), num_errors))
    complete = _complete(fs, folder, job, found)
    held = found.holder is not None and found.holder_alive is not False
    found.state = "damaged" if found.problems else "running" if held and not complete else "stopped"
    if complete and not found.problems:
        found.state = "complete"


def _by_manifest(fs: Fs, folder: Path, found: Status, num_errors: int) -> bool:
    """Tell of a finished folder that lost its state; False where it has one, or no manifest."""
    try:
        value = manifest.read(fs, folder)
    except StateDamage:
        return False
    if not finished.bare(fs, folder):
        return False
    found.files = found.files_published = len(value["outputs"])
    found.rows, found.counts = value["rows"], dict(value["counts"])
    found.error_rows = sum(n for name, n in found.counts.items() if name in ERROR_STATUSES)
    for file in (*value["outputs"], *value["errors"]):
        at = exists(fs, folder / file["path"])
        if (at.size if at else None) != file["bytes"]:
            found.problems.append(f"{file['path']}: is not what was published")
    rows = (row for file in value["errors"] for row in error_rows.listed(fs, folder / file["path"]))
    found.errors = list(itertools.islice(rows, num_errors))
    found.state, found.notes = "damaged" if found.problems else "complete", [finished.NOTE]
    return True


def _holder(fs: Fs, folder: Path, found: Status) -> None:
    holder = lease.read(fs, folder)
    if holder is None:
        return
    at = exists(fs, lease.lease_path(folder))
    found.holder = {name: getattr(holder, name) for name in ("host", "pid", "since", "epoch", "slurm_job")}
    found.holder["beat_age_s"] = max(0.0, round(time.time() - at.mtime_ns / 1e9, 1)) if at else None
    found.holder_alive = holders.alive(holder, holders.myself())


def _file(fs: Fs, folder: Path, job: Job, input: Input, found: Status, rates: list[tuple[int, int]]) -> None:
    record = final.read_record(fs, folder, input)
    if record is not None and record["identity"] == job.key:
        found.files_published += 1
        num_shards = len(final.shards(record))
        found.shards += num_shards
        found.shards_complete += num_shards
        _add(found, record["counts"])
        for path, wanted in (
            (manifest.translated(folder, input.out_rel), record["output"]),
            (manifest.errors_file(folder, input.rel), record["errors"]),
        ):
            at = exists(fs, path)
            if (at.size if at else None) != (wanted["bytes"] if wanted else None):
                found.problems.append(f"{path.relative_to(folder)}: is not what was published")
        return
    home = manifest.file_state(folder, input.file_id)
    for shard in names(fs, home):
        if not parts.SHARD_NAME.fullmatch(shard):
            continue
        here, num_parts = 0, -1
        for name in names(fs, home / shard):
            if not parts.NAME.fullmatch(name):
                continue
            try:
                header = read_header(fs, home / shard / name)
                at = fs.stat(home / shard / name)
            except FileNotFoundError:
                continue  # collected while we look
            except PermissionError:
                raise
            except (OSError, parts.PartDamage) as error:
                found.problems.append(f"{(home / shard / name).relative_to(folder)}: {error}")
                continue
            here, num_parts = here + 1, header.num_parts
            _add(found, header.counts)
            rates.append((at.mtime_ns, header.num_rows))
        found.shards += here > 0
        found.shards_complete += here == num_parts
        found.parts += here


def _add(found: Status, counts: dict[str, int]) -> None:
    for name, number in counts.items():
        found.counts[name] = found.counts.get(name, 0) + number


def _rate(rates: list[tuple[int, int]]) -> float | None:
    """Rows a second over the newest 100 parts; the first of them only marks the start, and a pause is left out."""
    newest = sorted(rates)[-100:]
    steps = [((at - before) / 1e9, rows) for (before, _), (at, rows) in itertools.pairwise(newest)]
    usual = statistics.median(seconds for seconds, _ in steps) if steps else 0.0
    steps = [(seconds, rows) for seconds, rows in steps if seconds <= max(PAUSE_S, PAUSES * usual)]
    seconds = sum(step for step, _ in steps)
    return round(sum(rows for _, rows in steps) / seconds, 2) if seconds > 0 else None


def _complete(fs: Fs, folder: Path, job: Job, found: Status) -> bool:
    """Whether the manifest is this job's; it is written last of all."""
    try:
        whole = manifest.read(fs, folder)
    except StateMissing:
        return False
    except StateDenied:
        raise PermissionError(errno.EACCES, "denied", str(folder / "manifest.json")) from None
    except StateDamage as damage:
        found.problems.append(f"manifest.json: {damage}")
        return False
    return whole["identity"] == job.identity and found.files_published == found.files


def render(found: Status) -> str:
    """The status as lines for people."""
    lines = [f"{found.folder}: {found.state}"]
    if found.files:
        lines += [
            f"  created   {found.created}",
            f"  files     {found.files_published} of {found.files} published",
            f"  shards    {found.shards_complete} complete of {found.shards} begun",
            f"  parts     {found.parts} waiting to be assembled",
            f"  rows      {found.rows} committed, {found.error_rows} of them without a translation",
        ]
    if found.rows_per_s is not None:
        lines.append(f"  speed     {found.rows_per_s:g} rows/s over the newest parts")
    if found.holder is not None:
        living = {True: "alive", False: "dead", None: f"last sign of life {found.holder['beat_age_s']} s ago"}
        lines.append(
            f"  held by   process {found.holder['pid']} on {found.holder['host']} since {found.holder['since']}, "
            f"{living[found.holder_alive]}"
        )
    if found.ended is not None and found.state not in ("running", "complete"):
        last = found.ended
        lines.append(f"  ended     {last['at']} with exit code {last['exit_code']}: {last['why']}")
    if found.log:
        lines.append(f"  log       {found.log}")
    lines += [f"  error     {row['id']} {row['status']}: {escaped(row['message'])}" for row in found.errors]
    lines += [f"  note      {note}" for note in found.notes]
    lines += [f"  problem   {problem}" for problem in found.problems[:20]]
    if len(found.problems) > 20:
        lines.append(f"  problem   and {len(found.problems) - 20} more")
    if found.obstacles:
        lines.append("  Move away what stands in the place of a file or folder, then run the same command again.")
    elif found.state == "damaged":
        lines.append("  Run the job again: what is damaged is made anew.")
    elif found.state == "stopped":
        lines.append("  Run the same command again to continue.")
    return "\n".join(lines)


def escaped(message: str) -> str:
    """The one line of a message that is shown; a line break in it is spelled."""
    line = message.replace("\n", "\\n").replace("\t", "\\t")
    return line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 1] + "…"


def in_short(found: Status) -> str:
    """The status of a point of a sweep, on one line."""
    done = f"{found.files_published} of {found.files} files published, {found.rows} rows committed"
    return f"{found.folder}: {found.state}, {done}, {found.error_rows} of them without a translation"


def run(job: StatusJob) -> ExitCode:
    """Print the status, of a sweep one line a point; whatever it is, telling it succeeded.

    Raises:
        UsageError: There is no such folder.
    """
    folders = job_folders.find(OS, Path(job.output_dir) / job.name)
    for folder in folders:
        found = status(folder, num_errors=job.errors)
        if job.format.value == "json":
            streams.show(shown.shown(json.dumps(asdict(found), sort_keys=True)))  # one line a point
        else:
            streams.show(shown.shown(render(found) if len(folders) == 1 else in_short(found)))
    return ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("status")
