"""The form of the files in `.hymt` that hold rows, parts and row records: a header line of JSON, then a payload.

The header has a checksum of itself, and size and sha256 of the payload, so any flipped byte is detected. Such a file
may have any type and size, since anybody may have written it: never more is read than its header states.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hymt_batch import manifest
from hymt_batch.fs import RETRY_DELAYS_S
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 20


class StateFileDamagedError(Exception):
    """A part or a row record cannot be used; the message is the reason. It is quarantined, never trusted."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of state file."""

    name: str  # for messages
    protocol: str
    version: int  # the newest; files of a newer version are refused


class SealedHeader(Protocol):
    """What every header states of its payload."""

    @property
    def payload_bytes(self) -> int: ...
    @property
    def payload_sha256(self) -> str: ...


H = TypeVar("H", bound=SealedHeader)

DECODE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, IndexError)
"""What decoding a damaged header or row may raise."""


def seal(kind: FileKind, fields: JsonDict, payload: bytes, version: int | None = None) -> bytes:
    """Return the bytes of a file.

    Args:
        kind: The kind of the file.
        fields: The header, without what this function adds: version, protocol, and size and checksums.
        payload: What follows the header line.
        version: The version of its form; None for the newest one of its kind.
    """
    header = {
        "v": version or kind.version,
        "protocol": kind.protocol,
        **fields,
        "len": len(payload),
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    return manifest.with_check(header) + b"\n" + payload


def open_header(kind: FileKind, line: bytes) -> JsonDict:
    """Return the fields of a header line, given without its line break; inverse of `seal`.

    Raises:
        StateFileDamagedError: It is not what `seal` wrote.
    """
    if not line.strip(b"\0"):
        raise StateFileDamagedError("the file is empty or holds only zero bytes")
    try:
        value: Any = json.loads(line)
        if type(value) is not dict:
            raise StateFileDamagedError("the header is not a JSON object")
        if type(value.get("v")) is int and value["v"] > kind.version:
            raise StateFileDamagedError(
                f"a newer hymt-batch wrote it ({kind.name} version {value['v']}, this one reads {kind.version})"
            )
        if manifest.canonical_json(value) != line:
            raise StateFileDamagedError("the header is not in its canonical form")
        check = value.pop("check")
        if check != manifest.digest(value):
            raise StateFileDamagedError("the header does not match its checksum")
        if value["v"] not in range(1, kind.version + 1) or value["protocol"] != kind.protocol:
            raise StateFileDamagedError("the header belongs to another protocol")
    except DECODE_ERRORS:
        raise StateFileDamagedError("the header is incomplete") from None
    return dict(value)


def open_payload(data: bytes, decode_header: Callable[[bytes], H]) -> tuple[H, bytes]:
    """Return header and payload of a file, after verifying the checksums of both.

    Raises:
        StateFileDamagedError: A check failed; the message is the reason.
    """
    line, newline, payload = data.partition(b"\n")
    header = decode_header(line)
    if not newline or len(payload) != header.payload_bytes:
        raise StateFileDamagedError(
            f"the payload has {len(payload)} bytes, but the header records {header.payload_bytes}"
        )
    if hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise StateFileDamagedError("the payload does not match its checksum")
    return header, payload


def read_header_line(fs: Fs, path: Path) -> bytes:
    """Return the header line of a file, without its line break and without reading the payload.

    Raises:
        OSError: The file cannot be read.
    """
    data = fs.read(path, 0, 4096)
    if b"\n" not in data:
        data = fs.read(path, 0, MAX_HEADER_BYTES)
    return data.partition(b"\n")[0]


def read_file(fs: Fs, path: Path, payload_bytes: Callable[[bytes], int]) -> bytes | None:
    """Read a whole file, with up to two more tries after an error that may be temporary.

    Args:
        fs: The file system.
        path: The file.
        payload_bytes: Returns the size of the payload that a header line states; raises StateFileDamagedError.

    Returns:
        The bytes; None if there is no such file.

    Raises:
        StateFileDamagedError: The file cannot be used; the message is the reason.
        OSError: It cannot be read, and may be intact.
    """
    try:
        return _with_retries(path, lambda: _read(fs, path, payload_bytes))
    except FileNotFoundError:
        return None


def unreadable_is_damaged(error: OSError) -> StateFileDamagedError:
    """Return the damage of a file that cannot be read; a missing permission is raised, since the file may be intact."""
    if isinstance(error, PermissionError):
        raise error
    return StateFileDamagedError(f"it cannot be read ({error.strerror})")


def _read(fs: Fs, path: Path, payload_bytes: Callable[[bytes], int]) -> bytes:
    try:
        data = fs.read(path, 0, MAX_HEADER_BYTES)
        if len(data) < MAX_HEADER_BYTES:
            return data
        stat = fs.stat(path)
    except FileNotFoundError:
        raise
    except OSError:
        if fs.stat(path).kind != "file":
            raise StateFileDamagedError("it is not a file") from None
        raise
    line, newline, _ = data.partition(b"\n")
    if not newline:
        raise StateFileDamagedError(f"it has {stat.size} bytes but no header")
    size = len(line) + 1 + payload_bytes(line)
    if stat.size != size:
        raise StateFileDamagedError(f"the file has {stat.size} bytes, but the header records {size}")
    return data + fs.read(path, len(data), size - len(data))


def _with_retries(path: Path, read: Callable[[], bytes]) -> bytes:
    """Call `read` again after an error that may be temporary, as on a network file system."""
    for pause in RETRY_DELAYS_S:
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            log.warning("read file=%s error=%s again_in_s=%.2f", path.name, error.strerror, pause)
            time.sleep(pause)
    return read()
