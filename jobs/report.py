"""Write the report of a job or of a sweep: one HTML file that is readable without script and without network.

Reads finished outputs only, takes no lease, and writes `report.html` into the job's folder. Imports no heavy library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import sanitize, streams
from hymt_batch.errors import ExitCode, PreflightError
from hymt_batch.fs import OS_FS
from hymt_batch.manifest import StateDamagedError
from hymt_batch.report import job_report
from hymt_batch.write import job_folders

if TYPE_CHECKING:
    from hymt_batch.schema import ReportJob


def run(job: ReportJob) -> ExitCode:
    """Write the report and print where it is.

    Raises:
        UsageError: There is no such folder, or it is not that of a job.
        PreflightError: The folder cannot be read or written, or has nothing to report on.
    """
    parent = Path(job.output_dir) / job.name
    folders = job_folders.find(OS_FS, parent)
    paths = [write(parent)] if folders == [parent] else job_report.write_sweep(OS_FS, parent, folders)
    if job.format.value == "json":
        streams.print_result(json.dumps({"reports": [str(path) for path in paths]}, sort_keys=True))
    else:
        for path in paths:
            streams.print_result(sanitize.sanitize_text(str(path)))
    return ExitCode.COMPLETE


def write(folder: Path) -> Path:
    """Write the report of one job."""
    try:
        return job_report.write(OS_FS.within(folder), folder)
    except StateDamagedError as damage:
        raise PreflightError(
            f"{folder} has nothing to report on",
            why=f".hymt/job.json: {damage}",
            fix="Run the job, or hymt-batch verify, which says what is damaged.",
        ) from None


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("report")
