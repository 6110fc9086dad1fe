"""The store under an output folder, tried in a folder of our own that is always removed; and who works there.

The folder need not exist yet: what is tried is the nearest one that does. Nothing else is made, changed or removed.
Does not know jobs or parts. Source: reference/reliability.md 2.5, 2.7 and 2.8.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from hymt_batch.device_map.settings import gib
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.fs import OS_FS, Fs, list_names, stat_or_none, write_new
from hymt_batch.storage_error import cause_and_fix
from hymt_batch.write import lease as leases
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.storage import (
    MIN_FREE_BYTES,
    MIN_FREE_INODES,
    NOT_EXCLUSIVE,
    NOT_REPLACING,
    TWO_DEVICES,
    StorageFeatures,
    num_devices,
    probe_features,
)

TRIAL_PREFIX = ".hymt-doctor-"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
OTHER_STORAGE_FIX = "output_dir=FOLDER on a local or a POSIX network file system"
LOCK_ACQUIRED, LOCK_DENIED = 10, 11
LOCK_PROGRAM = f"""
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit({LOCK_DENIED})
sys.exit({LOCK_ACQUIRED})
"""


def check(
    folder: Path,
    need_bytes: int | None,
    fs: Fs = OS_FS,
    need_inodes: int | None = None,
    excludes_others: Callable[[Path], bool | None] | None = None,
) -> list[Finding]:
    """Try what the output will need of its store.

    Args:
        folder: The output folder; it may not exist.
        need_bytes: Free bytes the job needs; None where the inputs are not known.
        fs: The store.
        need_inodes: Free inodes the job needs; None for a guess from `need_bytes`.
        locked: Whether a file that is locked here is locked for another process; `kept_out` unless a test has its own.
    """
    try:
        places = list(dict.fromkeys(_nearest_existing(fs, path) for path in (folder / ".hymt", folder / "translated")))
        blocking = next((place for place in places if not _is_folder(fs, place, folder)), None)
        if blocking is not None:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(blocking))
    except OSError as error:
        why, fix = cause_and_fix(folder, error)
        return [Finding("output folder", Level.FAIL, f"{error.filename or folder}: {why}", fix, "G9")]
    found: list[Finding] = []
    for place in places:
        found += _try_folder(
            fs, place, folder, excludes_others or lock_excludes_others, all_operations=place == places[0]
        )
    found += _space_findings(fs, _nearest_existing(fs, folder), need_bytes, need_inodes)
    found.append(_device_finding(fs, folder))
    return found


def _nearest_existing(fs: Fs, path: Path) -> Path:
    """The path, or the nearest above it that is there, whatever it is."""
    return next((one for one in (path, *path.parents) if stat_or_none(fs, one) is not None), path)


def _is_folder(fs: Fs, path: Path, folder: Path) -> bool:
    """Links count for the output folder and above it; below, they could lead anywhere, and the job refuses them."""
    found, below = stat_or_none(fs, path), folder in path.parents
    return found is not None and (found.kind == "dir" or (not below and path.is_dir()))


@contextlib.contextmanager
def _trial_folder(fs: Fs, path: Path) -> Iterator[Path]:
    here = path / f"{TRIAL_PREFIX}{uuid.uuid4().hex}"
    fs.mkdir(here, 0o700)
    try:
        yield here
    finally:
        with contextlib.suppress(OSError):
            for name in list_names(fs, here):
                with contextlib.suppress(OSError):
                    fs.unlink(here / name)
            fs.rmdir(here)


def _try_folder(
    fs: Fs, path: Path, folder: Path, excludes_others: Callable[[Path], bool | None], *, all_operations: bool
) -> Iterator[Finding]:
    """What a store says to a file of ours and, as a whole, to all operations of the protocol."""
    here, written = path, False
    try:
        with _trial_folder(fs, path) as here:
            write_new(fs, here / "file", b"hymt-batch doctor")
            written = True
            yield Finding("output folder", Level.OK, f"{path} can be written to")
            if all_operations:
                yield from _operation_findings(probe_features(fs, here))
                yield _lock_finding(excludes_others, here / "file")
    except OSError as error:
        why, fix = cause_and_fix(folder, error)
        if error.errno in DISK_FULL_ERRNOS:
            id = "G4" if _is_out_of_inodes(fs, path) else "G3"
            yield Finding("output folder", Level.FAIL, f"{path}: {why}", fix, id)
        elif written or error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EIO):
            number = errno.errorcode.get(error.errno or 0, "error")
            seen = f"{path} does not do what a file store must ({number}: {error.strerror})"
            yield Finding("atomic operations", Level.FAIL, seen, OTHER_STORAGE_FIX, "G5")
        else:
            yield Finding("output folder", Level.FAIL, f"{path}: {why}", fix, "G9")
    with contextlib.suppress(OSError):
        if here != path and stat_or_none(fs, here) is not None:
            yield Finding("output folder", Level.WARN, f"{here} could not be removed", f"rm -r '{here}'", "G9")


def _is_out_of_inodes(fs: Fs, path: Path) -> bool:
    with contextlib.suppress(OSError):
        inodes = fs.statvfs(path)[1]
        return inodes is not None and inodes < MIN_FREE_INODES
    return False


def _operation_findings(store: StorageFeatures) -> Iterator[Finding]:
    wrong = [
        why
        for fine, why in ((store.exclusive_create, NOT_EXCLUSIVE), (store.rename_replaces, NOT_REPLACING))
        if not fine
    ]
    for why in wrong:
        seen = f"the store {why}; a stopped job could not be continued safely there"
        yield Finding("atomic operations", Level.FAIL, seen, OTHER_STORAGE_FIX, "G5")
    if not wrong:
        yield Finding("atomic operations", Level.OK, "exclusive creation, rename over a file, read at once")
    if store.hard_links:
        yield Finding("hard links", Level.OK, "the first to publish a part wins")
    else:
        seen = "none: a part is published by rename; right all the same, while one process works there"
        yield Finding("hard links", Level.WARN, seen, OTHER_STORAGE_FIX, "G6")
    if store.dir_fsync:
        yield Finding("sync of folders", Level.OK, "a new name outlives a power loss")
    else:
        seen = "not possible: a power loss may cost more than one part; nothing wrong can come of it"
        yield Finding("sync of folders", Level.WARN, seen, OTHER_STORAGE_FIX, "G7")


def _lock_finding(excludes_others: Callable[[Path], bool | None], file: Path) -> Finding:
    keeps = excludes_others(file)
    if keeps is None:
        return Finding("file locks", Level.SKIP, "could not be tried")
    if keeps:
        return Finding("file locks", Level.OK, "flock keeps a second process out")
    seen = "flock keeps no second process out; no part depends on it, the lease only saves double work"
    return Finding("file locks", Level.WARN, seen, OTHER_STORAGE_FIX, "G8")


def lock_excludes_others(file: Path) -> bool | None:
    """Whether another process fails to lock a file that we hold locked; None where that could not be tried."""
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_locked_for_others(file)
    except OSError:
        return False  # ENOLCK, ENOSYS: the store has no such lock
    finally:
        os.close(fd)


def is_locked_for_others(file: Path) -> bool | None:
    """Whether another process finds a file locked."""
    try:
        code = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LOCK_PROGRAM, os.fspath(file)],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
        ).returncode  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return {LOCK_DENIED: True, LOCK_ACQUIRED: False}.get(code)


def _space_findings(fs: Fs, path: Path, need_bytes: int | None, need_inodes: int | None) -> Iterator[Finding]:
    try:
        free, inodes = fs.statvfs(path)
    except OSError as error:
        yield Finding("free space", Level.SKIP, f"the store does not tell ({error.strerror})")
        return
    need = MIN_FREE_BYTES if need_bytes is None else need_bytes
    seen = f"{gib(free)} free (quotas not counted), the job needs about {gib(need)}"
    if need_bytes is None:
        seen = f"{gib(free)} free (quotas not counted); the inputs are not known"
    fix = "free some, or set output_dir= to another store, or write.min_free=0 to start all the same"
    if free < need:
        yield Finding("free space", Level.FAIL, seen, fix, "G3")
    else:
        yield Finding("free space", Level.OK, seen)
    if inodes is None:
        yield Finding("free inodes", Level.OK, "the store counts none")
        return
    need = (need_bytes or 0) // (64 << 10) + MIN_FREE_INODES if need_inodes is None else need_inodes
    seen = f"{inodes} free, the job needs about {need}"
    if inodes < need:
        fix = "remove some files, or set output_dir= to another store, or write.min_free=0 to start all the same"
        yield Finding("free inodes", Level.FAIL, seen, fix, "G4")
    else:
        yield Finding("free inodes", Level.OK, seen)


def _device_finding(fs: Fs, folder: Path) -> Finding:
    try:
        num = num_devices(fs, folder)
    except OSError as error:
        return Finding("one device", Level.SKIP, f"cannot be asked ({error.strerror})")
    if num > 1:
        seen = f"the store under {folder} {TWO_DEVICES}; no rename crosses them"
        return Finding("one device", Level.FAIL, seen, "put both on one device, or set name=ANOTHER", "G10")
    return Finding("one device", Level.OK, ".hymt and translated" if num else ".hymt and translated do not exist yet")


def check_lease(folder: Path, fs: Fs = OS_FS, this_process: LeaseHolder | None = None) -> list[Finding]:
    """Whether another process works in the folder; reads only.

    Args:
        folder: The output folder; it may not exist.
        fs: The store.
        me: For tests: another process than this one.
    """
    path, holder = leases.lease_path(folder), leases.read(fs, folder)
    if holder is None:
        with contextlib.suppress(OSError):
            if stat_or_none(fs, path) is not None:
                seen = "a lease that cannot be read: the job waits launch.lease_ttl_s before it takes it over"
                return [Finding("lease", Level.WARN, seen, f"rm '{path}', if no other process works there", "G12")]
        return [Finding("lease", Level.OK, "nobody holds it")]
    who = f"process {holder.pid} on {holder.host}, since {holder.since}"
    living = holders.is_alive(holder, this_process or holders.current_process())
    if living is False:
        return [Finding("lease", Level.OK, f"left by {who}, which is gone; it is taken over")]
    fix = f"wait for it, or kill {holder.pid} on {holder.host}, or set name=ANOTHER"
    if living:
        return [Finding("lease", Level.FAIL, f"held by {who}", fix, "G12")]
    seen = f"held by {who}, if that still runs: the job watches it for up to launch.lease_ttl_s"
    return [Finding("lease", Level.WARN, seen, fix, "G12")]
