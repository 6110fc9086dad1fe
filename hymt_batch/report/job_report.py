"""Write the report of a job, or of a sweep, into its folder: `report.html`.

It is one file, replaced atomically. It is no part of the job: not reproducible, not in the manifest, read by nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hymt_batch.errors import HymtError, first_line
from hymt_batch.fs import write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, StateDamagedError
from hymt_batch.report import job_data, job_page, sweep_page
from hymt_batch.report.job_data import JobData
from hymt_batch.report.measure import Measured
from hymt_batch.report.sweep_page import Point

log = logging.getLogger(__name__)

NAME = "report.html"


def write(fs: Fs, folder: Path, records: Sequence[JsonDict] | None = None) -> Path:
    """Write the report of the job in a folder, and return its path.

    Args:
        fs: The file system.
        folder: The output folder.
        records: The records of all its files, if the caller has them; the job is complete then.

    Raises:
        StateDamagedError: The folder has neither a readable job nor a manifest.
        HymtError: It cannot be written.
    """
    return _write_job(fs, folder, job_data.gather(fs, folder, records))


def write_sweep(fs: Fs, folder: Path, points: Sequence[Path]) -> list[Path]:
    """Write the report of each point of a sweep that was begun, and that of the sweep; return their paths.

    Raises:
        HymtError: One of them cannot be written.
    """
    paths, shown = [], []
    for point in points:
        fs_of_point = fs.within(point)
        try:
            data = job_data.gather(fs_of_point, point)
        except StateDamagedError:
            shown.append(Point(point.name, None))
            continue
        paths.append(_write_job(fs_of_point, point, data))
        # what the page of the sweep needs, without the rows
        shown.append(Point(point.name, replace(data, measured=Measured(), errors={}, history=None)))
    page = sweep_page.render(folder.name, shown, made_by())
    write_atomic(fs.within(folder), folder / NAME, page, sync_folder=False)
    return [*paths, folder / NAME]


def _write_job(fs: Fs, folder: Path, data: JobData) -> Path:
    write_atomic(fs, folder / NAME, job_page.render(data, made_by()), sync_folder=False)
    return folder / NAME


def try_write(fs: Fs, folder: Path, records: Sequence[JsonDict]) -> None:
    """Write the report of a job that is about to end; an error in it costs a warning, never the job."""
    started_at = time.monotonic()
    try:
        write(fs, folder, records)
    except HymtError as error:
        log.warning("%s was not written: %s", NAME, error.what)
    except Exception as error:  # whatever the folder holds, its translations are complete
        log.warning("%s was not written: %s: %s", NAME, type(error).__name__, first_line(error))
        log.debug("the error in the report", exc_info=True)
    else:
        log.debug("report seconds=%.2f", time.monotonic() - started_at)


def made_by() -> str:
    """Return name and version of the program."""
    try:
        return f"hymt-batch {version('hymt-batch')}"
    except PackageNotFoundError:
        return "hymt-batch"
