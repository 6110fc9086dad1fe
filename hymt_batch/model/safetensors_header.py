"""Read the header of a safetensors file, and refuse a file that is damaged. Reads no weights.

Source: the safetensors format (8 bytes of header length, little-endian; JSON header; data).
"""

from __future__ import annotations

import json
from pathlib import Path

from hymt_batch.errors import PreflightError, first_line
from hymt_batch.model import safe_json

MAX_HEADER_BYTES = 100_000_000


def read(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return tensor name -> (dtype, shape) of a safetensors file after checking its header against the file's size."""
    size = safe_json.check_regular_file(path, None)
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(b"version "):
            raise PreflightError(
                f"{path} is a Git-LFS pointer, not weights", fix="Run `git lfs pull` in its folder.", id="B1"
            )
        if not size:
            raise PreflightError(
                f"{path} is empty (0 bytes)", why="so it is truncated", fix="Download it again.", id="B23"
            )
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise PreflightError(
                f"{path} ({size} bytes) is not a safetensors file or is truncated", fix="Download it again.", id="B2"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise PreflightError(
                f"{path} has a damaged header ({first_line(error)})", fix="Download it again.", id="B2"
            ) from error
    try:
        tensors = {
            name: (str(entry["dtype"]), [int(size) for size in entry["shape"]], int(entry["data_offsets"][1]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise PreflightError(
            f"{path} has a header that describes no tensors", fix="Download it again.", id="B2"
        ) from error
    end = 8 + length + max((end for _, _, end in tensors.values()), default=0)
    if end != size:
        raise PreflightError(
            f"{path} has {size} bytes but its header declares {end}",
            why="so it is truncated",
            fix="Download it again.",
            id="B2",
        )
    return {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()}
