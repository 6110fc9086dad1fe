"""The rows of a job that have no translation, as they are known so far: id, status, message. Changes nothing."""

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

MAX_LINE_BYTES = 64 << 20  # bytes of a line in errors/


def read_all(fs: Fs, folder: Path, job: JobRecord) -> Iterator[dict[str, str]]:
    """Rows without a translation: of published files from errors/, of others from their committed parts."""
    kept = PartReader(fs, folder, job.identity_sha256)
    for input in job.inputs:
        record = published_file.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.identity_sha256:
            yield from read_errors_file(fs, manifest.errors_path(folder, input.rel))
            continue
        for shard in sorted(kept.shard_indexes(input.file_id)):
            rows: list[Row] = []
            for part in kept.part_indexes(input.file_id, shard):
                path = kept.path(input.file_id, shard, part)
                with contextlib.suppress(FileNotFoundError, parts.PartDamagedError):
                    if any(name in ERROR_STATUSES for name in read_part_header(fs, path).counts):
                        whole = kept.read(path, input.file_id, shard, part)
                        rows += [row for row in (whole[1] if whole else ()) if row.status in ERROR_STATUSES]
            for row in sorted(rows, key=lambda row: row.row_index):
                yield {"id": f"{input.rel}#{row.row_index + 1}", "status": row.status.value, "message": row.message}


def read_errors_file(fs: Fs, path: Path) -> Iterator[dict[str, str]]:
    """Rows without a translation of an errors file; nothing of one that cannot be read as such."""
    for line in _read_lines(fs, path):
        try:
            value = json.loads(line)
            row = {name: str(value.get(name, "")) for name in ("id", "status", "message")}
        except (ValueError, AttributeError, RecursionError):
            continue
        if row["status"] in ERROR_STATUSES:
            yield row


def _read_lines(fs: Fs, path: Path) -> Iterator[bytes]:
    at, rest = 0, b""
    with contextlib.suppress(FileNotFoundError):
        while piece := fs.read(path, at, 1 << 20):
            at += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE_BYTES:
                return
