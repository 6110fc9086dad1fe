"""Check the folder for layers on disk: it is set, writable and has enough space. Leaves no files behind."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hymt_batch.device_map.settings import gib
from hymt_batch.errors import PreflightError


def check(offload_folder: str | None, num_bytes: int, max_bytes: int | None, *, resaved: bool) -> None:
    """Refuse an offload folder that would make loading fail halfway.

    Args:
        offload_folder: device_map.offload_folder.
        num_bytes: Bytes of the weights on disk.
        max_bytes: device_map.max_memory.disk; None: no limit.
        resaved: Converted weights are written to the folder; False: they are read from the model's own files.

    Raises:
        PreflightError: The folder is not set, not writable or too full, or the limit is too low (G11).
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise PreflightError(
            f"{gib(num_bytes)} of weights would go to disk, but device_map.max_memory.disk allows {gib(max_bytes)}",
            fix="Raise it, or raise device_map.max_memory of main memory (cpu) or of a GPU.",
            id="G11",
        )
    if offload_folder is None:
        raise PreflightError(
            "Some layers go to disk, but device_map.offload_folder is not set",
            fix="Set it to a folder on a fast local disk.",
            id="G11",
        )
    folder = Path(offload_folder)
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    writable = False
    with contextlib.suppress(OSError):  # check by writing: permissions do not show that /proc is not writable
        tempfile.TemporaryDirectory(dir=existing).cleanup()
        writable = True
    if not writable:
        raise PreflightError(
            f"device_map.offload_folder={folder} is not writable",
            fix="Set it to a folder that you can write to.",
            id="G11",
        )
    free, need = shutil.disk_usage(existing).free, num_bytes if resaved else 0
    if free < need:
        raise PreflightError(
            f"device_map.offload_folder={folder} has {gib(free)} free, but {gib(need)} of converted weights are "
            "written there",
            fix="Free some space, or set it to a folder on another disk.",
            id="G11",
        )
