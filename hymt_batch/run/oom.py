"""Distinguish the kernel's out-of-memory kills from other SIGKILLs; the parent process sees the same signal for both.

Source: proc_vmstat(5), oom_kill: since Linux 4.13, it counts kills in cgroups as well as those of the whole machine.
"""

from __future__ import annotations

from pathlib import Path


def read_oom_kills(path: Path = Path("/proc/vmstat")) -> int | None:
    """Return the number of out-of-memory kills on this machine since boot; None where the kernel does not report it."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts else None
