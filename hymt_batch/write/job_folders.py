"""The folders of jobs below `output_dir`, by the name that a user gives. Reads only."""

from __future__ import annotations

import difflib
import errno
import os
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import PreflightError, UsageError
from hymt_batch.fs import Fs, list_names, stat_or_none


def find(fs: Fs, folder: Path) -> list[Path]:
    """The folder of a job; where it is the folder above a sweep's points, theirs.

    Raises:
        UsageError: There is no such folder.
        PreflightError: This user may not look into it.
    """
    try:
        return _find(fs, folder)
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{folder}: {why}. Set name= or output_dir= to a shorter one.") from None
        raise PreflightError(
            f"{os.fsdecode(error.filename or folder)} cannot be read: {why}. Run this as the user who ran the job, or "
            "give this one the right to read (chmod, chown)."
        ) from None


def _find(fs: Fs, folder: Path) -> list[Path]:
    if stat_or_none(fs, folder) is None:
        others = [
            name
            for name in list_names(fs, folder.parent)
            if stat_or_none(fs, manifest.state_folder(folder.parent / name))
        ]
        near = difflib.get_close_matches(folder.name, others, n=3, cutoff=0.5) or others[:20]
        known = f"Near it: {', '.join(near)}. Set name= to one of them" if near else "Set name= or output_dir="
        raise UsageError(f"there is no job {folder.name!r} in {folder.parent}. {known}.")
    if stat_or_none(fs, manifest.state_folder(folder)) is None:
        points = [
            folder / name
            for name in list_names(fs, folder)
            if stat_or_none(fs, manifest.state_folder(folder / name) / "job.json")
        ]
        return points or [folder]
    return [folder]
