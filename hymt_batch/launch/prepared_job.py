"""What every scheduler needs that runs the tasks of a prepared job: their shards, a name, the words of `prepare`.

Knows no scheduler. Asks hymt-batch through its commands, so that the folder is read as every other command reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hymt_batch.errors import ExitCode, PreflightError
from hymt_batch.launch.command import JobCommand
from hymt_batch.shard import format_units

PREPARE_SETTINGS = ("launch.devices=", "launch.part_s=")
"""Words for `prepare`, which has these settings without `launch`."""


PREPARED_BY = "HYMT_BATCH_PREPARED_BY"
"""Environment variable with which `prepare` leaves out what the caller says or does itself."""


def is_called_by_launcher() -> bool:
    """Return whether a launcher runs `prepare`, and goes on by itself."""
    return PREPARED_BY in os.environ


def task_lists(missing: Sequence[int], per_task: int) -> list[str]:
    """Return the missing shards of each task, as shard.index takes them: 0-7 9."""
    tasks = groupby(missing, key=lambda shard: shard // per_task)
    return [format_units(list(shards)).replace(",", " ") for _, shards in tasks]


def queue_label(job: JobCommand) -> str:
    """Return the name of a job in the queue: that of its folder, and a digest of the path."""
    digest = hashlib.sha256(str(job.folder).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    plain = re.sub(r"[^\w.-]", "_", job.name, flags=re.ASCII)[:40]
    return f"hymt-{plain}-{digest}"


def prepare_words(job: JobCommand) -> list[str]:
    """Return the overrides of `prepare`: those of the job, and what launch says about the machines of the tasks."""
    given = [word.removeprefix("launch.") for word in job.words if word.startswith(PREPARE_SETTINGS)]
    words = [word for word in job.job_words(task=False) if not word.startswith(("shard.index=", "shard.per_task="))]
    return [*words, *given]


def prepare_job(job: JobCommand) -> ExitCode:
    """Prepare a job by the command, which says what it did; return its exit code."""
    environment = {**os.environ, PREPARED_BY: job.launch.target.value}
    code = subprocess.run([*job.program, "prepare", *prepare_words(job)], env=environment, check=False).returncode
    return ExitCode(code) if code in list(ExitCode) else ExitCode.STOPPED


def missing_after_prepare(job: JobCommand) -> list[int]:
    """Return the missing shards of a job for which `prepare` succeeded: it is prepared, or it is complete.

    Raises:
        PreflightError: They cannot be read.
    """
    may_have_no_plan = is_complete(job, [])  # one process translated it
    missing = missing_shards(job, quiet=may_have_no_plan)
    if missing is None and may_have_no_plan:
        return []
    if missing is None:
        raise PreflightError(
            f"hymt-batch missing name={job.name} failed", fix="Run it by hand; its message says what is wrong."
        )
    return missing


def is_complete(job: JobCommand, missing: Sequence[int]) -> bool:
    """Return whether a job is published, of which these shards are missing."""
    return not missing and (job.folder / "manifest.json").exists()


def missing_shards(job: JobCommand, *, quiet: bool) -> list[int] | None:
    """Return the missing shards; None if the job is not prepared.

    Args:
        job: The job.
        quiet: Do not show why it is not.
    """
    report = _missing(job, quiet=quiet)
    return None if report is None else [int(shard) for shard in report["missing"]]


def num_shards(job: JobCommand) -> int | None:
    """Return the number of shards of the plan in the job's folder; None if there is none."""
    report = _missing(job, quiet=True)
    return None if report is None else int(report["shards"])


def _missing(job: JobCommand, *, quiet: bool) -> dict[str, Any] | None:
    """Return what `hymt-batch missing` reports; None if it fails."""
    words = [*job.program, "missing", *job.folder_words(), "format=json"]
    stderr = subprocess.DEVNULL if quiet else None
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    if done.returncode not in (ExitCode.COMPLETE, ExitCode.MISSING):
        return None
    report: dict[str, Any] = json.loads(done.stdout)
    return report
