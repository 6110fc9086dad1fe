"""The lease: one process works in an output folder at a time. It saves work; it does not protect data.

Parts are published first-writer-wins, so a broken lease only causes work to be done twice. File locks are not used: on
cluster file systems they may be missing, local to one node, or silently without effect. A process decides whether a
lease is stale by its own monotonic clock; wall clocks do not matter. Independent of what is done under the lease.

NFS caches attributes for up to 60 s: hence a time to live of 180 s and heartbeats of 20 s. Explained in
docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import LeaseError, StoppedError
from hymt_batch.fs_protocol import Fs
from hymt_batch.write.lease_file import bid_path, read_bytes, take_over, write_tmp
from hymt_batch.write.lease_holder import LeaseHolder, current_process, is_alive, parse_holder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """Times of the lease."""

    ttl_s: float = 180.0
    """Seconds without a heartbeat after which a holder is considered dead; 0 disables the lease, for runs that
    something else keeps apart. Two runs with the same settings would only do the same work twice."""

    beat_s: float = 20.0
    """Seconds between two heartbeats."""


DEFAULT_TIMES = LeaseTimes()


@functools.lru_cache(maxsize=64)
def lease_path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "lease" / "job.json"


def read(fs: Fs, folder: Path) -> LeaseHolder | None:
    """Return the holder; None if there is no lease or it cannot be read (an unreadable lease has no effect)."""
    return parse_holder(read_bytes(fs, lease_path(folder)) or b"")


class Lease:
    """A lease held from `acquire` until `release`; a background thread renews it."""

    def __init__(self, fs: Fs, path: Path, holder: LeaseHolder, ttl_s: float, beat_s: float, what: str) -> None:
        self.epoch = holder.epoch
        self._fs, self._path, self._holder, self._ttl_s, self._what = fs, path, holder, ttl_s, what
        self._refreshed_at, self._lost_reason, self._stop, self._lock = (
            time.monotonic(),
            "",
            threading.Event(),
            threading.Lock(),
        )
        self._own_bytes = b""  # of the lease file, when it was last found to be ours
        self._thread = threading.Thread(target=self._refresh_loop, args=(beat_s,), name="lease", daemon=True)
        self._thread.start()

    def _refresh_loop(self, beat_s: float) -> None:
        while not self._stop.wait(beat_s) and not self._lost_reason:
            self.refresh()

    def refresh(self) -> None:
        """Write the next heartbeat if the lease is still ours. File system errors are only logged: see `check`."""
        with self._lock:
            try:
                if not self._is_mine():
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._fs.rename(write_tmp(self._fs, self._path, self._holder), self._path)
                self._refreshed_at = time.monotonic()
            except OSError as error:
                log.warning("lease beat=%d error=%s", self._holder.beat, error.strerror)

    def _is_mine(self) -> bool:
        data = read_bytes(self._fs, self._path) or b""
        if data and data == self._own_bytes:  # parsing costs more than comparing, and every file is checked
            return True
        holder = parse_holder(data)
        if holder is None and files.stat_or_none(self._fs, self._path) is not None:
            return True  # cannot be read at the moment; the next heartbeat overwrites it
        if holder is None:
            self._lost_reason = "its file was removed"
        elif holder.owner != self._holder.owner:
            self._lost_reason = f"process {holder.pid} on {holder.host} took it over"
        else:
            self._own_bytes = data
        return not self._lost_reason

    def check(self) -> None:
        """Check that the lease is still ours; call it before each commit.

        Raises:
            StoppedError: The lease is lost, or could not be renewed for half its time to live.
        """
        with self._lock:
            try:
                self._is_mine()
            except OSError as error:
                log.warning("lease check error=%s", error.strerror)
            stale_s = time.monotonic() - self._refreshed_at
        if not self._lost_reason and stale_s > self._ttl_s / 2:
            self._lost_reason = (
                f"it could not be renewed for {stale_s:.0f} s (the process or the file system was not responding)"
            )
        if self._lost_reason:
            raise StoppedError(
                f"the {self._what} is lost",
                why=self._lost_reason,
                fix="This run commits nothing more; everything committed is kept. Run the same command again to "
                "continue.",
            )

    def release(self) -> None:
        """Release the lease. Never blocks forever: a signal handler may call it while the thread holds the lock."""
        self._stop.set()
        self._thread.join(timeout=2.0)
        with contextlib.suppress(OSError):
            holder = parse_holder(read_bytes(self._fs, self._path) or b"")
            if holder is not None and holder.owner == self._holder.owner:
                self._fs.unlink(self._path)


def acquire(
    fs: Fs,
    folder: Path,
    *,
    ttl_s: float,
    beat_s: float,
    me: LeaseHolder | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Take the folder's lease; if this machine cannot check whether the holder is alive, wait up to `ttl_s` first.

    Args:
        fs: The file system.
        folder: The output folder; its `.hymt/lease` exists.
        ttl_s: Seconds without a heartbeat after which the lease of another process is taken over.
        beat_s: Seconds between two heartbeats of our lease.
        me: For tests: a process other than this one.
        clock, sleep: For tests: replace the monotonic clock and the sleep, both in seconds.

    Raises:
        LeaseError: Another process holds the lease and is alive.
    """
    try:
        path, what = lease_path(folder), f"lease on {folder}"
        return acquire_at(fs, path, what, ttl_s=ttl_s, beat_s=beat_s, me=me, clock=clock, sleep=sleep)
    except HeldError as held:
        holder = held.holder
        raise LeaseError(
            f"{folder} is in use by process {holder.pid} on {holder.host}, since {holder.since}",
            why="two runs of one job would do the same work twice",
            fix=f"Wait for it, stop it (kill {holder.pid} on {holder.host}), or set name=ANOTHER for a second job.",
        ) from None


class HeldError(Exception):
    """Another process holds a lease and is alive."""

    def __init__(self, holder: LeaseHolder) -> None:
        super().__init__(holder)
        self.holder = holder


def acquire_at(
    fs: Fs,
    path: Path,
    what: str,
    *,
    ttl_s: float,
    beat_s: float,
    me: LeaseHolder | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Take a lease whose file is at a path, in a folder that exists; `what` is what messages call it. See `acquire`.

    Raises:
        HeldError: Another process holds the lease and is alive.
    """
    me = me or current_process()
    seen: bytes | None = None
    since, waiting = clock(), False
    while True:
        raw = read_bytes(fs, path)
        if raw is None:
            if _create(fs, path, me):
                return Lease(fs, path, me, ttl_s, beat_s, what)
            continue
        holder = parse_holder(raw)
        alive = is_alive(holder, me) if holder else None
        if holder and alive is not False and (alive or (seen is not None and raw != seen)):
            raise HeldError(holder)
        if raw != seen:
            seen, since = raw, clock()
        if alive is False or clock() - since >= ttl_s:
            successor = replace(me, epoch=holder.epoch + 1 if holder else 1)
            if take_over(fs, path, raw, successor):
                if holder:
                    log.warning("lease taken_over_from_pid=%d host=%s", holder.pid, holder.host)
                else:
                    log.warning("lease taken over: it could not be read, and no process renewed it")
                return Lease(fs, path, successor, ttl_s, beat_s, what)
            if clock() - since >= 2 * ttl_s:  # a process was killed after its bid for the lease
                files.remove(fs, bid_path(path, raw))
        if not waiting:
            _report_wait(path, holder, ttl_s)
            waiting = True
        sleep(min(max(beat_s / 2, 0.05), ttl_s))


def _create(fs: Fs, path: Path, me: LeaseHolder) -> bool:
    """Create a lease where there is none; False if another process was faster."""
    tmp, is_ours = write_tmp(fs, path, me), False
    with contextlib.suppress(FileNotFoundError):  # another process got the lease and removed our file
        is_ours = files.publish(fs, tmp, path)
    files.remove(fs, tmp)
    if is_ours:
        fs.fsync_dir(path.parent)
    return is_ours


def _report_wait(path: Path, holder: LeaseHolder | None, ttl_s: float) -> None:
    """Log that this run watches the lease of another one."""
    if holder:
        log.warning("lease held_by_pid=%d host=%s watching_for_s=%.0f", holder.pid, holder.host, ttl_s)
        return
    log.warning(
        "%s cannot be read, so this run cannot check whether its holder is alive: watching it for %.0f s. "
        "If no other run uses this folder, stop this run, remove the file and run again",
        path,
        ttl_s,
    )
