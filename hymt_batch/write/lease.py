"""The lease: one process works in an output folder at a time. It saves work; it never protects data.

Parts are published first-writer-wins, so a broken lease costs double work and nothing else. There is no file lock: on
cluster file systems those are missing, local to a node, or silently without effect. Staleness is judged by the
observer's own monotonic clock, so that no wall clock matters. Does not know what is done under the lease.

Source: reference/reliability.md 2.7. NFS caches attributes for up to 60 s: hence 180 s to live, and beats of 20 s.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import LeaseError, StoppedError
from hymt_batch.fs import Fs
from hymt_batch.write.lease_holder import LeaseHolder, current_process, is_alive, parse_holder

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 16  # read of a lease; ours has a few hundred


def lease_path(folder: Path) -> Path:
    return manifest.state_folder(folder) / "lease" / "job.json"


def read(fs: Fs, folder: Path) -> LeaseHolder | None:
    """The holder, or None where there is no lease or no readable one (a broken lease protects nobody)."""
    return parse_holder(_read_lease_bytes(fs, folder) or b"")


def _read_lease_bytes(fs: Fs, folder: Path) -> bytes | None:
    """The lease as it lies there; None where there is none, b"" where it cannot be read."""
    return _read_bytes(fs, lease_path(folder))


def _read_bytes(fs: Fs, path: Path) -> bytes | None:
    try:
        return fs.read(path, 0, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        return b""


def _write_tmp(fs: Fs, folder: Path, holder: LeaseHolder) -> Path:
    tmp = lease_path(folder).with_name(f".tmp-job.json-{uuid.uuid4().hex}")
    files.write_new(fs, tmp, manifest.canonical_json(asdict(holder)))
    return tmp


class Lease:
    """Held from `acquire` until `release`; a thread of its own keeps it fresh."""

    def __init__(self, fs: Fs, folder: Path, me: LeaseHolder, ttl_s: float, beat_s: float) -> None:
        self.epoch = me.epoch
        self._fs, self._folder, self._holder, self._ttl_s = fs, folder, me, ttl_s
        self._refreshed_at, self._lost_reason, self._stop, self._lock = (
            time.monotonic(),
            "",
            threading.Event(),
            threading.Lock(),
        )
        self._thread = threading.Thread(target=self._refresh_loop, args=(beat_s,), name="lease", daemon=True)
        self._thread.start()

    def _refresh_loop(self, beat_s: float) -> None:
        while not self._stop.wait(beat_s) and not self._lost_reason:
            self.refresh()

    def refresh(self) -> None:
        """Write the next beat if the lease is still ours; a failing store is tolerated for half the time to live."""
        with self._lock:
            try:
                if not self._is_mine():
                    return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._fs.rename(_write_tmp(self._fs, self._folder, self._holder), lease_path(self._folder))
                self._refreshed_at = time.monotonic()
            except OSError as error:
                log.warning("lease beat=%d error=%s", self._holder.beat, error.strerror)

    def _is_mine(self) -> bool:
        found = read(self._fs, self._folder)
        if found is None and files.stat_or_none(self._fs, lease_path(self._folder)) is not None:
            return True  # unreadable at this moment; the next beat mends it
        if found is None:
            self._lost_reason = "its file was removed"
        elif found.owner != self._holder.owner:
            self._lost_reason = f"process {found.pid} on {found.host} took it over"
        return not self._lost_reason

    def check(self) -> None:
        """Call before each commit.

        Raises:
            StoppedError: The lease is lost, or could not be refreshed for half its time to live.
        """
        with self._lock:
            try:
                self._is_mine()
            except OSError as error:
                log.warning("lease check error=%s", error.strerror)
            stale_s = time.monotonic() - self._refreshed_at
        if not self._lost_reason and stale_s > self._ttl_s / 2:
            self._lost_reason = f"it could not be refreshed for {stale_s:.0f} s (the process or the store stood still)"
        if self._lost_reason:
            raise StoppedError(
                f"the lease on {self._folder} is lost: {self._lost_reason}. Nothing more is committed here; what was "
                "committed is kept. Run the same command again to continue."
            )

    def release(self) -> None:
        """Give the lease back. A signal handler may call it while its thread holds the lock: never wait for ever."""
        self._stop.set()
        self._thread.join(timeout=2.0)
        with contextlib.suppress(OSError):
            found = read(self._fs, self._folder)
            if found is not None and found.owner == self._holder.owner:
                self._fs.unlink(lease_path(self._folder))


def _take_over(fs: Fs, folder: Path, stale: bytes, me: LeaseHolder) -> bool:
    """Replace a dead lease by ours, unless another process is at it or was first.

    Our lease under a second name, made of the dead one's contents, is the claim; one of several racers gets it. It
    replaces the lease by rename, if that is still the dead one, so that the folder is never without a lease.
    """
    claim = lease_path(folder).with_name(f"stale-{hashlib.sha256(stale).hexdigest()[:32]}")
    tmp = _write_tmp(fs, folder, me)
    if not _claim(fs, tmp, claim, me):
        files.remove(fs, tmp)
        return False
    try:
        with contextlib.suppress(FileNotFoundError):  # a racer holds the lease, and swept our file away
            if _read_lease_bytes(fs, folder) == stale:
                fs.rename(tmp, lease_path(folder))
                return True
        return False
    finally:
        files.remove(fs, claim)
        files.remove(fs, tmp)


def _claim(fs: Fs, tmp: Path, claim: Path, me: LeaseHolder) -> bool:
    """Claim a dead lease; the claim of a racer that was killed with it does not stand in the way."""
    for _ in range(2):
        try:
            fs.link(tmp, claim)
            return True
        except OSError as error:
            if error.errno in files.LINK_UNSUPPORTED_ERRNOS:
                return True
        other = parse_holder(_read_bytes(fs, claim) or b"")
        if other is None or is_alive(other, me) is not False:
            return other is not None and other.owner == me.owner  # reported as failed, but it happened
        files.remove(fs, claim)
    return False


def _remove_claims(fs: Fs, folder: Path) -> None:
    home = lease_path(folder).parent
    for name in files.list_names(fs, home):
        if name.startswith("stale-"):
            files.remove(fs, home / name)


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
    me = me or current_process()
    seen: bytes | None = None
    since, waiting = clock(), False
    while True:
        raw = _read_lease_bytes(fs, folder)
        if raw is None:
            tmp = _write_tmp(fs, folder, me)
            with contextlib.suppress(FileNotFoundError):  # a racer holds the lease, and swept our file away
                if files.publish(fs, tmp, lease_path(folder)):
                    files.remove(fs, tmp)
                    fs.fsync_dir(lease_path(folder).parent)
                    return Lease(fs, folder, me, ttl_s, beat_s)
            files.remove(fs, tmp)
            continue
        found = parse_holder(raw)
        living = is_alive(found, me) if found else None
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
                if found:
                    log.warning("lease taken_over_from_pid=%d host=%s", found.pid, found.host)
                else:
                    log.warning("lease taken over: it could not be read, and nobody renewed it")
                return Lease(fs, folder, successor, ttl_s, beat_s)
            if clock() - since >= 2 * ttl_s:  # a racer was killed with its claim on the lease
                _remove_claims(fs, folder)
        if not waiting:
            if found:
                log.warning("lease held_by_pid=%d host=%s watching_for_s=%.0f", found.pid, found.host, ttl_s)
            else:
                log.warning(
                    "%s cannot be read, so that nothing tells whether its holder lives: watching it for %.0f s. If no "
                    "other run works here, stop this one, remove the file and run again",
                    lease_path(folder),
                    ttl_s,
                )
            waiting = True
        sleep(min(max(beat_s / 2, 0.05), ttl_s))
