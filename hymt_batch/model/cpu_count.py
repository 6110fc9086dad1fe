"""How many processors this process may use: those it is bound to, within the CPU quota of its cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hymt_batch.model.memory import cgroup_ancestors, read_text


def usable_cpus(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Processors this process may use, at least 1; a quota of a part of one counts as that one.

    Args:
        root: Where cgroups are mounted.
        membership: The process's own line of each hierarchy.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_cpu_quotas(root, membership)]))


def _cpu_quotas(root: Path, membership: Path) -> Iterator[int]:
    for line in read_text(membership).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if not controllers:
            for place in cgroup_ancestors(root, own):
                yield from _whole_cpus(*read_text(place / "cpu.max").split()[:2])
        elif "cpu" in controllers.split(","):
            for place in cgroup_ancestors(root / "cpu", own):
                yield from _whole_cpus(
                    read_text(place / "cpu.cfs_quota_us").strip(), read_text(place / "cpu.cfs_period_us").strip()
                )


def _whole_cpus(quota: str = "", period: str = "") -> Iterator[int]:
    """Microseconds that may be used within each period of so many; "max" and -1 are no limit."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield -(-int(quota) // int(period))
