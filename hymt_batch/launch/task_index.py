"""Which task of an array this process is, from the environment variables that SLURM and Kubernetes set.

Reads environment variables only, and only if the user asks for it (shard.index=auto). The number of tasks is never
taken from the environment: SLURM_ARRAY_TASK_COUNT is 1 when one lost task is submitted again. SLURM_NTASKS is not read
either: a batch script has it without srun, where multiplying by it would leave shards out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.errors import UsageError

ARRAY_INDEX, STEP_INDEX, STEP_SIZE = "SLURM_ARRAY_TASK_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
SUBMITIT = "SUBMITIT_EXECUTOR"


@dataclass(frozen=True, slots=True)
class TaskIndex:
    """The place of this process among the tasks of a job."""

    index: int  # from 0
    count: int | None  # number of tasks, only where one srun step holds all of them; else None
    source: str  # the variables that it was read from, for messages


def task_index(environ: Mapping[str, str]) -> TaskIndex | None:
    """Return which task of an array this process is; None if the environment does not say.

    The first that holds: a task of an srun step with T > 1 tasks in a SLURM array (array index x T + rank; T must stay
    the same when tasks are repeated), an array task, a task of an srun step without an array, a pod of an Indexed Job.

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
    if num_processes := torch_processes(environ):
        raise UsageError(
            f"shard.index=auto does not work under torchrun or accelerate launch ({num_processes} processes)",
            why="one that ends early makes them stop the others",
            fix="Start the tasks as a SLURM array or an Indexed Job of Kubernetes, with shard.index=auto.",
            id="D1",
        )
    step_size = _count(environ, STEP_SIZE) or 1
    array_index = _count(environ, ARRAY_INDEX)
    if step_size > 1:
        rank = _count(environ, STEP_INDEX)
        if rank is None or rank >= step_size:
            raise UsageError(
                f"{STEP_INDEX}={environ.get(STEP_INDEX, '')} is not a task of {STEP_SIZE}={step_size}",
                why="srun sets both",
                fix=f"Start the tasks with srun, or set shard.index=N instead of auto: unset {STEP_SIZE}.",
            )
        if array_index is not None:
            source = f"{ARRAY_INDEX}={array_index} x {STEP_SIZE}={step_size} + {STEP_INDEX}={rank}"
            return TaskIndex(array_index * step_size + rank, None, source)
        return TaskIndex(rank, step_size, f"{STEP_INDEX}={rank}")
    for name in (ARRAY_INDEX, KUBERNETES_INDEX):
        if (index := _count(environ, name)) is not None:
            return TaskIndex(index, None, f"{name}={index}")
    return None


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
