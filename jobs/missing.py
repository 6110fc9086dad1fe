"""Print the shards of a prepared job that are not translated yet, as `sbatch --array=` takes them: 1,4-6.

Takes no lease and changes nothing. Imports no heavy library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import streams
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.shard import format_units, tasks_of
from hymt_batch.write import job_folders, shard_plan
from hymt_batch.write.unit_progress import UnitProgress

if TYPE_CHECKING:
    from hymt_batch.schema import MissingJob


def run(job: MissingJob) -> ExitCode:
    """Print the missing shards.

    Returns:
        MISSING while there is any, else COMPLETE.

    Raises:
        UsageError: There is no such job, or it was not prepared.
    """
    folder = Path(job.output_dir) / job.name
    fs = OS_FS.within(folder)
    job_folders.find(fs, folder)
    plan = shard_plan.read(fs, folder)
    missing = list(UnitProgress(fs, folder, plan).missing())
    numbers = tasks_of(missing, job.per_task)
    if job.format.value == "json":
        value = {"shards": plan.num_units, "missing": missing, "per_task": job.per_task, "tasks": numbers}
        streams.print_result(json.dumps(value, sort_keys=True))
    elif numbers:
        streams.print_result(format_units(numbers))
    return ExitCode.MISSING if missing else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("missing")
