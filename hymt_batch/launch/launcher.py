"""Hand a job to the scheduler that `launch=` names, instead of running it in this process.

Knows no scheduler but by the table (`registry.py`). What is printed goes to standard output.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch.command import JobCommand
from hymt_batch.launch.registry import SCHEDULERS


class SchedulerModule(Protocol):
    """What the module of a scheduler defines."""

    def hand_over(self, job: JobCommand, show: Callable[[str], object]) -> ExitCode:
        """Submit a job, or show what its scheduler needs; the arguments and errors are those of `launch`."""
        ...


def launch(job: JobCommand, show: Callable[[str], object]) -> ExitCode:
    """Submit a job, or print what its scheduler needs.

    Args:
        job: The job; its target is not local.
        show: Called with the text for the user.

    Raises:
        HymtError: A setting is missing or wrong, or the scheduler refuses the job.
    """
    target = job.launch.target.value
    scheduler = SCHEDULERS[target]
    if "source.path=-" in job.words:
        raise ConfigError(
            f"source.path=- cannot be read by launch={target}",
            fix="Write the rows to a file, and set source.path=FILE.",
        )
    forks = [word for word in job.words if word in ("on_mismatch=fork", "on_input_change=fork")]
    if scheduler.has_tasks and forks:
        raise ConfigError(
            f"{forks[0]} does not go with launch={target}",
            why="the tasks would not know the new folder",
            fix="Set another name= instead.",
        )
    if any(word.startswith("shard.index=") for word in job.words):
        raise ConfigError(
            f"shard.index= does not go with launch={target}",
            why="the tasks get their shards from it",
            fix="Drop shard.index=; shard.per_task= sets how many a task gets.",
        )
    module = scheduler.module
    if isinstance(module, str):
        module = importlib.import_module(module)
    return cast(SchedulerModule, module).hand_over(job, show)
