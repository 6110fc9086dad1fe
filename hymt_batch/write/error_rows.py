"""The rows of a job that have no translation, as they are known so far: id, status, message. Changes nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs
from hymt_batch.manifest import Job
from hymt_batch.records import ERROR_STATUSES, Row
from hymt_batch.write import final
from hymt_batch.write import part as parts
from hymt_batch.write.folder import read_header
from hymt_batch.write.kept import Kept

MAX_LINE = 64 << 20  # bytes of a line in errors/


def first(fs: Fs, folder: Path, job: Job) -> Iterator[dict[str, str]]:
    """Rows without a translation: of published files from errors/, of others from their committed parts."""
    kept = Kept(fs, folder, job.key)
    for input in job.inputs:
        record = final.read_record(fs, folder, input)
        if record is not None and record["identity"] == job.key:
            yield from listed(fs, manifest.errors_file(folder, input.rel))
            continue
        for shard in sorted(kept.shards(input.file_id)):
            rows: list[Row] = []
            for part in kept.parts_of(input.file_id, shard):
                path = kept.path(input.file_id, shard, part)
                with contextlib.suppress(FileNotFoundError, parts.PartDamage):
                    if any(name in ERROR_STATUSES for name in read_header(fs, path).counts):
                        whole = kept.judge(path, input.file_id, shard, part)
                        rows += [row for row in (whole[1] if whole else ()) if row.status in ERROR_STATUSES]
            for row in sorted(rows, key=lambda row: row.row):
                yield {"id": f"{input.rel}#{row.row + 1}", "status": row.status.value, "message": row.message}


def listed(fs: Fs, path: Path) -> Iterator[dict[str, str]]:
    """Rows without a translation of an errors file; nothing of one that cannot be read as such."""
    for line in _lines(fs, path):
        try:
            value = json.loads(line)
            row = {name: str(value.get(name, "")) for name in ("id", "status", "message")}
        except (ValueError, AttributeError, RecursionError):
            continue
        if row["status"] in ERROR_STATUSES:
            yield row


def _lines(fs: Fs, path: Path) -> Iterator[bytes]:
    at, rest = 0, b""
    with contextlib.suppress(FileNotFoundError):
        while piece := fs.read(path, at, 1 << 20):
            at += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from lines
            if len(rest) > MAX_LINE:
                return
