"""Identify the process that holds a lease, and find out whether it is still alive, as far as this machine can tell.

Independent of how leases are taken and renewed. Source: proc(5). Process ids are reused, so a process is identified by
its id and start time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from hymt_batch.launch.registry import SCHEDULERS

MAX_PID, MAX_COUNT = (1 << 31) - 1, (1 << 63) - 1
MAX_FIELD_CHARS = 256


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """The process that holds a lease, in enough detail to check whether it is still alive."""

    owner: str
    host: str
    boot: str  # boot id of the kernel: if it changed, the machine restarted and the process ended
    pids: str  # process id namespace: ids of another container mean nothing here
    pid: int
    started: str  # start time of the process in clock ticks since boot, because process ids are reused
    slurm_job: str  # and task, of any scheduler that starts a job again under the same id
    slurm_restart: int
    since: str  # used only in messages
    epoch: int = 1
    beat: int = 0


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def process_start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot; "" if unknown, None if there is no such process."""
    if not 0 < pid <= MAX_PID:
        return None  # 0 and below stand for process groups
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
    job, restart = _restarted_job()
    return LeaseHolder(
        owner=uuid.uuid4().hex,
        host=_ascii(socket.gethostname()),
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pids=pids,
        pid=os.getpid(),
        started=process_start_time(os.getpid()) or "",
        slurm_job=_ascii(job),
        slurm_restart=int(restart) if restart.isascii() and restart.isdigit() and len(restart) < 10 else 0,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _restarted_job() -> tuple[str, str]:
    """Return the job of this process, with its task, and how often it was started again; ("", "0") if nothing says."""
    for scheduler in SCHEDULERS.values():
        job = os.environ.get(scheduler.job_id, "") if scheduler.restart_count else ""
        if job:
            task = os.environ.get(scheduler.array.index, "") if scheduler.array is not None else ""
            return f"{job}.{task}", os.environ.get(scheduler.restart_count, "0")
    return "", "0"


def is_alive(holder: LeaseHolder, me: LeaseHolder) -> bool | None:
    """Return whether a holder is alive; None if this machine cannot check it, so that only heartbeats can show it."""
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


@lru_cache(maxsize=4)  # the holder reads its own lease several times for each file
def parse_holder(data: bytes) -> LeaseHolder | None:
    """Parse the contents of a lease file; None if they are invalid or cannot belong to any process."""
    try:
        value = json.loads(data)
        field_types = {field.name: type(getattr(_EXAMPLE, field.name)) for field in fields(LeaseHolder)}
        if any(type(value[name]) is not kind for name, kind in field_types.items()):
            return None
        texts = [value[name] for name, kind in field_types.items() if kind is str]
        counts = [value[name] for name in ("slurm_restart", "epoch", "beat")]
        if any(len(text) > MAX_FIELD_CHARS or not text.isascii() or not text.isprintable() for text in texts):
            return None
        if not 0 < value["pid"] <= MAX_PID or any(not 0 <= count < MAX_COUNT for count in counts):
            return None
        return LeaseHolder(**{name: value[name] for name in field_types})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_EXAMPLE = LeaseHolder("", "", "", "", 0, "", "", 0, "")
