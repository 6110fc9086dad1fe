"""Describe how a job's inputs changed: which were added or removed, and which rows. Changes nothing on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import InputChangedError
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Document, Input, ShardRecord
from hymt_batch.write import file_record
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.input_changes import changed_shards, describe_changed_shards, hash_input
from hymt_batch.write.state_file import StateFileDamagedError


def describe_changes(fs: Fs, folder: Path, job: JobRecord, read: Callable[[Input], Iterator[Document]]) -> str:
    """Return which input of a job changed since it was decoded, and where; "" if none did."""
    rows = CommittedRows.open(fs, folder, job.identity_sha256, job.layout)
    for input in job.inputs:
        record = file_record.read_record(fs, folder, input, job.layout)
        if record is not None and record["identity"] == job.identity_sha256 and hash_input(input) == record["input"]:
            continue
        if change := describe_change(rows, input, record, read):
            return change
    return ""


def describe_change(
    rows: CommittedRows, input: Input, record: JsonDict | None, read: Callable[[Input], Iterator[Document]]
) -> str:
    """Return which rows of an input changed since they were decoded; "" if none did, or none was decoded.

    Args:
        rows: The parts and row records of the job.
        input: The input.
        record: The record of the file if it is published; used for shards whose rows were not kept.
        read: Starts a pass over the input's documents.
    """
    if record is None:
        return f"{input.rel} {changed}" if (changed := rows.changed_rows(input, read(input))[0]).ranges else ""
    shards = list(file_record.shard_table_of(record))
    if "texts" in record and not all(rows.has_rows(input.file_id, shard.index) for shard in shards):
        return input.rel  # its shards count the texts of its rows
    if not rows.has_any(input.file_id):
        return describe_changed_shards(input, shards)
    try:
        changed = changed_shards(input, [shard for shard in shards if not rows.has_rows(input.file_id, shard.index)])
    except OSError as error:
        return f"{input.rel} can no longer be read ({error.strerror})"
    num_recorded = num_texts = manifest.count_texts([record])
    if not changed.ranges:
        changed, num_texts = rows.changed_rows(input, read(input))
    if changed.ranges:
        return f"{input.rel} {changed}"
    return f"{input.rel} has more rows after row {record['rows']}" if num_texts > num_recorded else ""


def changed_files(
    fs: Fs, folder: Path, job: JobRecord, inputs: Sequence[Input], read: Callable[[Input], Iterator[Document]]
) -> set[str]:
    """Return the files (`Input.rel`) of which some rows were decoded, and whose rows are others now.

    Args:
        fs: The file system.
        folder: The output folder.
        job: The job of the folder.
        inputs: The files to look at.
        read: Starts a pass over an input's documents.
    """
    identity_sha256, changed = job.identity_sha256, set[str]()
    rows = CommittedRows.open(fs, folder, identity_sha256, job.layout)
    for input in inputs:
        record = file_record.read_record(fs, folder, input, job.layout)
        if record is not None and record["identity"] == identity_sha256:
            if hash_input(input) != record["input"]:
                changed.add(input.rel)
        elif rows.has_any(input.file_id):
            row_changes, num_rows = rows.changed_rows(input, read(input))
            last = _last_shard(rows, input.file_id)
            if row_changes.ranges or (last is not None and last.first_row + last.num_rows != num_rows):
                changed.add(input.rel)
    return changed


def _last_shard(rows: CommittedRows, file_id: str) -> ShardRecord | None:
    """Return the last shard of a file as its record or a part has it; None if nothing of it is committed."""
    for index in {*rows.records.shard_indexes(file_id), *rows.reader.shard_indexes(file_id)}:
        with contextlib.suppress(StateFileDamagedError):
            if (recorded := rows.records.read(file_id, index)) is not None and recorded[0].shard.last:
                return recorded[0].shard
        for part_index in rows.reader.part_indexes(file_id, index):
            with contextlib.suppress(StateFileDamagedError):
                part = rows.reader.read(rows.reader.path(file_id, index, part_index), file_id, index, part_index)
                if part is not None and part[0].shard.last:
                    return part[0].shard
    return None


def _reading(input: Input) -> tuple[str, ...]:
    return input.format, input.compression, input.out_rel, input.file_id, input.dataset


def read_differently(inputs: Sequence[Input], requested: Sequence[Input]) -> list[Input]:
    """Return those of the requested inputs that were inputs before, too, and are read or written in another way now."""
    earlier = {input.rel: _reading(input) for input in inputs}
    return [input for input in requested if earlier.get(input.rel, _reading(input)) != _reading(input)]


def inputs_differ_error(job: JobRecord, requested: JobRecord) -> InputChangedError | None:
    """Return the error that names how the inputs of two jobs differ; None if they are the same."""

    old = {input.rel: _reading(input) for input in job.inputs}
    new = {input.rel: _reading(input) for input in requested.inputs}
    changes = [f"  added: {rel}" for rel in new if rel not in old]
    changes += [f"  removed: {rel}" for rel in old if rel not in new]
    changes += [f"  read differently: {rel}" for rel in new if rel in old and old[rel] != new[rel]]
    if not changes:
        return None
    if len(changes) > 20:
        changes[20:] = [f"  and {len(changes) - 20} more"]
    return InputChangedError(
        "\n".join(["the list of inputs changed since this job began:", *changes]),
        fix="If this is another job, set name=ANOTHER. Otherwise restore the old files, or set on_input_change=redo to "
        "translate the new files and drop the removed ones, or on_input_change=fork to start a separate job.",
    )
