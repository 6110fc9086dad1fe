"""Main memory and shared memory, also where a cgroup allows less than the machine has. Sizes in bytes."""

from __future__ import annotations

import os
from pathlib import Path

from hymt_batch.device_map.settings import gib
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.memory import CgroupLimit

MEMORY_MARGIN = 1.2  # beside the weights: libraries, text, and what other processes take meanwhile
SHARED_MEMORY_BYTES = 1 << 30


def check_memory(available: int, needed: int, purpose: str, limit: CgroupLimit | None = None) -> list[Finding]:
    """Whether main memory holds what the job puts there.

    Args:
        available: Bytes this process may still take.
        needed: Bytes the job will take.
        what: What takes them, such as "weights on the CPU".
        limit: The cgroup's limit, from model/memory.py.
    """
    binds = limit is not None and limit.left_bytes <= available
    left = min(available, limit.left_bytes) if limit else available
    seen = f"{gib(left)} left, {purpose}: {gib(needed)}"
    fix = "free some, choose model.dtype=bfloat16 or a smaller model"
    if binds and limit is not None:
        seen += f" (limit of the cgroup {limit.path}: {gib(limit.limit_bytes)})"
        fix = "raise the cgroup's limit (docker run --memory, sbatch --mem), or choose model.dtype=bfloat16"
    if needed > left:
        return [Finding("main memory", Level.FAIL, seen, fix, "G1")]
    if needed * MEMORY_MARGIN > left:
        return [Finding("main memory", Level.WARN, f"{seen}: less than {MEMORY_MARGIN} times as much", fix, "G1")]
    return [Finding("main memory", Level.OK, seen)]


def check_shared_memory(path: str | Path = "/dev/shm", needed: int = SHARED_MEMORY_BYTES) -> list[Finding]:
    """Room of the memory that processes share; containers give 64 MiB unless told otherwise.

    Args:
        path: Where it is mounted.
        needed: Bytes that several workers, or NCCL, may ask for.
    """
    check = f"shared memory ({path})"
    try:
        found = os.statvfs(path)
    except OSError as error:
        return [Finding(check, Level.SKIP, f"cannot be asked ({error.strerror}); one process alone needs none")]
    free = found.f_bavail * found.f_frsize
    seen = f"{gib(free)} free"
    if free < needed:
        seen += f", less than {gib(needed)}; matters only with several workers or NCCL"
        return [Finding(check, Level.WARN, seen, "docker run --shm-size=2g (or --ipc=host)", "G2")]
    return [Finding(check, Level.OK, seen)]
