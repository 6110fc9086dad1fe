"""The lease: one process works in an output folder at a time. It saves work; it never protects data.

Parts are published first-writer-wins, so a broken lease costs double work and nothing else. There is no file lock: on
cluster file systems those are missing, local to a node, or silently without effect. Staleness is judged by the
observer's own monotonic clock, so that no wall clock matters. Does not know what is done under the lease.

Source: reference/reliability.md 2.7. NFS caches attributes for up to 60 s: hence 180 s to live, and beats of 20 s.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import LeaseError, StoppedError
from hymt_batch.fs import Fs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
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


def process_started(pid: int) -> str | None:
    """Start time of a process in this machine's ticks; "" where that cannot be told, None when there is none."""
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


def myself() -> Holder:
    try:
        pids = os.readlink("/proc/self/ns/pid")
    except OSError:
        pids = ""
    job, task = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return Holder(
        owner=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot=_read_text("/proc/sys/kernel/random/boot_id"),
        pids=pids,
        pid=os.getpid(),
        started=process_started(os.getpid()) or "",
        slurm_job=f"{job}.{task}" if job else "",
        slurm_restart=int(restart) if restart.isdigit() else 0,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def alive(other: Holder, me: Holder) -> bool | None:
    """Whether a holder lives, as far as this machine can tell at once; None: only its beat can."""
    if other.slurm_job and other.slurm_job == me.slurm_job and other.slurm_restart < me.slurm_restart:
        return False
    if other.host != me.host:
        return None
    if other.boot and me.boot and other.boot != me.boot:
        return False
    if other.boot != me.boot or other.pids != me.pids:
        return None
    started = process_started(other.pid)
    return started is not None and (not started or not other.started or started == other.started)


def lease_path(folder: Path) -> Path:
    return manifest.state(folder) / "lease" / "job.json"


def read(fs: Fs, folder: Path) -> Holder | None:
    """The holder, or None where there is no lease or no readable one (a broken lease protects nobody)."""
    return _holder(_raw(fs, folder) or b"")


def _raw(fs: Fs, folder: Path) -> bytes | None:
    """The lease as it lies there; None where there is none, b"" where it cannot be read."""
    try:
        return fs.read(lease_path(folder))
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _holder(data: bytes) -> Holder | None:
    try:
        value = json.loads(data)
        wanted = {field.name: type(getattr(_SAMPLE, field.name)) for field in fields(Holder)}
        if any(type(value[name]) is not kind for name, kind in wanted.items()):
            return None
        return Holder(**{name: value[name] for name in wanted})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


_SAMPLE = Holder("", "", "", "", 0, "", "", 0, "")


def _write_new(fs: Fs, folder: Path, holder: Holder) -> Path:
    tmp = lease_path(folder).with_name(f".tmp-job.json-{uuid.uuid4().hex}")
    files.write_new(fs, tmp, manifest.canonical(asdict(holder)))
    return tmp


class Lease:
    """Held from `acquire` until `release`; a thread of its own keeps it fresh."""

    def __init__(self, fs: Fs, folder: Path, me: Holder, ttl_s: float, beat_s: float) -> None:
        self.epoch = me.epoch
        self._fs, self._folder, self._me, self._ttl_s = fs, folder, me, ttl_s
        self._fresh, self._lost, self._stop, self._lock = time.monotonic(), "", threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, args=(beat_s,), name="lease", daemon=True)
        self._thread.start()

    def _beat(self, beat_s: float) -> None:
        while not self._stop.wait(beat_s) and not self._lost:
            self.refresh()

    def refresh(self) -> None:
        """Write the next beat if the lease is still ours; a failing store is tolerated for half the time to live."""
        with self._lock:
            try:
                if not self._mine():
                    return
                self._me = replace(self._me, beat=self._me.beat + 1)
                self._fs.rename(_write_new(self._fs, self._folder, self._me), lease_path(self._folder))
                self._fresh = time.monotonic()
            except OSError as error:
                log.warning("lease beat=%d error=%s", self._me.beat, error.strerror)

    def _mine(self) -> bool:
        found = read(self._fs, self._folder)
        if found is None and files.exists(self._fs, lease_path(self._folder)) is not None:
            return True  # unreadable at this moment; the next beat mends it
        if found is None:
            self._lost = "its file was removed"
        elif found.owner != self._me.owner:
            self._lost = f"process {found.pid} on {found.host} took it over"
        return not self._lost

    def check(self) -> None:
        """Call before each commit.

        Raises:
            StoppedError: The lease is lost, or could not be refreshed for half its time to live.
        """
        with self._lock:
            try:
                self._mine()
            except OSError as error:
                log.warning("lease check error=%s", error.strerror)
            stale_s = time.monotonic() - self._fresh
        if not self._lost and stale_s > self._ttl_s / 2:
            self._lost = f"it could not be refreshed for {stale_s:.0f} s (the process or the store stood still)"
        if self._lost:
            raise StoppedError(
                f"the lease on {self._folder} is lost: {self._lost}. Nothing more is committed here; what was "
                "committed is kept. Run the same command again to continue."
            )

    def release(self) -> None:
        """Give the lease back. A signal handler may call it while its thread holds the lock: never wait for ever."""
        self._stop.set()
        self._thread.join(timeout=2.0)
        with contextlib.suppress(OSError):
            found = read(self._fs, self._folder)
            if found is not None and found.owner == self._me.owner:
                self._fs.unlink(lease_path(self._folder))


def _take_over(fs: Fs, folder: Path, stale: bytes, me: Holder) -> bool:
    """Replace a dead lease by ours, unless another process is at it or was first.

    A second name for the dead lease, made of its contents, is the claim; one of several racers gets it. It replaces
    the lease by rename, if that is still the dead one, so that the folder is never without a lease.
    """
    claim = lease_path(folder).with_name(f"stale-{hashlib.sha256(stale).hexdigest()[:32]}")
    try:
        fs.link(lease_path(folder), claim)
    except OSError as error:
        if error.errno not in files.NO_LINK:
            return False  # another racer's claim, or there is no lease any more
    try:
        if _raw(fs, folder) != stale:
            return False
        with contextlib.suppress(FileNotFoundError):  # a racer holds the lease, and swept our file away
            fs.rename(_write_new(fs, folder, me), lease_path(folder))
            return True
        return False
    finally:
        files.remove(fs, claim)


def _drop_claims(fs: Fs, folder: Path) -> None:
    home = lease_path(folder).parent
    for name in files.names(fs, home):
        if name.startswith("stale-"):
            files.remove(fs, home / name)


def acquire(
    fs: Fs,
    folder: Path,
    *,
    ttl_s: float,
    beat_s: float,
    me: Holder | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Take the folder's lease, waiting at most `ttl_s` for the sign of life of a holder that cannot be asked.

    Args:
        fs: The store.
        folder: The output folder; its `.hymt/lease` exists.
        ttl_s: A lease whose beat stood still for so long is taken over, in seconds.
        beat_s: Seconds between two beats of ours.
        me: For tests: another process than this one.
        clock, sleep: For tests: the observer's monotonic clock, in seconds.

    Raises:
        LeaseError: Another process holds it and lives.
    """
    me = me or myself()
    seen: bytes | None = None
    since, waiting = clock(), False
    while True:
        raw = _raw(fs, folder)
        if raw is None:
            tmp = _write_new(fs, folder, me)
            with contextlib.suppress(FileNotFoundError):  # a racer holds the lease, and swept our file away
                if files.publish(fs, tmp, lease_path(folder)):
                    files.remove(fs, tmp)
                    fs.fsync_dir(lease_path(folder).parent)
                    return Lease(fs, folder, me, ttl_s, beat_s)
            files.remove(fs, tmp)
            continue
        found = _holder(raw)
        living = alive(found, me) if found else None
        if found and living is not False and (living or (seen is not None and raw != seen)):
            raise LeaseError(
                f"{folder} is in use by process {found.pid} on {found.host}, since {found.since}; two runs of one job "
                f"would do the same work twice. Wait for it, or stop it (kill {found.pid} on {found.host}), or set "
                "name=ANOTHER for another job."
            )
        if raw != seen:
            seen, since = raw, clock()
        if living is False or clock() - since >= ttl_s:
            successor = replace(me, epoch=found.epoch + 1 if found else 1)
            if _take_over(fs, folder, raw, successor):
                log.warning("lease taken_over_from_pid=%s host=%s", found and found.pid, found and found.host)
                return Lease(fs, folder, successor, ttl_s, beat_s)
            if clock() - since >= 2 * ttl_s:  # a racer was killed with its claim on the lease
                _drop_claims(fs, folder)
        if found and not waiting:
            log.warning("lease held_by_pid=%d host=%s watching_for_s=%.0f", found.pid, found.host, ttl_s)
            waiting = True
        sleep(min(max(beat_s / 2, 0.05), ttl_s))
