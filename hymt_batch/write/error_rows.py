"""Read the id, status and message of each row of a job that has no translation so far. Changes nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.records import ERROR_STATUSES, Row
from hymt_batch.write import part as parts
from hymt_batch.write import published_file
from hymt_batch.write.cleanup import read_part_header
from hymt_batch.write.part_reader import PartReader

MAX_LINE_BYTES = 64 << 20  # limit for a line in errors/


def read_all(fs: Fs, folder: Path, job: JobRecord) -> Iterator[dict[str, str]]:
    """Yield the rows without a translation: of published files from errors/, of other files from committed parts."""
    reader = PartReader(fs, folder, job.identity_sha256)
    for input in job.inputs:
        record = published_file.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.identity_sha256:
            yield from read_errors_file(fs, manifest.errors_path(folder, input.rel))
            continue
        for shard_index in sorted(reader.shard_indexes(input.file_id)):
            rows: list[Row] = []
            for part_index in reader.part_indexes(input.file_id, shard_index):
                path = reader.path(input.file_id, shard_index, part_index)
                with contextlib.suppress(FileNotFoundError, parts.PartDamagedError):
                    if any(name in ERROR_STATUSES for name in read_part_header(fs, path).counts):
                        header_and_rows = reader.read(path, input.file_id, shard_index, part_index)
                        rows += [
                            row
                            for row in (header_and_rows[1] if header_and_rows else ())
                            if row.status in ERROR_STATUSES
                        ]
            for row in sorted(rows, key=lambda row: row.row_index):
                yield {"id": f"{input.rel}#{row.row_index + 1}", "status": row.status.value, "message": row.message}


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
