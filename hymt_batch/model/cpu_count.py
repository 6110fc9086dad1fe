"""Number of CPUs that this process may use: its CPU affinity, limited by the CPU quota of its cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hymt_batch.model.memory import cgroup_ancestors, read_text


def usable_cpus(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Return the number of CPUs that this process may use, at least 1; a fractional quota is rounded up.

    Args:
        root: Where the cgroup file system is mounted.
        membership: File that lists the process's cgroup in each hierarchy.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *_cpu_quotas(root, membership)]))


def _cpu_quotas(root: Path, membership: Path) -> Iterator[int]:
    for line in read_text(membership).splitlines():
        _, _, fields = line.partition(":")
        controllers, _, cgroup_path = fields.partition(":")
        if not controllers:
            for cgroup in cgroup_ancestors(root, cgroup_path):
                yield from _whole_cpus(*read_text(cgroup / "cpu.max").split()[:2])
        elif "cpu" in controllers.split(","):
            for cgroup in cgroup_ancestors(root / "cpu", cgroup_path):
                yield from _whole_cpus(
                    read_text(cgroup / "cpu.cfs_quota_us").strip(), read_text(cgroup / "cpu.cfs_period_us").strip()
                )


def _whole_cpus(quota: str = "", period: str = "") -> Iterator[int]:
    """Yield the number of CPUs that a quota allows, rounded up; nothing if the quota is "max" or -1 (no limit)."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield -(-int(quota) // int(period))
