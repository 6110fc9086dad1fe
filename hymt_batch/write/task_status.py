"""What the folder of a prepared job shows of all its tasks: which units are complete, and who works. Only reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hymt_batch.fs import stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.write import claim, shard_plan
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.unit_progress import UnitProgress


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The tasks of a prepared job, as far as its files show them."""

    shards: int  # of the plan
    shards_complete: int
    rows: int  # of the plan
    tasks: list[dict[str, Any]] = field(default_factory=list)  # shard, host, pid, since, beat_age_s and alive of each

    @property
    def num_working(self) -> int:
        """Claims whose task works, as far as this machine can tell."""
        return sum(bool(task["working"]) for task in self.tasks)


def read(fs: Fs, folder: Path, max_beat_age_s: float) -> TaskStatus | None:
    """Return the state of all tasks; None if the folder was not prepared.

    Args:
        fs: The file system.
        folder: The output folder.
        max_beat_age_s: A task on another machine counts as working until its heartbeat is older.

    Raises:
        IdentityError, PreflightError: The plan cannot be used.
    """
    plan = shard_plan.read_if_any(fs, folder)
    if plan is None:
        return None
    missing = sum(1 for _ in UnitProgress(fs, folder, plan).missing())
    tasks = list(_read_tasks(fs, folder, max_beat_age_s))
    return TaskStatus(plan.num_units, plan.num_units - missing, plan.num_rows, tasks)


def _read_tasks(fs: Fs, folder: Path, max_beat_age_s: float) -> Iterator[dict[str, Any]]:
    me = holders.current_process()
    for unit, path, holder in claim.read_all(fs, folder):
        file_stat = stat_or_none(fs, path)
        if holder is None or file_stat is None:
            continue
        age_s = max(0.0, round(time.time() - file_stat.mtime_ns / 1e9, 1))
        alive = holders.is_alive(holder, me)
        yield {
            "shard": unit,
            "host": holder.host,
            "pid": holder.pid,
            "since": holder.since,
            "slurm_job": holder.slurm_job,
            "beat_age_s": age_s,
            "alive": alive,
            "working": bool(alive) or (alive is None and age_s <= max_beat_age_s),
        }
