"""Gather what the report of a job shows, from the files of its folder. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import HymtError
from hymt_batch.evaluate import store
from hymt_batch.evaluate.store import StoredScores
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict, StateDamagedError
from hymt_batch.records import SkippedFile, Status
from hymt_batch.report import examples, figures, history
from hymt_batch.report.figures import Figures
from hymt_batch.report.history import History
from hymt_batch.report.measure import BLANK, Measured, Reservoir, measure
from hymt_batch.write import file_record, input_locations, manifest_only, run_progress, task_status
from hymt_batch.write.task_status import TaskStatus
from hymt_batch.write.timeline import Interval

MAX_BEAT_AGE_S = 300.0
"""A task on another machine counts as working until its heartbeat is older, as in `status`."""


@dataclass(frozen=True, slots=True)
class JobData:
    """What is known of one job."""

    name: str
    job: JobRecord
    is_complete: bool
    num_inputs: int
    figures: Figures
    timeline: Sequence[Interval] = ()
    measured: Measured = field(default_factory=Measured)
    errors: Mapping[str, Reservoir] = field(default_factory=dict)  # by status
    skipped: Sequence[SkippedFile] = ()
    history: History | None = None
    tasks: TaskStatus | None = None  # of a prepared job
    scores: StoredScores | None = None  # of `evaluate`
    max_error_rate: float | None = None  # of the newest run

    @property
    def languages(self) -> tuple[str | None, str | None]:
        prompt = self.job.identity.get("prompt") or {}
        return prompt.get("src_lang"), prompt.get("tgt_lang")


def gather(fs: Fs, folder: Path, records: Sequence[JsonDict] | None = None) -> JobData:
    """Return what is known of the job in a folder.

    Args:
        fs: The file system.
        folder: The output folder.
        records: The records of all its files, if the caller has them; the job is complete then.

    Raises:
        StateDamagedError: The folder has neither a readable job nor a manifest.
    """
    if manifest_only.has_no_state(fs, folder) and (data := _of_manifest(fs, folder)) is not None:
        return data
    job = manifest.read_job(fs, folder)
    is_complete = is_ending = records is not None
    if records is None:
        records = list(_published(fs, folder, job))
        is_complete = len(records) == len(job.inputs) and _has_manifest(fs, folder, job)
    by_name = {record["rel"]: record for record in records}
    measured = measure(fs, folder, job, by_name)
    sums = figures.of_records(records)
    missing = [flag for flag in sums.flags if flag != BLANK and flag not in measured.examples]
    measured.examples |= examples.find_flagged(fs, folder, _having(records, "review"), missing)
    progress = run_progress.read(fs, folder)
    return JobData(
        name=folder.name,
        job=job,
        is_complete=is_complete,
        num_inputs=len(job.inputs),
        figures=sums,
        timeline=progress.timeline if progress else (),
        measured=measured,
        errors=examples.find_errors(fs, folder, _having(records, "errors")),
        skipped=_skipped(fs, folder),
        history=history.read(fs, folder, time.time() if is_ending else None),
        tasks=_tasks(fs, folder),
        scores=store.read(fs, folder),
        max_error_rate=progress.max_error_rate if progress else None,
    )


def _of_manifest(fs: Fs, folder: Path) -> JobData | None:
    """Return what a manifest alone tells; None without one."""
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return None
    sums = figures.of_manifest(value)
    job = JobRecord(dict(value["identity"]), (), {}, "", dict(value.get("output_settings", {})))
    rels = [str(source["rel"]) for source in value["inputs"]]
    found = Measured()
    found.examples |= examples.find_flagged(fs, folder, rels, [flag for flag in sums.flags if flag != BLANK])
    return JobData(
        name=folder.name,
        job=job,
        is_complete=True,
        num_inputs=len(rels),
        figures=sums,
        measured=found,
        errors=examples.find_errors(fs, folder, rels) if value["errors"] else {},
        skipped=manifest.skipped_in(value),
        scores=store.read(fs, folder),
    )


def _published(fs: Fs, folder: Path, job: JobRecord) -> Iterable[JsonDict]:
    identity_sha256 = job.identity_sha256
    for input in job.inputs:
        record = file_record.read_record(fs, folder, input, job.layout)
        if record is not None and file_record.is_current(record, job, input, identity_sha256):
            yield {key: value for key, value in record.items() if key != "shards"}


def _has_manifest(fs: Fs, folder: Path, job: JobRecord) -> bool:
    try:
        return bool(manifest.read(fs, folder)["identity"] == job.identity)
    except StateDamagedError:
        return False


def _having(records: Sequence[JsonDict], key: str) -> list[str]:
    return [record["rel"] for record in records if record.get(key)]


def _skipped(fs: Fs, folder: Path) -> Sequence[SkippedFile]:
    listed = manifest.read_skipped(fs, folder)
    return input_locations.read_skipped(fs, folder) if listed is None else listed


def _tasks(fs: Fs, folder: Path) -> TaskStatus | None:
    try:
        return task_status.read(fs, folder, MAX_BEAT_AGE_S)
    except (HymtError, OSError):
        return None


def num_not_ok(sums: Figures) -> int:
    """Return the texts whose status is another one than ok and that were selected."""
    return sum(count for status, count in sums.counts.items() if status not in (Status.OK, Status.NOT_SELECTED))
