"""A part file: one header line, then one JSON line per row. Publishing a part is the only commit point of a job.

A part describes itself: its job (identity), its position (file, shard, part), its rows (digests), and checksums of
header and payload. `decode` verifies everything, so it detects any flipped byte. Independent of where parts are stored
and when they are written.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hymt_batch import manifest
from hymt_batch.records import Row, ShardRecord, Status

VERSION = 1
PART_NAME = re.compile(r"p(\d{5,})")
SHARD_NAME = re.compile(r"s(\d{7,})")
MAX_HEADER_BYTES = 1 << 20
_pack_row_key = struct.Struct(">QB").pack
_STATUSES = {status.value: status for status in Status}
_encode_string = json.encoder.encode_basestring  # a string as json.dumps(ensure_ascii=False) writes it
_JSON_DECODER = json.JSONDecoder()
SHARD_FIELDS = ("index", "first_row", "num_rows", "start", "end", "sha256", "last")


class PartDamagedError(Exception):
    """A part file cannot be used; the message is the reason. It is quarantined and its rows are translated again."""


@dataclass(frozen=True, slots=True)
class PartHeader:
    """The header of a part."""

    identity: str  # sha256 of the job's identity
    environment: dict[str, Any]  # environment in which it was translated; see identity.py
    file_id: str
    shard: ShardRecord
    part_index: int
    num_parts: int
    num_rows: int
    rows_digest: str  # digest of row numbers and source digests; see `rows_digest`
    counts: dict[str, int]  # rows by status
    payload_bytes: int
    payload_sha256: str
    uuid: str
    epoch: int  # epoch of the lease under which it was committed
    degraded: tuple[str, ...]  # why its text may differ from that of a run without failures, such as "oom_split"


def shard_name(index: int) -> str:
    return f"s{index:07d}"


def part_name(index: int) -> str:
    return f"p{index:05d}"


def rows_digest(rows: Iterable[tuple[int, bytes]]) -> str:
    """Return the sha256 over all (row number, source digest) pairs, given in ascending order of the rows."""
    return hashlib.sha256(b"".join([_pack_row_key(row, len(source)) + source for row, source in rows])).hexdigest()


def encode_shard_record(record: ShardRecord) -> list[Any]:
    return [getattr(record, name) for name in SHARD_FIELDS]


def decode_shard_record(fields: Sequence[Any]) -> ShardRecord:
    """Inverse of `encode_shard_record`.

    Raises:
        TypeError, ValueError: The fields are not those of a shard record.
    """
    index, first_row, num_rows, start, end, sha256, last = fields
    numbers = (index, first_row, num_rows, start, end)
    if any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers) or type(last) is not bool:
        raise ValueError("not a shard record")
    if len(bytes.fromhex(sha256)) != hashlib.sha256().digest_size:  # TypeError for anything but a string
        raise ValueError("not a sha256")
    return ShardRecord(index, first_row, num_rows, start, end, sha256, last)


def _json_line(value: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    return text + b"\n"


def _encode_rows(rows: Sequence[Row]) -> bytes:
    try:
        return "".join(map(_encode_row_fast, rows)).encode("utf-8")
    except UnicodeEncodeError:
        return b"".join(map(_encode_row, rows))


def _encode_row_fast(row: Row) -> str:
    """Do what `_encode_row` does, five times as fast, for a row without lone surrogates."""
    return (
        f'{{"row":{row.row_index},"digest":"{row.digest.hex()}","status":"{row.status}",'
        f'"flags":[{",".join(map(_encode_string, row.flags))}],"text":{_encode_string(row.text)},'
        f'"message":{_encode_string(row.message)},'
        f'"attempts":{row.attempts},"source_tokens":{row.num_source_tokens},"new_tokens":{row.num_new_tokens}}}\n'
    )


def _encode_row(row: Row) -> bytes:
    return _json_line(
        {
            "row": row.row_index,
            "digest": row.digest.hex(),
            "status": row.status.value,
            "flags": list(row.flags),
            "text": row.text,
            "message": row.message,
            "attempts": row.attempts,
            "source_tokens": row.num_source_tokens,
            "new_tokens": row.num_new_tokens,
        }
    )


def encode(
    rows: Sequence[Row],
    *,
    identity: str,
    environment: dict[str, Any],
    file_id: str,
    shard: ShardRecord,
    part_index: int,
    num_parts: int,
    uuid: str,
    epoch: int = 0,
    degraded: Sequence[str] = (),
) -> bytes:
    """Return the bytes of a part file; `rows` must be in ascending order."""
    payload = _encode_rows(rows)
    header = {
        "v": VERSION,
        "protocol": manifest.PROTOCOL,
        "identity": identity,
        "environment": environment,
        "environment_sha256": manifest.digest(environment),
        "file_id": file_id,
        "shard": encode_shard_record(shard),
        "part": part_index,
        "num_parts": num_parts,
        "n": len(rows),
        "rows_digest": rows_digest((row.row_index, row.digest) for row in rows),
        "counts": _count_statuses(rows),
        "len": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
        "uuid": uuid,
        "epoch": epoch,
        "degraded": list(degraded),
    }
    return manifest.canonical_json({**header, "check": manifest.digest(header)}) + b"\n" + payload


def _count_statuses(rows: Sequence[Row]) -> dict[str, int]:
    return {status.value: count for status, count in Counter([row.status for row in rows]).items()}


def decode_header(line: bytes) -> PartHeader:
    """Decode the header of a part from its first line, given without the line break.

    Raises:
        PartDamagedError: It is not what `encode` wrote.
    """
    if not line.strip(b"\0"):
        raise PartDamagedError("the file is empty or holds only zero bytes")
    try:
        value = json.loads(line)
        if type(value) is not dict:
            raise PartDamagedError("the header is not a JSON object")
        if type(value.get("v")) is int and value["v"] > VERSION:
            raise PartDamagedError(f"a newer hymt-batch wrote it (part version {value['v']}, this one reads {VERSION})")
        if manifest.canonical_json(value) != line:
            raise PartDamagedError("the header is not in its canonical form")
        check = value.pop("check")
        if check != manifest.digest(value):
            raise PartDamagedError("the header does not match its checksum")
        if value["v"] != VERSION or value["protocol"] != manifest.PROTOCOL:
            raise PartDamagedError("the header belongs to another protocol")
        if value["environment_sha256"] != manifest.digest(value["environment"]):
            raise PartDamagedError("the header's environment does not match its digest")
        return PartHeader(
            identity=str(value["identity"]),
            environment=dict(value["environment"]),
            file_id=str(value["file_id"]),
            shard=decode_shard_record(value["shard"]),
            part_index=int(value["part"]),
            num_parts=int(value["num_parts"]),
            num_rows=int(value["n"]),
            rows_digest=str(value["rows_digest"]),
            counts={str(k): int(n) for k, n in value["counts"].items()},
            payload_bytes=int(value["len"]),
            payload_sha256=str(value["sha256"]),
            uuid=str(value["uuid"]),
            epoch=int(value["epoch"]),
            degraded=tuple(str(d) for d in value["degraded"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise PartDamagedError("the header is incomplete") from None


def _decode_row(line: bytes) -> Row:
    text = line.decode("utf-8", "surrogatepass")
    value, end = _JSON_DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError("more than one value")
    return Row(
        row_index=int(value["row"]),
        digest=bytes.fromhex(value["digest"]),
        status=_STATUSES[value["status"]],
        text=str(value["text"]),
        flags=tuple(map(str, value["flags"])),
        message=str(value["message"]),
        attempts=int(value["attempts"]),
        num_source_tokens=int(value["source_tokens"]),
        num_new_tokens=int(value["new_tokens"]),
    )


def decode(data: bytes) -> tuple[PartHeader, list[Row]]:
    """Decode a part file and verify every checksum and count in it.

    Returns:
        The header, and the rows in ascending order.

    Raises:
        PartDamagedError: A check failed; the message is the reason.
    """
    line, newline, payload = data.partition(b"\n")
    header = decode_header(line)
    if not newline or len(payload) != header.payload_bytes:
        raise PartDamagedError(f"the payload has {len(payload)} bytes, but the header records {header.payload_bytes}")
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise PartDamagedError("the payload does not match its checksum")
    try:
        rows = [_decode_row(row_line) for row_line in payload.split(b"\n")[:-1]]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise PartDamagedError("a row is incomplete") from None
    numbers = [row.row_index for row in rows]
    if len(rows) != header.num_rows or any(a >= b for a, b in pairwise((-1, *numbers, 1 << 63))):
        raise PartDamagedError("the number or the order of its rows does not match the header")
    if rows_digest((row.row_index, row.digest) for row in rows) != header.rows_digest:
        raise PartDamagedError("its rows do not match the digest in the header")
    if _count_statuses(rows) != header.counts:
        raise PartDamagedError("its rows do not match the counts in the header")
    return header, rows
