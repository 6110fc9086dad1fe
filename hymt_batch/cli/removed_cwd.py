"""A process whose working directory was removed: which settings it can still use, and how it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hymt_batch.errors import PreflightError
from hymt_batch.schema import CompareJob, DoctorJob, EvaluateJob, InspectJob, PlanJob, TranslateJob, VerifyJob


def is_removed() -> bool:
    """Return whether the working directory of this process was removed."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


@contextmanager
def in_existing(folder: Path) -> Iterator[None]:
    """Work in a folder while Hydra runs if the working directory was removed: Hydra needs one."""
    if not is_removed():
        yield
        return
    removed_cwd = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        os.chdir(folder)
        yield
    finally:
        os.fchdir(removed_cwd)
        os.close(removed_cwd)


def check_relative_paths(job: Any) -> None:
    """Reject the paths of a job that are relative to the removed working directory.

    Raises:
        PreflightError: A path is relative.
    """
    settings: list[tuple[str, str]] = []
    if isinstance(job, CompareJob) or (isinstance(job, TranslateJob | InspectJob) and job.name is not None):
        settings.append(("output_dir", job.output_dir))
    if isinstance(job, TranslateJob | PlanJob | DoctorJob) and job.source.path is not None:
        paths = [job.source.path] if isinstance(job.source.path, str) else job.source.path
        settings += [("source.path", path) for path in paths if path != "-" and not path.startswith("demo:")]
    if isinstance(job, VerifyJob) and not isinstance(job.inputs, bool):
        settings += [("inputs", path) for path in ([job.inputs] if isinstance(job.inputs, str) else job.inputs)]
    if isinstance(job, EvaluateJob):
        settings += [("references", job.references), *(("inputs", path) for path in job.input_paths)]
    if isinstance(job, CompareJob) and job.out is not None:
        settings.append(("out", job.out))
    for key, path in settings:
        if not os.path.isabs(os.path.expanduser(path)):
            raise PreflightError(
                f"The working directory of this process was removed, and {key}={path} is relative to it",
                fix=f"Change to an existing folder (cd), or set {key} to an absolute path.",
            )


def leave() -> None:
    """Change to / if the working directory was removed: without one, oneMKL ends the process."""
    if is_removed():
        os.chdir("/")
