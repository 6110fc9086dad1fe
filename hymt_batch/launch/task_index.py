"""Which task of an array this process is, from the environment variables that its scheduler sets (`registry.py`).

Reads environment variables only, and only if the user asks for it (shard.index=auto). The number of tasks is never
taken from the environment: SLURM_ARRAY_TASK_COUNT is 1 when one lost task is submitted again. SLURM_NTASKS is not read
either: a batch script has it without srun, where multiplying by it would leave shards out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.errors import UsageError
from hymt_batch.launch.registry import SCHEDULERS, ArrayVariables, StepVariables

SUBMITIT = "SUBMITIT_EXECUTOR"


@dataclass(frozen=True, slots=True)
class TaskIndex:
    """The place of this process among the tasks of a job."""

    index: int  # from 0
    count: int | None  # number of tasks, only where one step of srun holds all of them; else None
    source: str  # the variables that it was read from, for messages


def task_index(environ: Mapping[str, str]) -> TaskIndex | None:
    """Return which task of an array this process is; None if the environment does not say.

    The schedulers are asked in the order of the table. Of each, the first that holds: a task of a step with T > 1 tasks
    in an array (array index x T + rank; T must stay the same when tasks are repeated), an array task, a task of a step
    without an array.

    Args:
        environ: The environment variables.

    Raises:
        UsageError: A variable is not a number, or a launcher started this process whose numbers mean something else:
            submitit (the index is a position in its sweep), torchrun or accelerate (all ranks would be one task).
    """
    if environ.get(SUBMITIT):
        raise UsageError(
            f"shard.index=auto does not work under submitit ({SUBMITIT}={environ[SUBMITIT]})",
            why="the index of its array is a position in the sweep, not a shard",
            fix="Sweep the shards themselves, such as 'shard.index=range(0,8)'.",
        )
    arrays = [scheduler.array for scheduler in SCHEDULERS.values() if scheduler.array is not None]
    if num_processes := torch_processes(environ):
        raise UsageError(
            f"shard.index=auto does not work under torchrun or accelerate launch ({num_processes} processes)",
            why="one that ends early makes them stop the others",
            fix=f"Start the tasks as {' or '.join(array.kind for array in arrays)}, with shard.index=auto.",
            id="D1",
        )
    return next((found for array in arrays if (found := _index_in(array, environ)) is not None), None)


def _index_in(array: ArrayVariables, environ: Mapping[str, str]) -> TaskIndex | None:
    """Return which task of an array of one scheduler this process is; None if it is none."""
    step_size = (_count(environ, array.step.size) if array.step is not None else None) or 1
    value = _count(environ, array.index)
    index = value - array.first if value is not None and value >= array.first else None
    if array.step is not None and step_size > 1:
        rank = _rank(array.step, step_size, environ)
        if index is None:
            return TaskIndex(rank, step_size, f"{array.step.rank}={rank}")
        source = f"{array.index}={value} x {array.step.size}={step_size} + {array.step.rank}={rank}"
        return TaskIndex(index * step_size + rank, None, source)
    return None if index is None else TaskIndex(index, None, f"{array.index}={value}")


def _rank(step: StepVariables, step_size: int, environ: Mapping[str, str]) -> int:
    """Return which process of a step this is.

    Raises:
        UsageError: It is none of them.
    """
    rank = _count(environ, step.rank)
    if rank is None or rank >= step_size:
        raise UsageError(
            f"{step.rank}={environ.get(step.rank, '')} is not a task of {step.size}={step_size}",
            why=f"{step.program} sets both",
            fix=f"Start the tasks with {step.program}, or set shard.index=N instead of auto: unset {step.size}.",
        )
    return rank


def torch_processes(environ: Mapping[str, str]) -> int:
    """Return how many processes torchrun or accelerate started for one command; 0 if none of them did, or one only."""
    num_processes = parse_count(environ, "WORLD_SIZE") or 1
    is_launched = "TORCHELASTIC_RUN_ID" in environ or "LOCAL_RANK" in environ
    return num_processes if num_processes > 1 and is_launched else 0


def parse_count(environ: Mapping[str, str], name: str) -> int | None:
    """Return a variable as a number of 0 or more; None if it is not set, or is no such number."""
    value = environ.get(name, "").strip()
    return int(value) if value.isascii() and value.isdecimal() else None


def _count(environ: Mapping[str, str], name: str) -> int | None:
    """Return a variable as a number of 0 or more; None if it is not set or empty."""
    value = parse_count(environ, name)
    if value is None and environ.get(name, "").strip():
        raise UsageError(
            f"{name}={environ[name]!r} is not a number of 0 or more",
            why="shard.index=auto reads it",
            fix=f"Unset {name}, or set shard.index=N instead of auto.",
        )
    return value
