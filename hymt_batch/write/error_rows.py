"""Read the id, status and message of each row of a job that has no translation so far. Changes nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.records import ERROR_STATUSES, Row
from hymt_batch.write import file_record, place_ids, row_record
from hymt_batch.write import part as parts
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.state_file import StateFileDamagedError

MAX_LINE_BYTES = 64 << 20  # limit for a line in errors/


def read_all(fs: Fs, folder: Path, job: JobRecord) -> Iterator[dict[str, str]]:
    """Yield the rows without a translation: of published files from errors/, of other files from what is committed."""
    for input in job.inputs:
        record = file_record.read_record(fs, folder, input, job.layout)
        if file_record.is_current(record, job, input):
            yield from read_errors_file(fs, manifest.errors_path(folder, input.rel))
            continue
        reader = PartReader(fs, folder, job.identity_sha256, job.layout)
        records = RecordStore(fs, folder, job.identity_sha256, job.layout)
        for shard_index in sorted({*reader.shard_indexes(input.file_id), *records.shard_indexes(input.file_id)}):
            rows = _recorded_rows(fs, records, input.file_id, shard_index)
            if rows is None:
                rows = _part_rows(fs, reader, input.file_id, shard_index)
            mark, ids = "#", dict[int, str]()
            if place_ids.are_needed(job, input):
                mark, ids = " text ", place_ids.find(fs, folder, job, input, rows)
            for row in sorted(rows, key=lambda row: row.row_index):
                row_id = ids.get(row.row_index, f"{input.rel}{mark}{row.row_index + 1}")
                yield {"id": row_id, "status": row.status.value, "message": row.message}


def _recorded_rows(fs: Fs, records: RecordStore, file_id: str, shard_index: int) -> list[Row] | None:
    """Return the rows without a translation of a shard that has a readable record; None if it has none."""
    with contextlib.suppress(StateFileDamagedError):
        with contextlib.suppress(FileNotFoundError):
            if ERROR_STATUSES.isdisjoint(row_record.read_header(fs, records.path(file_id, shard_index)).counts):
                return []
        recorded = records.read(file_id, shard_index)
        if recorded is not None:
            return [row for row in recorded[1].rows if row.status in ERROR_STATUSES]
    return None


def _part_rows(fs: Fs, reader: PartReader, file_id: str, shard_index: int) -> list[Row]:
    """Return the rows without a translation of the readable parts of a shard."""
    rows: list[Row] = []
    for part_index in reader.part_indexes(file_id, shard_index):
        path = reader.path(file_id, shard_index, part_index)
        with contextlib.suppress(FileNotFoundError, StateFileDamagedError):
            if any(name in ERROR_STATUSES for name in parts.read_header(fs, path).counts):
                header_and_rows = reader.read(path, file_id, shard_index, part_index)
                rows += [row for row in (header_and_rows[1] if header_and_rows else ()) if row.status in ERROR_STATUSES]
    return rows


def read_errors_file(fs: Fs, path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of an errors file; lines that cannot be parsed are skipped."""
    for line in _read_lines(fs, path):
        try:
            value = json.loads(line)
            row = {name: str(value.get(name, "")) for name in ("id", "status", "message")}
        except (ValueError, AttributeError, RecursionError):
            continue
        if row["status"] in ERROR_STATUSES:
            yield row


def _read_lines(fs: Fs, path: Path) -> Iterator[bytes]:
    offset, partial_line = 0, b""
    with contextlib.suppress(FileNotFoundError):
        while chunk := fs.read(path, offset, 1 << 20):
            offset += len(chunk)
            *lines, partial_line = (partial_line + chunk).split(b"\n")
            yield from lines
            if len(partial_line) > MAX_LINE_BYTES:
                return
