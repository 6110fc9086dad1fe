"""Read the small files of an untrusted model folder: only regular files of a limited size.

Does not know what the files mean.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError, first_line
from hymt_batch.model.refusal import refusal

MAX_JSON_BYTES = 100_000_000  # safetensors has the same limit for its headers


def read_object(path: Path, missing_hint: str, *, missing_id: str = "B5") -> dict[str, Any]:
    """Read a JSON file that must contain an object.

    Args:
        path: The file.
        missing_hint: What it means if the file is missing, for the message.
        missing_id: Failure id if the file is missing.

    Raises:
        PreflightError: The file is missing, unreadable, not a regular file, too large, or not a JSON object.
    """
    try:
        check_regular_file(path)
        with path.open(encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError as error:
        raise PreflightError(f"{path} is missing: {missing_hint}", fix="Check model.path.", id=missing_id) from error
    except OSError as error:
        raise PreflightError(f"{path} cannot be read ({error.strerror})", fix="Check model.path.", id="B23") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{path} is not JSON ({first_line(error)})", id="B24") from error
    if not isinstance(value, dict):
        raise refusal(f"{path} contains a {type(value).__name__}, not an object", id="B24")
    return value


def check_regular_file(path: Path, max_bytes: int | None = MAX_JSON_BYTES) -> int:
    """Return the size of a regular file in bytes, without opening it: opening a pipe would block forever.

    Raises:
        PreflightError: It is not a regular file, or has more than `max_bytes`.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise refusal(f"{path} is not a regular file", id="B23")
    if max_bytes is not None and status.st_size > max_bytes:
        raise refusal(f"{path} has {status.st_size} bytes, which is too many", id="B24")
    return status.st_size
