"""Hand a job to the scheduler that `launch=` names, instead of running it in this process.

The only module that knows all schedulers. What is printed goes to standard output.
"""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Callable

from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch import cron, kubernetes, slurm_submit, systemd
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.scheduler_settings import Target


def launch(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Submit a job, or print what its scheduler needs.

    Args:
        job: The job; its target is not local.
        show: Called with the text for the user.

    Raises:
        HymtError: A setting is missing or wrong, or the scheduler refuses the job.
    """
    if "source.path=-" in job.words:
        raise ConfigError(
            f"source.path=- cannot be read by launch={job.launch.target.value}",
            fix="Write the rows to a file, and set source.path=FILE.",
        )
    has_tasks = job.launch.target in (Target.slurm, Target.k8s)
    forks = [word for word in job.words if word in ("on_mismatch=fork", "on_input_change=fork")]
    if has_tasks and forks:
        raise ConfigError(
            f"{forks[0]} does not go with launch={job.launch.target.value}",
            why="the tasks would not know the new folder",
            fix="Set another name= instead.",
        )
    if any(word.startswith("shard.index=") for word in job.words):
        raise ConfigError(
            f"shard.index= does not go with launch={job.launch.target.value}",
            why="the tasks get their shards from it",
            fix="Drop shard.index=; shard.per_task= sets how many a task gets.",
        )
    if job.launch.target is Target.slurm:
        return slurm_submit.submit(job, show)
    if job.launch.target is Target.k8s:
        show(kubernetes.manifests(job, None if job.launch.schedule is not None else _num_shards(job)))
    elif job.launch.target is Target.systemd:
        show(systemd.units(job, getpass.getuser()))
    else:
        show(cron.crontab_line(job))
    return ExitCode.COMPLETE


def _num_shards(job: JobCommand) -> int | None:
    """Return the number of shards of the plan in the job's folder; None if there is none."""
    words = [*job.program, "missing", *job.folder_words(), "format=json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (ExitCode.COMPLETE, ExitCode.MISSING):
        return None
    return int(json.loads(done.stdout)["shards"])
