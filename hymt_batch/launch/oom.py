"""Whether the kernel ended a process because memory ran out; somebody's kill looks the same otherwise.

Source: proc_vmstat(5), oom_kill: counted for the machine and for cgroups alike, since Linux 4.13.
"""

from __future__ import annotations

from pathlib import Path


def read_oom_kills(path: Path = Path("/proc/vmstat")) -> int | None:
    """How often this machine's kernel did so since it started; None where it does not tell."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    found = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
    return int(found[0]) if found else None
