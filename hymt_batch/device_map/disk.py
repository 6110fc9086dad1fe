"""The folder for layers on disk: is it there, can it be written to, has it room. Leaves nothing behind."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hymt_batch.device_map.settings import gib
from hymt_batch.errors import PreflightError


def check(offload_folder: str | None, num_bytes: int, max_bytes: int | None, *, resaved: bool) -> None:
    """Refuse what would fail in the middle of the load.

    Args:
        offload_folder: device_map.offload_folder.
        num_bytes: Of the weights that lie on disk.
        allowed: device_map.max_memory.disk; None: no limit.
        resaved: Whether they are written anew; else they are read from the model's own files.

    Raises:
        PreflightError: The folder is not set, cannot be written to or is full, or the limit is too low (G11).
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise PreflightError(
            f"{gib(num_bytes)} of weights would lie on disk, and device_map.max_memory.disk allows {gib(max_bytes)}. "
            "Raise it, or give main memory or a GPU more room.",
            id="G11",
        )
    if offload_folder is None:
        raise PreflightError(
            "Some layers go to disk, and device_map.offload_folder is not set. Set it to a folder on a fast local "
            "disk.",
            id="G11",
        )
    folder = Path(offload_folder)
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    works = False
    with contextlib.suppress(OSError):  # asked of the store itself: permissions alone do not tell of /proc
        tempfile.TemporaryDirectory(dir=there).cleanup()
        works = True
    if not works:
        raise PreflightError(
            f"device_map.offload_folder={folder} cannot be written to. Set it to a folder of yours.", id="G11"
        )
    free, need = shutil.disk_usage(there).free, num_bytes if resaved else 0
    if free < need:
        raise PreflightError(
            f"device_map.offload_folder={folder} has {gib(free)} free; {gib(need)} of converted weights are written "
            "there. Free some, or set it to another disk.",
            id="G11",
        )
