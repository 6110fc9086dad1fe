"""How much main memory is available, within the limits of cgroups; detects out-of-memory errors. Sizes in bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """The cgroup with the tightest memory limit on this process."""

    path: str
    limit_bytes: int
    left_bytes: int


def cgroup_limit(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> CgroupLimit | None:
    """Return the tightest memory limit on this process, of its cgroup or of an ancestor; None without a limit.

    Args:
        root: Where the cgroup file system is mounted.
        membership: File that lists the process's cgroup in each hierarchy.
    """
    limits = []
    for line in read_text(membership).splitlines():
        _, _, fields = line.partition(":")
        controllers, _, cgroup_path = fields.partition(":")
        if not controllers:
            cgroups, limit_file, usage_file = cgroup_ancestors(root, cgroup_path), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            cgroups = cgroup_ancestors(root / "memory", cgroup_path)
            limit_file, usage_file = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for cgroup in cgroups:
            max_bytes, used_bytes = read_text(cgroup / limit_file).strip(), read_text(cgroup / usage_file).strip()
            if max_bytes.isdecimal() and used_bytes.isdecimal() and int(max_bytes) < UNLIMITED:
                limits.append(CgroupLimit(str(cgroup), int(max_bytes), max(0, int(max_bytes) - int(used_bytes))))
    return min(limits, key=lambda candidate: candidate.left_bytes, default=None)


def available_bytes() -> int:
    """Return the main memory that the kernel reports as available, within the limits of this process's cgroups."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in read_text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = cgroup_limit()
    return min(available, limit.left_bytes) if limit else available


def cgroup_ancestors(root: Path, cgroup_path: str) -> Iterator[Path]:
    """Yield the process's cgroup and its ancestors; only the root if the path leads outside the container."""
    path = root / cgroup_path.strip().lstrip("/")
    if ".." in path.parts:
        path = root
    while path != root:
        yield path
        path = path.parent
    yield root


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU or the main memory is full."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error) or "CUDA out of memory" in str(error)


def is_gpu_failure(error: BaseException) -> bool:
    """Return whether torch reports an error of CUDA. The process can then not use the GPU any more."""
    return "CUDA error" in str(error)


def run_within_memory(work: Callable[[], T], device: str) -> T | None:
    """Return the result of `work`; None if memory ran out, after freeing what can be freed on `device`."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # outside the except block, because the traceback would keep the tensors alive
    empty_cache(device)
    return None


def empty_cache(device: str) -> None:
    """Release cached memory before the next attempt."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
