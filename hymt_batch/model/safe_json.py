"""Read the small files of a model folder that a stranger may have made: whole, of a sane size, never a pipe.

Does not know what stands in them.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError, first_line

MAX_JSON_BYTES = 100_000_000  # as safetensors has for its headers


def read_object(path: Path, missing_hint: str, *, missing_id: str = "B5") -> dict[str, Any]:
    """The object of a JSON file; `why` says what is wrong where it is missing."""
    try:
        check_regular_file(path)
        with path.open(encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError as error:
        raise PreflightError(f"{path} is missing: {missing_hint}. Check model.path.", id=missing_id) from error
    except OSError as error:
        raise PreflightError(f"{path} cannot be read ({error.strerror}). Check model.path.", id="B23") from error
    except (ValueError, RecursionError) as error:
        raise PreflightError(
            f"{path} is not JSON ({first_line(error)}); download the model again.", id="B24"
        ) from error
    if not isinstance(value, dict):
        raise PreflightError(
            f"{path} holds a {type(value).__name__}, not an object; download the model again.", id="B24"
        )
    return value


def check_regular_file(path: Path, max_bytes: int | None = MAX_JSON_BYTES) -> int:
    """Size of a file that can be read to its end; opening a pipe would wait for ever."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise PreflightError(f"{path} is no regular file; download the model again.", id="B23")
    if max_bytes is not None and found.st_size > max_bytes:
        raise PreflightError(f"{path} has {found.st_size} bytes, too many; download the model again.", id="B24")
    return found.st_size
