"""Memory: how much main memory is left, also in a cgroup, and what running out of it looks like. Sizes in bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 1 << 60  # version 1 spells "no limit" as a number near 2**63


@dataclass(frozen=True, slots=True)
class CgroupLimit:
    """The cgroup that leaves this process the least memory."""

    path: str
    limit_bytes: int
    left_bytes: int


def cgroup_limit(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> CgroupLimit | None:
    """The binding memory limit of this process, of its own cgroup or of one above it; None without a limit.

    Args:
        root: Where cgroups are mounted.
        membership: The process's own line of each hierarchy.
    """
    limits = []
    for line in read_text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if not controllers:
            places, limit, used = cgroup_ancestors(root, own), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            places = cgroup_ancestors(root / "memory", own)
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for place in places:
            most, now = read_text(place / limit).strip(), read_text(place / used).strip()
            if most.isdecimal() and now.isdecimal() and int(most) < UNLIMITED:
                limits.append(CgroupLimit(str(place), int(most), max(0, int(most) - int(now))))
    return min(limits, key=lambda one: one.left_bytes, default=None)


def available_bytes() -> int:
    """What the kernel calls available, within the limits of this process's cgroups."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in read_text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            found = int(line.split()[1]) * 1024
    limit = cgroup_limit()
    return min(found, limit.left_bytes) if limit else found


def cgroup_ancestors(root: Path, cgroup_path: str) -> Iterator[Path]:
    """The process's cgroup and all above it; a path of the host, seen from inside a container, ends at the root."""
    place = root / cgroup_path.strip().lstrip("/")
    if ".." in place.parts:
        place = root
    while place != root:
        yield place
        place = place.parent
    yield root


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error) or "CUDA out of memory" in str(error)


def empty_cache(device: str) -> None:
    """Give cached memory back before the next try."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
