"""Checks of main memory and shared memory, including the memory limit of a cgroup. Sizes are in bytes."""

from __future__ import annotations

import os
from pathlib import Path

from hymt_batch.device_map.settings import gib
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.memory import CgroupLimit

MEMORY_MARGIN = 1.2  # factor for memory besides the weights: libraries, text, and processes that start later
SHARED_MEMORY_BYTES = 1 << 30


def check_memory(available: int, needed: int, purpose: str, limit: CgroupLimit | None = None) -> list[Finding]:
    """Check that the job fits into main memory.

    Args:
        available: Bytes that this process can still allocate.
        needed: Bytes that the job will allocate.
        purpose: What they are for, such as "weights on the CPU".
        limit: Memory limit of the cgroup, from model/memory.py.
    """
    limited = limit is not None and limit.left_bytes <= available
    left = min(available, limit.left_bytes) if limit else available
    seen = f"{gib(left)} left, {purpose}: {gib(needed)}"
    fix = "free some memory, set model.dtype=bfloat16 or choose a smaller model"
    if limited and limit is not None:
        seen += f" (limit of the cgroup {limit.path}: {gib(limit.limit_bytes)})"
        fix = "raise the limit of the cgroup (docker run --memory, sbatch --mem), or set model.dtype=bfloat16"
    if needed > left:
        return [Finding("main memory", Level.FAIL, seen, fix, "G1")]
    if needed * MEMORY_MARGIN > left:
        return [Finding("main memory", Level.WARN, f"{seen}; less than {MEMORY_MARGIN} times that is left", fix, "G1")]
    return [Finding("main memory", Level.OK, seen)]


def check_shared_memory(path: str | Path = "/dev/shm", needed: int = SHARED_MEMORY_BYTES) -> list[Finding]:
    """Check the free shared memory; Docker containers have 64 MiB by default.

    Args:
        path: Its mount point.
        needed: Bytes that several workers, or NCCL, may allocate.
    """
    check = f"shared memory ({path})"
    try:
        stats = os.statvfs(path)
    except OSError as error:
        return [Finding(check, Level.SKIP, f"cannot be read ({error.strerror}); a single process does not need it")]
    free = stats.f_bavail * stats.f_frsize
    seen = f"{gib(free)} free"
    if free < needed:
        seen += f", less than {gib(needed)}; this matters only with several workers or NCCL"
        return [Finding(check, Level.WARN, seen, "docker run --shm-size=2g (or --ipc=host)", "G2")]
    return [Finding(check, Level.OK, seen)]
