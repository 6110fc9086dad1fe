"""Compare finished jobs, or the points of a sweep, by what their folders hold. Reads only, and no input.

Two jobs are compared row by row where both translated the same row of the same input into the same language: rows whose
text or status differs have changed. The texts are those that the model gave, so output settings make no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.evaluate import store
from hymt_batch.fs import OS_FS
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, StateDamagedError, StateMissingError
from hymt_batch.records import ERROR_STATUSES, Row, Status, count_error_rows
from hymt_batch.write import file_record, lease, stop_reason
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.pass_rows import PassRows, is_as_good
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.state_file import StateFileDamagedError

MAX_STATUS_BYTES = 1 << 20
COMPLETE = "complete"


@dataclass(slots=True)
class Point:
    """One job of a comparison."""

    name: str
    folder: str
    state: str = "not started"  # complete, running, stopped, damaged or not started
    why: str = ""  # why it is not complete, if that is known
    rows: int = 0  # texts
    errors: int = 0  # rows without a translation
    flags: dict[str, int] = field(default_factory=dict)
    new_tokens: int = 0
    rows_per_s: float | None = None  # of the run that completed it, with the loading of the model
    seconds: float | None = None
    tgt_lang: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # those that are not the same in all complete jobs
    scores: dict[str, float] = field(default_factory=dict)  # metric -> score; with its language where there are several
    scores_are_stale: bool = False  # they are of an earlier output
    changed: int | None = None  # rows that differ from those of the baseline; None if they cannot be compared
    compared: int | None = None  # rows that were compared
    notes: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        return self.state == COMPLETE


def compare(folders: Mapping[str, Path], baseline: str | None = None, fs: Fs = OS_FS) -> list[Point]:
    """Compare jobs.

    Args:
        folders: Name of each job -> its folder.
        baseline: Name of the job with whose rows those of the others are compared; None: the first complete one.
        fs: The file system.

    Returns:
        A point per job, in the same order.
    """
    points, manifests = [], dict[str, JsonDict]()
    for name, folder in folders.items():
        point, value = _read_point(fs.within(folder), name, folder)
        points.append(point)
        if value is not None:
            manifests[name] = value
    complete = [point for point in points if point.is_complete]
    _add_settings(complete, manifests)
    reference = next((point for point in complete if baseline in (None, point.name)), None)
    if reference is not None and len(complete) > 1:
        rows = _rows_of(fs, reference)
        for point in complete:
            if point is not reference:
                _compare_rows(fs, point, reference, rows)
    elif reference is None and baseline is not None:
        for point in complete:
            point.notes.append(f"changed rows are not counted: the baseline {baseline} is not complete")
    return points


def _read_point(fs: Fs, name: str, folder: Path) -> tuple[Point, JsonDict | None]:
    """Return a job, and its manifest if it is complete."""
    point = Point(name, str(folder))
    try:
        value = manifest.read(fs, folder)
    except StateMissingError:
        _add_reason(fs, folder, point)
        return point, None
    except StateDamagedError as damage:
        point.state, point.why = "damaged", f"manifest.json: {damage}"
        return point, None
    point.state = COMPLETE
    point.rows, point.errors = manifest.count_texts([value]), count_error_rows(value["counts"])
    point.flags, point.new_tokens = dict(value["flags"]), int(value["tokens"].get("new", 0))
    point.tgt_lang = str((value["identity"].get("prompt") or {}).get("tgt_lang") or "")
    _add_speed(fs, folder, point)
    _add_scores(fs, folder, point)
    return point, value


def _add_reason(fs: Fs, folder: Path, point: Point) -> None:
    """Say why a job has no manifest."""
    try:
        manifest.read_job(fs, folder)
    except StateMissingError:
        pass
    except StateDamagedError as damage:
        point.state, point.why = "damaged", f".hymt/job.json: {damage}"
        return
    else:
        point.state = "stopped"
    holder = lease.read(fs, folder)
    if holder is not None and holders.is_alive(holder, holders.current_process()) is not False:
        point.state = "running"
        return
    reason = stop_reason.read(fs, folder)
    if reason is not None:
        point.state, point.why = "stopped", f"exit code {reason.exit_code}: {reason.why}"


def _add_speed(fs: Fs, folder: Path, point: Point) -> None:
    """Take the speed from status.json, a hint of the run that completed the job; unknown if it is not there."""
    try:
        value = json.loads(fs.read(folder / "status.json", 0, MAX_STATUS_BYTES))
        seconds, decoded = float(value["seconds"]), int(value["rows_decoded"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if value.get("state") == COMPLETE and seconds > 0 and decoded > 0:
        point.seconds, point.rows_per_s = seconds, round(decoded / seconds, 2)


def _add_scores(fs: Fs, folder: Path, point: Point) -> None:
    stored = store.read(fs, folder)
    if stored is None:
        return
    point.scores_are_stale = stored.is_stale
    languages = stored.value.get("languages", [])
    for language in languages:
        suffix = f" {language['tgt_lang']}" if len(languages) > 1 else ""
        for name, metric in sorted(language["metrics"].items()):
            point.scores[f"{name}{suffix}"] = float(metric["score"])


def _add_settings(points: Sequence[Point], manifests: Mapping[str, JsonDict]) -> None:
    """Give each point the settings and the environment in which the points differ."""
    flat = {point.name: _flatten(_recorded(manifests[point.name])) for point in points}
    keys = sorted({key for values in flat.values() for key in values})
    for key in keys:
        values = [flat[point.name].get(key, manifest.MISSING) for point in points]
        if any(value != values[0] for value in values):
            for point, value in zip(points, values, strict=True):
                point.settings[key] = value


def _recorded(value: JsonDict) -> JsonDict:
    """Return what a manifest records of the settings; the environment only if all parts have the same."""
    environments = value.get("environments", [])
    environment = environments[0] if len(environments) == 1 else {}
    identity = {key: item for key, item in value["identity"].items() if key != "version"}
    return {**identity, "output": value.get("output_settings", {}), "environment": environment}


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for name, item in value.items():
            flat |= _flatten(item, f"{key}.{name}" if key else str(name))
        return flat
    return {key: value}


Rows = dict[tuple[str, int], Row]
"""Id of a file and index of a row -> the row."""


def _rows_of(fs: Fs, point: Point) -> Rows:
    """Return the rows of a job with those of its passes; none where they were not kept or are damaged."""
    return {(file_id, row.row_index): row for file_id, row in _read_rows(fs, Path(point.folder))}


def _read_rows(fs: Fs, folder: Path) -> Iterator[tuple[str, Row]]:
    fs = fs.within(folder)
    try:
        job = manifest.read_job(fs, folder)
    except StateDamagedError:
        return
    records = RecordStore(fs, folder, job.identity_sha256, job.layout)
    pass_rows = PassRows(fs, folder, job, _refuse_damage)
    for input in job.inputs:
        try:
            record = file_record.read_record(fs, folder, input, job.layout)
            for shard in file_record.shard_table_of(record) if record is not None else ():
                recorded = records.read(input.file_id, shard.index)
                later_rows = pass_rows.load(input.file_id, shard)
                for row in recorded[1].rows if recorded is not None else ():
                    yield input.file_id, _best(row, later_rows.get(row.row_index, ()))
        except (OSError, StateFileDamagedError):
            continue


def _refuse_damage(what: str) -> None:
    raise StateFileDamagedError(what)


def _best(row: Row, later_rows: Sequence[tuple[int, Row]]) -> Row:
    """Return the row that is published: that of the job, or one of a pass that is as good."""
    best = row
    for _, later in later_rows:
        if later.digest == row.digest and is_as_good(later, best):
            best = replace(later, row_index=row.row_index)
    return best


def _compare_rows(fs: Fs, point: Point, baseline: Point, baseline_rows: Rows) -> None:
    """Count the rows that differ from those of the baseline."""
    if point.tgt_lang != baseline.tgt_lang:
        point.notes.append(f"its rows are in {point.tgt_lang}, those of {baseline.name} in {baseline.tgt_lang}")
        return
    changed = compared = 0
    for file_id, row in _read_rows(fs, Path(point.folder)):
        other = baseline_rows.get((file_id, row.row_index))
        if other is None or other.digest != row.digest or row.status is Status.NOT_SELECTED:
            continue
        compared += 1
        changed += _outcome(row) != _outcome(other)
    if compared:
        point.changed, point.compared = changed, compared
    else:
        point.notes.append(f"no row can be compared with {baseline.name}: other inputs, or rows that were not kept")


def _outcome(row: Row) -> tuple[Status, str]:
    return row.status, "" if row.status in ERROR_STATUSES else row.text
