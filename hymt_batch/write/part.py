"""A part file: one header line, then one JSON line per row. Publishing a part is the only commit point of a job.

A part describes itself: its job (identity), its position (file, shard, part), its rows (digests), and checksums of
header and payload. `decode` verifies everything, so it detects any flipped byte. Version 1 holds rows. Version 2 holds
a run of the segments of a divided row (`segment_run.py`); the part of its row has version 1. Independent of where parts
are stored and when they are written.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Part, Row, Shard, ShardRecord
from hymt_batch.write import state_file
from hymt_batch.write.row_lines import count_statuses, decode_rows, encode_rows, rows_digest
from hymt_batch.write.state_file import DECODE_ERRORS, FileKind, StateFileDamagedError

VERSION, ROWS_VERSION = 2, 1
KIND = FileKind("part", manifest.PROTOCOL, VERSION)
PART_NAME = re.compile(r"p(\d{5,})")
RUN_NAME = re.compile(r"p(\d{5,})-r(\d{5,})")
SHARD_NAME = re.compile(r"s(\d{7,})")
SHARD_FIELDS = ("index", "first_row", "num_rows", "start", "end", "sha256", "last")


@dataclass(frozen=True, kw_only=True, slots=True)
class PartOrigin:
    """Where a part belongs, and how its rows were decoded."""

    identity: str  # sha256 of the job's identity
    environment: dict[str, Any]  # environment in which it was translated; see identity.py
    file_id: str
    shard: ShardRecord
    part_index: int
    num_parts: int
    uuid: str
    epoch: int = 0  # epoch of the lease under which it was committed
    degraded: tuple[str, ...] = ()  # why its text may differ from that of a run without failures, such as "oom_split"
    other_environments: tuple[dict[str, Any], ...] = ()  # of runs of a divided row that were decoded elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSummary(PartOrigin):
    """A part and what it holds, however it is stored."""

    num_rows: int
    rows_digest: str  # digest of row numbers and source digests; see `row_lines.rows_digest`
    counts: dict[str, int]  # rows by status


@dataclass(frozen=True, kw_only=True, slots=True)
class PartHeader(PartSummary):
    """The header of a part file."""

    payload_bytes: int
    payload_sha256: str


ORIGIN_FIELDS = tuple(field.name for field in fields(PartOrigin))


def shard_name(index: int) -> str:
    return f"s{index:07d}"


def part_name(index: int) -> str:
    return f"p{index:05d}"


def run_name(part_index: int, run_index: int) -> str:
    """Return the name of the file of a run; it stands beside the part of its row."""
    return f"{part_name(part_index)}-r{run_index:05d}"


def name_of(part: Part) -> str:
    """Return the name of the file of a part, which may be a run."""
    return part_name(part.index) if part.run is None else run_name(part.index, part.run.index)


def make_shard_record(shard: Shard) -> ShardRecord:
    """Return what is recorded of a shard."""
    num_rows = len(shard.documents)
    return ShardRecord(shard.index, shard.first_row, num_rows, shard.start, shard.end, shard.sha256, shard.last)


def encode_shard_record(record: ShardRecord) -> list[Any]:
    return [getattr(record, name) for name in SHARD_FIELDS]


def decode_shard_record(values: Sequence[Any]) -> ShardRecord:
    """Inverse of `encode_shard_record`.

    Raises:
        TypeError, ValueError: The values are not those of a shard record.
    """
    index, first_row, num_rows, start, end, sha256, last = values
    numbers = (index, first_row, num_rows, start, end)
    if any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers) or type(last) is not bool:
        raise ValueError("not a shard record")
    if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:  # TypeError for anything but a string
        raise ValueError("not a sha256")
    return ShardRecord(index, first_row, num_rows, start, end, sha256, last)


def summarize(rows: Sequence[Row], origin: PartOrigin) -> PartSummary:
    """Return what a part holds; `rows` must be in ascending order."""
    return PartSummary(
        **{name: getattr(origin, name) for name in ORIGIN_FIELDS},
        num_rows=len(rows),
        rows_digest=rows_digest((row.row_index, row.digest) for row in rows),
        counts=count_statuses(rows),
    )


def encode(rows: Sequence[Row], origin: PartOrigin) -> bytes:
    """Return the bytes of a part file; `rows` must be in ascending order."""
    part = summarize(rows, origin)
    header = {
        **encode_origin(origin),
        "n": part.num_rows,
        "rows_digest": part.rows_digest,
        "counts": part.counts,
    }
    if origin.other_environments:
        header["other_environments"] = list(origin.other_environments)
    return state_file.seal(KIND, header, encode_rows(rows), ROWS_VERSION)


def encode_origin(origin: PartOrigin) -> dict[str, Any]:
    """Return the fields of a header that parts of rows and runs have in common."""
    return {
        "identity": origin.identity,
        "environment": origin.environment,
        "environment_sha256": manifest.digest(origin.environment),
        "file_id": origin.file_id,
        "shard": encode_shard_record(origin.shard),
        "part": origin.part_index,
        "num_parts": origin.num_parts,
        "uuid": origin.uuid,
        "epoch": origin.epoch,
        "degraded": list(origin.degraded),
    }


def decode_origin(value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `PartOrigin`; inverse of `encode_origin`.

    Raises:
        StateFileDamagedError, and what state_file.DECODE_ERRORS lists: The header is damaged.
    """
    if value["environment_sha256"] != manifest.digest(value["environment"]):
        raise StateFileDamagedError("the header's environment does not match its digest")
    return {
        "identity": str(value["identity"]),
        "environment": dict(value["environment"]),
        "file_id": str(value["file_id"]),
        "shard": decode_shard_record(value["shard"]),
        "part_index": int(value["part"]),
        "num_parts": int(value["num_parts"]),
        "uuid": str(value["uuid"]),
        "epoch": int(value["epoch"]),
        "degraded": tuple(str(d) for d in value["degraded"]),
    }


def decode_header(line: bytes) -> PartHeader:
    """Decode the header of a part from its first line, given without the line break.

    Raises:
        StateFileDamagedError: It is not what `encode` wrote.
    """
    value = state_file.open_header(KIND, line)
    try:
        if value["v"] != ROWS_VERSION:
            raise StateFileDamagedError("it holds segments, not rows")
        return PartHeader(
            **decode_origin(value),
            other_environments=tuple(dict(other) for other in value.get("other_environments", ())),
            num_rows=int(value["n"]),
            rows_digest=str(value["rows_digest"]),
            counts={str(k): int(n) for k, n in value["counts"].items()},
            payload_bytes=int(value["len"]),
            payload_sha256=str(value["sha256"]),
        )
    except DECODE_ERRORS:
        raise StateFileDamagedError("the header is incomplete") from None


def read_header(fs: Fs, path: Path) -> PartHeader:
    """Read the header of a part without its payload.

    Raises:
        OSError: The file cannot be read.
        StateFileDamagedError: It has no valid header.
    """
    return decode_header(state_file.read_header_line(fs, path))


def decode_payload(data: bytes) -> tuple[PartHeader, bytes]:
    """Decode the header of a part file, and verify the checksums of header and payload without decoding the rows.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    return state_file.open_payload(data, decode_header)


def decode(data: bytes) -> tuple[PartHeader, list[Row]]:
    """Decode a part file and verify every checksum and count in it.

    Returns:
        The header, and the rows in ascending order.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    header, payload = decode_payload(data)
    try:
        rows = decode_rows(payload)
    except DECODE_ERRORS:
        raise StateFileDamagedError("a row is incomplete") from None
    numbers = [row.row_index for row in rows]
    if len(rows) != header.num_rows or any(a >= b for a, b in pairwise((-1, *numbers, 1 << 63))):
        raise StateFileDamagedError("the number or the order of its rows does not match the header")
    if rows_digest((row.row_index, row.digest) for row in rows) != header.rows_digest:
        raise StateFileDamagedError("its rows do not match the digest in the header")
    if count_statuses(rows) != header.counts:
        raise StateFileDamagedError("its rows do not match the counts in the header")
    return header, rows
