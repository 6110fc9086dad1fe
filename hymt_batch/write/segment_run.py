"""A part file of version 2: a run of the segments of a divided row, one JSON line per segment, their texts unjoined.

A run holds no row: the part of its row is joined from all its runs. The header says which segments of which row it
has, and what was sent for them. `decode` verifies everything, as for a part of rows. Independent of where runs are
stored and when they are written.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Measures, Part, Prompt, Translation
from hymt_batch.write import state_file
from hymt_batch.write.part import KIND, VERSION, PartOrigin, decode_origin, encode_origin
from hymt_batch.write.row_lines import decode_measures
from hymt_batch.write.state_file import DECODE_ERRORS, StateFileDamagedError

_pack_size = struct.Struct(">Q").pack


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which segments a run has. A run belongs to a part of the plan if their keys are equal."""

    row_id: str
    row_index: int  # index of the row within the file
    row_digest: str  # digest of the row's source, in hex digits
    index: int  # of the run, from 0 within the row
    num_runs: int
    first: int  # index of its first segment within the row
    last: int
    num_segments: int  # of the row
    sources_sha256: str  # over the texts of its segments


@dataclass(frozen=True, kw_only=True, slots=True)
class RunHeader(PartOrigin):
    """The header of a run."""

    key: RunKey
    payload_bytes: int
    payload_sha256: str


@dataclass(frozen=True, slots=True)
class RunSegment:
    """The translation of one segment, without its source; see `records.Translation`."""

    index: int  # within the row
    text: str
    finish_reason: str
    num_new_tokens: int
    flags: tuple[str, ...]
    message: str
    attempt: int
    mean_logprob: float | None
    tries: tuple[str, ...]
    measures: Measures

    def to_translation(self, prompt: Prompt) -> Translation:
        """Return the translation of the segment that `prompt` holds."""
        rest = (self.num_new_tokens, self.flags, self.message, self.attempt, self.mean_logprob, self.tries)
        return Translation(prompt, self.text, self.finish_reason, *rest, measures=self.measures)


def key_of(part: Part) -> RunKey:
    """Return what the file of a run must hold; `part` is one of `Part.segment_runs`."""
    run = part.run
    assert run is not None
    document = part.shard.documents[part.prompts[0].segment.document_index]
    sources = hashlib.sha256()
    for prompt in part.prompts:
        text = prompt.segment.text.encode("utf-8", "surrogatepass")
        sources.update(_pack_size(len(text)) + text)
    return RunKey(
        part.prompts[0].row_id,
        document.row_index,
        document.digest.hex(),
        run.index,
        len(run.of.run_lengths),
        run.first,
        run.last,
        len(run.of.prompts),
        sources.hexdigest(),
    )


def encode(translations: Sequence[Translation], origin: PartOrigin, key: RunKey) -> bytes:
    """Return the bytes of the file of a run.

    Args:
        translations: One flagged translation for each of its segments, in order.
        origin: Where it belongs, and how it was decoded.
        key: Which segments it has.
    """
    lines = b"".join(map(_encode_segment, translations))
    return state_file.seal(KIND, {**encode_origin(origin), "run": asdict(key)}, lines, VERSION)


def _encode_segment(translation: Translation) -> bytes:
    value = {
        "segment": translation.prompt.segment.index,
        "finish": translation.finish_reason,
        "flags": list(translation.flags),
        "text": translation.text,
        "message": translation.message,
        "attempt": translation.attempt,
        "new_tokens": translation.num_new_tokens,
        "logprob": translation.mean_logprob,
        **({"tries": list(translation.tries)} if translation.tries else {}),
        **({"measures": dict(translation.measures)} if translation.measures else {}),
    }
    try:
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        line = json.dumps(value, separators=(",", ":")).encode("ascii")
    return line + b"\n"


def decode_header(line: bytes) -> RunHeader:
    """Decode the header of a run from its first line, given without the line break.

    Raises:
        StateFileDamagedError: It is not what `encode` wrote.
    """
    value = state_file.open_header(KIND, line)
    try:
        if value["v"] != VERSION:
            raise StateFileDamagedError("it holds rows, not segments")
        run = value["run"]
        numbers = ("row_index", "index", "num_runs", "first", "last", "num_segments")
        if any(type(run[name]) is not int for name in numbers):
            raise StateFileDamagedError("the header's segments are not numbers")
        key = RunKey(**run)
        bytes.fromhex(key.row_digest)
        if not (0 <= key.index < key.num_runs and 0 <= key.first <= key.last < key.num_segments):
            raise StateFileDamagedError("the header's segments are not those of a run")
        return RunHeader(
            **decode_origin(value), key=key, payload_bytes=int(value["len"]), payload_sha256=str(value["sha256"])
        )
    except DECODE_ERRORS:
        raise StateFileDamagedError("the header is incomplete") from None


def read_header(fs: Fs, path: Path) -> RunHeader:
    """Read the header of a run without its texts.

    Raises:
        OSError: The file cannot be read.
        StateFileDamagedError: It has no valid header.
    """
    return decode_header(state_file.read_header_line(fs, path))


def decode(data: bytes) -> tuple[RunHeader, list[RunSegment]]:
    """Decode the file of a run and verify every checksum and count in it.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    header, payload = state_file.open_payload(data, decode_header)
    try:
        segments = [_to_segment(json.loads(line)) for line in payload.splitlines()]
    except DECODE_ERRORS:
        raise StateFileDamagedError("a segment is incomplete") from None
    if [segment.index for segment in segments] != list(range(header.key.first, header.key.last + 1)):
        raise StateFileDamagedError("its segments are not those of the header")
    return header, segments


def _to_segment(value: dict[str, Any]) -> RunSegment:
    logprob = value["logprob"]
    return RunSegment(
        int(value["segment"]),
        str(value["text"]),
        str(value["finish"]),
        int(value["new_tokens"]),
        tuple(map(str, value["flags"])),
        str(value["message"]),
        int(value["attempt"]),
        None if logprob is None else float(logprob),
        tuple(map(str, value.get("tries", ()))),
        decode_measures(value.get("measures", {})),
    )
