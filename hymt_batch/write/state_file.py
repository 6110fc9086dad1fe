"""Read the files of `.hymt` that have a header line and a payload: parts and row records.

Such a file may have any type and size, since anybody may have written it: never more is read than its header states.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from hymt_batch.fs import RETRY_DELAYS_S
from hymt_batch.fs_protocol import Fs

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 1 << 20


class StateFileDamagedError(Exception):
    """A part or a row record cannot be used; the message is the reason. It is quarantined, never trusted."""


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
    stat = fs.stat(path)
    if stat.kind != "file":
        raise StateFileDamagedError("it is not a file")
    data = fs.read(path, 0, min(stat.size, MAX_HEADER_BYTES))
    if stat.size == len(data):
        return data
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
