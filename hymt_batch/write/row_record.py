"""The record of a complete shard: a header line, then all its rows as compressed JSON lines, in the order of the file.

A record holds what is known of each row: the digest of its source, its status, the text as the model gave it, its flags
and measurements. It is made from the shard's parts and replaces them; if one part is the whole shard, it is made at
once. `decode` verifies everything, so it detects any flipped byte. Independent of where records are stored and when
they are written.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hymt_batch import manifest
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Row, ShardRecord
from hymt_batch.write import state_file
from hymt_batch.write.part import PartSummary, decode_shard_record, encode_shard_record, shard_name
from hymt_batch.write.row_lines import decode_rows, has_logprob, row_index_of
from hymt_batch.write.state_file import DECODE_ERRORS, FileKind, StateFileDamagedError

VERSION = 1
KIND = FileKind("record", "rows-1", VERSION)
RECORD_NAME = re.compile(r"s(\d{7,})\.rows")
LEVEL = 1
"""Level of zlib: 3 us of processor time a row, a fifth of the size of the parts; level 6 costs 7 us for a seventh."""
SMALL_BYTES = 4096
"""Rows of at most this size are compressed in a window of as many bytes: zlib clears 256 KiB for a larger one, which
takes five times as long as the compression."""


@dataclass(frozen=True, slots=True)
class RecordedPart:
    """A part from which a record was made."""

    num_rows: int
    rows_digest: str  # see `row_lines.rows_digest`
    environment: dict[str, Any]  # environment in which it was translated
    degraded: tuple[str, ...]  # see part.PartHeader
    other_environments: tuple[dict[str, Any], ...] = ()  # see part.PartHeader


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The header of a row record."""

    identity: str  # sha256 of the job's identity
    file_id: str
    shard: ShardRecord
    num_parts: int
    has_logprobs: bool  # every row with a text has its mean log-probability
    counts: dict[str, int]  # rows by status
    num_bytes: int  # of the payload, before compression
    payload_bytes: int
    payload_sha256: str


@dataclass(frozen=True, slots=True)
class RecordContents:
    """The payload of a row record."""

    parts: tuple[RecordedPart, ...]  # by part index
    rows: list[Row]  # in the order of the file


@dataclass(frozen=True, slots=True)
class ShardRows:
    """What is known of a complete shard: read from its record, or as this process has just recorded it."""

    shard: ShardRecord
    counts: dict[str, int]  # rows by status
    contents: RecordContents

    @classmethod
    def of_one_part(cls, part: PartSummary, rows: list[Row]) -> Self:
        """Return a shard that is one part, as a record that is made of the part would give it back."""
        recorded = RecordedPart(
            part.num_rows, part.rows_digest, part.environment, part.degraded, part.other_environments
        )
        return cls(part.shard, part.counts, RecordContents((recorded,), rows))


def record_name(shard_index: int) -> str:
    return f"{shard_name(shard_index)}.rows"


def encode(identity: str, file_id: str, shard: ShardRecord, parts: Sequence[tuple[PartSummary, bytes]]) -> bytes:
    """Return the bytes of the record of a shard; inverse of `decode`.

    Args:
        identity: sha256 of the job's identity.
        file_id: The file of the shard.
        shard: The shard.
        parts: Each part of the shard with its rows as `row_lines.encode_rows` gives them, by part index; read from a
            file, their checksums are verified.

    Raises:
        StateFileDamagedError: The parts do not hold each row of the shard exactly once.
    """
    lines = [line for _, payload in parts for line in payload.splitlines(keepends=True)]
    try:
        indices = [row_index_of(line) for line in lines]
        if len(parts) > 1:
            indices, lines = map(list, zip(*sorted(zip(indices, lines, strict=True)), strict=True))
    except ValueError:
        raise StateFileDamagedError("a row is incomplete") from None
    if indices != list(range(shard.first_row, shard.first_row + shard.num_rows)):
        raise StateFileDamagedError("the parts do not hold each row of the shard exactly once")
    contents = manifest.canonical_json(_about_parts([part for part, _ in parts])) + b"\n" + b"".join(lines)
    fields = {
        "identity": identity,
        "file_id": file_id,
        "shard": encode_shard_record(shard),
        "num_parts": len(parts),
        "has_logprobs": all(map(has_logprob, lines)),
        "counts": _sum_counts([part.counts for part, _ in parts]),
        "num_bytes": len(contents),
    }
    return state_file.seal(KIND, fields, _compress(contents))


def _compress(contents: bytes) -> bytes:
    if len(contents) > SMALL_BYTES:
        return zlib.compress(contents, LEVEL)
    compressor = zlib.compressobj(LEVEL, wbits=12, memLevel=4)
    return compressor.compress(contents) + compressor.flush()


def _about_parts(parts: Sequence[PartSummary]) -> dict[str, Any]:
    """Return what the first line of a record's contents has of its parts, with each environment once."""
    if len(parts) == 1 and not parts[0].other_environments:
        (part,) = parts
        about = [[part.num_rows, part.rows_digest, 0, [*part.degraded]]]
        return {"environments": [part.environment], "parts": about}
    environments: dict[bytes, dict[str, Any]] = {}
    about_all: list[list[Any]] = []
    for part in parts:
        indexes = []
        for environment in (part.environment, *part.other_environments):
            environments.setdefault(key := manifest.canonical_json(environment), environment)
            indexes.append(list(environments).index(key))
        about_all.append([part.num_rows, part.rows_digest, indexes[0], [*part.degraded], *indexes[1:]])
    return {"environments": list(environments.values()), "parts": about_all}


def _sum_counts(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return dict(counts[0]) if len(counts) == 1 else dict(sum(map(Counter, counts), Counter()))


def decode_header(line: bytes) -> RecordHeader:
    """Decode the header of a record from its first line, given without the line break.

    Raises:
        StateFileDamagedError: It is not what `encode` wrote.
    """
    value = state_file.open_header(KIND, line)
    try:
        return RecordHeader(
            identity=str(value["identity"]),
            file_id=str(value["file_id"]),
            shard=decode_shard_record(value["shard"]),
            num_parts=int(value["num_parts"]),
            has_logprobs=value["has_logprobs"] is True,
            counts={str(status): int(count) for status, count in value["counts"].items()},
            num_bytes=int(value["num_bytes"]),
            payload_bytes=int(value["len"]),
            payload_sha256=str(value["sha256"]),
        )
    except DECODE_ERRORS:
        raise StateFileDamagedError("the header is incomplete") from None


def read_header(fs: Fs, path: Path) -> RecordHeader:
    """Read the header of a record without its rows.

    Raises:
        OSError: The file cannot be read.
        StateFileDamagedError: It has no valid header.
    """
    return decode_header(state_file.read_header_line(fs, path))


def decode_payload(data: bytes) -> tuple[RecordHeader, bytes]:
    """Decode the header of a record, and verify the checksums of header and payload without decoding the rows.

    Returns:
        The header, and the compressed rows.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    return state_file.open_payload(data, decode_header)


def decode(data: bytes) -> tuple[RecordHeader, RecordContents]:
    """Decode a record and verify every checksum and count in it.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    header, payload = decode_payload(data)
    try:
        inflate = zlib.decompressobj()
        contents = inflate.decompress(payload, header.num_bytes + 1)  # never more than the header records
        if len(contents) != header.num_bytes or not inflate.eof or inflate.unused_data:
            raise StateFileDamagedError("its rows do not have the size in the header")
        about_parts, _, lines = contents.partition(b"\n")
        parts, rows = _decode_parts(about_parts), decode_rows(lines)
    except (zlib.error, *DECODE_ERRORS):
        raise StateFileDamagedError("a row is incomplete") from None
    first = header.shard.first_row
    if [row.row_index for row in rows] != list(range(first, first + header.shard.num_rows)):
        raise StateFileDamagedError("its rows are not those of its shard")
    if dict(Counter(row.status.value for row in rows)) != header.counts or len(parts) != header.num_parts:
        raise StateFileDamagedError("its rows or parts do not match the counts in the header")
    return header, RecordContents(parts, rows)


def _decode_parts(line: bytes) -> tuple[RecordedPart, ...]:
    value = json.loads(line)
    environments = [dict(environment) for environment in value["environments"]]
    return tuple(
        RecordedPart(
            int(num_rows),
            str(digest),
            environments[index],
            tuple(map(str, degraded)),
            tuple(environments[other] for other in others),
        )
        for num_rows, digest, index, degraded, *others in value["parts"]
    )
