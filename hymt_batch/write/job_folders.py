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
from hymt_batch.storage_error import describe_type
from hymt_batch.write import sweep_points


def find(fs: Fs, folder: Path) -> list[Path]:
    """Return the folder of a job; for a sweep, the folders of all its points.

    Raises:
        UsageError: There is no such folder, or it is not that of a job.
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
    if not os.path.lexists(folder):
        raise _not_a_job_error(fs, folder, f"there is no job {folder.name!r} in {folder.parent}")
    if not os.path.isdir(folder):
        kind = describe_type(folder) or "a file"
        raise _not_a_job_error(fs, folder, f"{folder} is {kind}, not the folder of a job")
    own = [folder] if _is_job(fs, folder) else []
    if folders := own + sweep_points.find(fs, folder):
        return folders
    what = f"{folder} is not the folder of a job: it has neither .hymt nor manifest.json"
    raise _not_a_job_error(fs, folder, what)


def _is_job(fs: Fs, folder: Path) -> bool:
    """Return whether a folder has the state of a job, or at least its manifest."""
    return any(stat_or_none(fs, path) for path in (manifest.state_folder(folder), folder / "manifest.json"))


def _not_a_job_error(fs: Fs, folder: Path, what: str) -> UsageError:
    """Return an error that lists the jobs beside a folder, the most similar ones first."""
    job_names = [
        name for name in list_names(fs, folder.parent) if name != folder.name and _holds_jobs(fs, folder.parent / name)
    ]
    similar_names = difflib.get_close_matches(folder.name, job_names, n=3, cutoff=0.5)
    if similar_names:
        return UsageError(what, why=f"Similar names: {', '.join(similar_names)}.", fix="Set name= to one of them.")
    if job_names:
        return UsageError(what, why=f"The jobs there: {', '.join(job_names[:20])}.", fix="Set name= to one of them.")
    return UsageError(what, fix="Set name= or output_dir=.")


def _holds_jobs(fs: Fs, folder: Path) -> bool:
    """Return whether a folder is that of a job or of a sweep."""
    return _is_job(fs, folder) or stat_or_none(fs, folder / sweep_points.NAME) is not None
