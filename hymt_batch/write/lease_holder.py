"""Who holds a lease, and whether that process still lives, as far as this machine can tell.

Does not know leases. Source: proc(5); a process id is used again, so that its start time belongs to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

MAX_PID, MAX_COUNT = (1 << 31) - 1, (1 << 63) - 1
MAX_FIELD_CHARS = 256  # characters of a field


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds a lease, in enough detail to tell whether it still lives."""

    owner: str
    host: str
    boot: str  # of the kernel: another one means that every process of before is gone
    pids: str  # process id namespace: ids of another container say nothing here
    pid: int
    started: str  # of the process, in clock ticks since boot: process ids are used again
    slurm_job: str
    slurm_restart: int
    since: str  # for people only
    epoch: int = 1
    beat: int = 0


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def process_start_time(pid: int) -> str | None:
    """Start time of a process in this machine's ticks; "" where that cannot be told, None when there is none."""
    if not 0 < pid <= MAX_PID:
        return None  # 0 and below name groups of processes
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        after_name = stat.rpartition(")")[2].split()
        return None if after_name[0] in "ZX" else after_name[19]
    except (OSError, IndexError):
        pass
    with contextlib.suppress(OSError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return ""


def _ascii(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")[:MAX_FIELD_CHARS]


def current_process() -> LeaseHolder:
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    job, task = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return LeaseHolder(
        owner=uuid.uuid4().hex,
        host=_ascii(socket.gethostname()),
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pids=pids,
        pid=os.getpid(),
        started=process_start_time(os.getpid()) or "",
        slurm_job=_ascii(f"{job}.{task}" if job else ""),
        slurm_restart=int(restart) if restart.isascii() and restart.isdigit() and len(restart) < 10 else 0,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def is_alive(holder: LeaseHolder, me: LeaseHolder) -> bool | None:
    """Whether a holder lives, as far as this machine can tell at once; None: only its beat can."""
    if holder.slurm_job and holder.slurm_job == me.slurm_job and holder.slurm_restart < me.slurm_restart:
        return False
    if holder.host != me.host:
        return None
    if holder.boot and me.boot and holder.boot != me.boot:
        return False
    if holder.boot != me.boot or holder.pids != me.pids:
        return None
    started = process_start_time(holder.pid)
    return started is not None and (not started or not holder.started or started == holder.started)


def parse_holder(data: bytes) -> LeaseHolder | None:
    """A holder as it lies on disk; None where it cannot be understood, or no process could be it."""
    try:
        value = json.loads(data)
        wanted = {field.name: type(getattr(_EXAMPLE, field.name)) for field in fields(LeaseHolder)}
        if any(type(value[name]) is not kind for name, kind in wanted.items()):
            return None
        texts = [value[name] for name, kind in wanted.items() if kind is str]
        counts = [value[name] for name in ("slurm_restart", "epoch", "beat")]
        if any(len(text) > MAX_FIELD_CHARS or not text.isascii() or not text.isprintable() for text in texts):
            return None
        if not 0 < value["pid"] <= MAX_PID or any(not 0 <= count < MAX_COUNT for count in counts):
            return None
        return LeaseHolder(**{name: value[name] for name in wanted})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_EXAMPLE = LeaseHolder("", "", "", "", 0, "", "", 0, "")
