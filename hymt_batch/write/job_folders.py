"""Find the folders of a job below `output_dir` by the job's name. Reads only."""

from __future__ import annotations

import difflib
import errno
import os
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import PreflightError, UsageError
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs


def find(fs: Fs, folder: Path) -> list[Path]:
    """Return the folder of a job; for a sweep, the folders of all its points.

    Raises:
        UsageError: The folder does not exist.
        PreflightError: This user may not read it.
    """
    try:
        return _find(fs, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{folder}: {reason}", fix="Set name= or output_dir= to a shorter one.") from None
        raise PreflightError(
            f"{os.fsdecode(error.filename or folder)} cannot be read",
            why=reason,
            fix="Run this as the user who ran the job, or give your user permission to read it (chmod, chown).",
        ) from None


def _find(fs: Fs, folder: Path) -> list[Path]:
    if stat_or_none(fs, folder) is None:
        job_names = [
            name
            for name in list_names(fs, folder.parent)
            if stat_or_none(fs, manifest.state_folder(folder.parent / name))
        ]
        similar_names = difflib.get_close_matches(folder.name, job_names, n=3, cutoff=0.5) or job_names[:20]
        why, fix = "", "Set name= or output_dir=."
        if similar_names:
            why, fix = f"Similar names: {', '.join(similar_names)}.", "Set name= to one of them."
        raise UsageError(f"there is no job {folder.name!r} in {folder.parent}", why=why, fix=fix)
    if stat_or_none(fs, manifest.state_folder(folder)) is None:
        points = [
            folder / name
            for name in list_names(fs, folder)
            if stat_or_none(fs, manifest.state_folder(folder / name) / "job.json")
        ]
        return points or [folder]
    return [folder]
