"""The table of schedulers: what each is called, which settings it uses, what it sets, and the module that it is in.

Settings, the launcher, the index of a task, its time limit and the lease ask this table. It imports no scheduler;
`launcher.py` imports the module of the one that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Target(Enum):
    """Who runs the processes of a job."""

    local = "local"  # this process, and its workers
    slurm = "slurm"  # an array of SLURM, submitted here
    k8s = "k8s"  # manifests for Kubernetes, printed
    ray = "ray"  # tasks of a Ray cluster, run until the job ends
    systemd = "systemd"  # a service and its timer, printed
    cron = "cron"  # a line of a crontab, printed


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVariables:
    """What tells the processes apart that a program starts together, also as one task of an array."""

    program: str
    rank: str  # variable: which of them a process is, from 0
    size: str  # variable: how many they are


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayVariables:
    """What tells the tasks of an array apart."""

    kind: str  # what such an array is called, in messages
    index: str  # variable: which task a process is
    first: int = 0  # index of the first task; a process with a lower one is in no array
    step: StepVariables | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One row of the table. A variable is one of the environment; empty: the scheduler has none."""

    module: Any  # dotted name of its module, which defines `hand_over`; tests register an object that does
    settings: tuple[str, ...]  # those below `launch` that it uses; other targets refuse them
    has_tasks: bool = False  # it runs the tasks of a prepared job
    option_prefix: str = ""  # begins a line of options in a script; `launch.extra` may have it
    array: ArrayVariables | None = None
    job_id: str = ""  # variable: the job that a process belongs to
    restart_count: str = ""  # variable: how often that job was started again
    end_time: str = ""  # variable: when it is ended, in seconds since 1970


TASK_SETTINGS = ("dry_run", "array_parallelism", "max_requeues", "gpus_per_task", "cpus_per_task", "mem")
"""What every scheduler of tasks is asked for."""

SCHEDULERS: dict[str, Scheduler] = {
    "slurm": Scheduler(
        module="hymt_batch.launch.slurm_submit",
        settings=(
            *TASK_SETTINGS,
            *("devices", "part_s", "gres", "account", "partition", "qos", "time", "constraint", "extra", "setup"),
        ),
        has_tasks=True,
        option_prefix="#SBATCH",
        array=ArrayVariables(
            kind="a SLURM array",
            index="SLURM_ARRAY_TASK_ID",
            step=StepVariables(program="srun", rank="SLURM_PROCID", size="SLURM_STEP_NUM_TASKS"),
        ),
        job_id="SLURM_JOB_ID",
        restart_count="SLURM_RESTART_COUNT",
        end_time="SLURM_JOB_END_TIME",  # since 23.02; the scripts of launch=slurm set it for earlier versions
    ),
    "k8s": Scheduler(
        module="hymt_batch.launch.kubernetes",
        settings=(
            *TASK_SETTINGS,
            *("image", "namespace", "data_claim", "outputs_claim", "cache_claim", "tasks", "schedule"),
        ),
        has_tasks=True,
        array=ArrayVariables(kind="an Indexed Job of Kubernetes", index="JOB_COMPLETION_INDEX"),
    ),
    "ray": Scheduler(
        module="hymt_batch.launch.ray_cluster",
        settings=(*TASK_SETTINGS, "devices", "part_s", "address"),
        has_tasks=True,
    ),
    "systemd": Scheduler(module="hymt_batch.launch.systemd", settings=("dry_run", "schedule")),
    "cron": Scheduler(module="hymt_batch.launch.cron", settings=("dry_run", "schedule")),
}
"""Target -> its entry. Where the environment has variables of several, the first one holds."""
