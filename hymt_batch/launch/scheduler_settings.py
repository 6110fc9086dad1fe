"""Settings of the schedulers that a job can be handed to: `launch=slurm`, k8s, ray, systemd, cron."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.launch.registry import SCHEDULERS, Target
from hymt_batch.setting import Operation

MAX_REQUEUES = 1000

USED_BY = {
    name: tuple(target for target, scheduler in SCHEDULERS.items() if name in scheduler.settings)
    for scheduler in SCHEDULERS.values()
    for name in scheduler.settings
}
"""Setting below `launch` -> the targets that use it."""


@dataclass(kw_only=True, slots=True)
class SchedulerConfig:
    """How a scheduler runs the tasks of a job. conf/launch/ explains every field."""

    target: Operation[Target] = Target.local
    dry_run: Operation[bool] = False
    array_parallelism: Operation[int | None] = None
    max_requeues: Operation[int] = 20
    gpus_per_task: Operation[int | None] = None
    cpus_per_task: Operation[int | None] = None
    mem: Operation[str | None] = None
    devices: Operation[Any] = None
    part_s: Operation[float | None] = None
    gres: Operation[str | None] = None
    account: Operation[str | None] = None
    partition: Operation[str | None] = None
    qos: Operation[str | None] = None
    time: Operation[str | None] = None
    constraint: Operation[str | None] = None
    extra: Operation[Any] = field(default_factory=list)
    setup: Operation[Any] = field(default_factory=list)
    image: Operation[str | None] = None
    namespace: Operation[str | None] = None
    data_claim: Operation[str | None] = None
    outputs_claim: Operation[str] = "outputs"
    cache_claim: Operation[str | None] = None
    tasks: Operation[int | None] = None
    address: Operation[str | None] = None
    schedule: Operation[str | None] = None

    def check_scheduler(self) -> None:
        """Normalise lists, and check the values.

        Raises:
            ConfigError: A value is wrong, or belongs to another target.
        """
        for name in ("extra", "setup"):
            setattr(self, name, _lines(name, getattr(self, name)))
        for name in ("array_parallelism", "gpus_per_task", "cpus_per_task", "tasks"):
            value = getattr(self, name)
            if value is not None and value < (0 if name == "gpus_per_task" else 1):
                raise ConfigError(f"launch.{name}={value} is too small", fix=f"Set launch.{name}=1, or drop it.")
        if not 0 <= self.max_requeues <= MAX_REQUEUES:
            raise ConfigError(
                f"launch.max_requeues={self.max_requeues} must be between 0 and {MAX_REQUEUES}",
                fix="Set launch.max_requeues=20 (the default).",
            )
        if self.gres is not None and self.gpus_per_task is not None:
            raise ConfigError(
                f"launch.gres={self.gres} and launch.gpus_per_task={self.gpus_per_task} are both set",
                why="SLURM would add them up",
                fix="Drop one of the two.",
            )
        for option in fields(SchedulerConfig):
            value = getattr(self, option.name)
            if isinstance(value, str):
                _check_text(option.name, value)
            default = option.default_factory() if callable(option.default_factory) else option.default
            targets = USED_BY.get(option.name, ())
            if value != default and targets and self.target.value not in targets:
                raise ConfigError(
                    f"launch.{option.name}={value} has no effect with launch={self.target.value}",
                    fix=f"Add launch={targets[0]}, or drop it.",
                )


def _lines(name: str, value: Any) -> list[str]:
    lines = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(line, str) and line.strip() for line in lines):
        raise ConfigError(
            f"launch.{name}={value} is not a list of lines", fix=f"Set launch.{name}=['first line','second line']."
        )
    for line in lines:
        if "\n" in line or "\0" in line:
            raise ConfigError(f"a line of launch.{name} has a line break", fix="Make it two entries of the list.")
    if name == "extra":
        return [_without_prefix(line) for line in lines]
    return [str(line) for line in lines]


def _without_prefix(line: str) -> str:
    """Return the options of a line that may have been copied from a script."""
    for scheduler in SCHEDULERS.values():
        line = line.removeprefix(scheduler.option_prefix)
    return line.strip()


def _check_text(name: str, value: str) -> None:
    if not value.strip() or not value.isprintable():
        what = "is empty" if not value.strip() else "has a line break or another control character"
        raise ConfigError(f"launch.{name} {what}", fix=f"Set launch.{name} to printable text, or drop it.")


NAMES = frozenset(option.name for option in fields(SchedulerConfig))
"""The settings below `launch` that a task of a job does not get."""
