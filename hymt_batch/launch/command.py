"""The command of a job as a scheduler runs it: the program, the overrides of the user, the folder that it runs in.

Knows no scheduler.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.launch import scheduler_settings
from hymt_batch.launch.settings import LaunchConfig

NO_RETRY_OF_JOB = (ExitCode.WARNINGS, ExitCode.USAGE, ExitCode.IDENTITY, ExitCode.INPUT_CHANGED)
"""Exit codes that every task of a job would end with, or that say that the job is complete."""

NO_RETRY = (
    *NO_RETRY_OF_JOB,
    ExitCode.PREFLIGHT,
    ExitCode.DAMAGE,
    ExitCode.MISSING,
    ExitCode.DIFFERENT,
    ExitCode.TOO_MANY_ERRORS,
    ExitCode.BUG,
)
"""Exit codes after which the same command ends in the same way. After the others (5, 75, a kill) it may succeed."""

OF_THE_FOLDER = frozenset({"shard.index", "shard.per_task", "overwrite", "on_mismatch", "on_input_change", "strict"})
"""Settings that `prepare` or the launcher acts on, and that a task refuses or must not have."""

OWN_OF_A_RUN = frozenset({"on_success", "on_failure", "hook_timeout_s", "metrics_file", "if_held"})
"""Settings below `launch` that are about a whole job, not about one of its tasks."""


@dataclass(frozen=True, slots=True)
class JobCommand:
    """What a scheduler is to run."""

    name: str
    output_dir: str
    words: tuple[str, ...]  # overrides as the user wrote them, each KEY=VALUE
    launch: LaunchConfig
    per_task: int = 1  # shards of a task
    resets: tuple[str, ...] = ()  # overrides that a task needs more; see `task_resets`
    cwd: str = ""  # the folder that relative paths are relative to
    program: tuple[str, ...] = ()  # the command that starts hymt-batch, for a scheduler on machines like this one

    @property
    def folder(self) -> Path:
        return Path(self.cwd, self.output_dir, self.name)

    @property
    def shown_folder(self) -> Path:
        """The folder as the user gave it."""
        return Path(self.output_dir, self.name)

    @property
    def grace_s(self) -> int:
        """Whole seconds that a process may take to end after a signal, with some room."""
        return int(self.launch.grace_s) + 31

    def job_words(self, *, task: bool) -> list[str]:
        """Return the overrides without those for the scheduler.

        Args:
            task: For a task of a prepared job: also without shards, and without what is about a whole job.
        """
        dropped = {f"launch.{name}" for name in scheduler_settings.NAMES} | {"launch"}
        if task:
            dropped |= {f"launch.{name}" for name in OWN_OF_A_RUN} | OF_THE_FOLDER
        dropped |= {"name", "output_dir"}  # those of a point of a sweep are not as they were written
        words = [word for word in self.words if word.partition("=")[0] not in dropped]
        return [*words, *(self.resets if task else ()), *self.folder_words()]

    def folder_words(self) -> list[str]:
        """Return the overrides that name the folder; all that some jobs need."""
        return [f"name={self.name}", *([] if self.output_dir == "outputs" else [f"output_dir={self.output_dir}"])]


def task_resets(*, strict: bool, overwrite: bool, on_mismatch: str, on_input_change: str) -> tuple[str, ...]:
    """Return the overrides that take back what a task must not have, also where a preset sets it.

    A warning is no reason to repeat a task, or to end the others (strict). `prepare` decides the rest.
    """
    resets = {
        "strict=false": strict,
        "overwrite=false": overwrite,
        "on_mismatch=refuse": on_mismatch != "refuse",
        "on_input_change=refuse": on_input_change != "refuse",
    }
    return tuple(word for word, is_needed in resets.items() if is_needed)


def of_this_machine() -> tuple[str, ...]:
    """Return the command that starts this installation of hymt-batch."""
    script = Path(sys.executable).with_name("hymt-batch")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "hymt_batch.jobs.__main__")


def check_one_line(words: Sequence[str], launcher: str) -> None:
    """Refuse words with line breaks for a file of lines.

    Raises:
        ConfigError: A word has one.
    """
    for word in words:
        if "\n" in word or "\r" in word or "\0" in word:
            raise ConfigError(
                f"{word!r} has a line break, which {launcher} cannot hold",
                fix="Rename the file, or run it by a script.",
            )
