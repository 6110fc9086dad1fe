"""Checks of the file system under an output folder, and of the lease on that folder.

The checks run in a temporary folder, which is always removed. If the output folder does not exist, they run in its
nearest existing parent. Nothing else is created, changed or removed. Does not know jobs or parts.
docs/architecture.md describes the commits and the lease that need these properties.
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
from hymt_batch.fs import OS_FS, list_names, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.storage_error import cause_and_fix
from hymt_batch.write import lease as leases
from hymt_batch.write import lease_holder as holders
from hymt_batch.write.lease_holder import LeaseHolder
from hymt_batch.write.space import MIN_FREE_BYTES, MIN_FREE_INODES
from hymt_batch.write.storage import (
    NOT_EXCLUSIVE,
    NOT_REPLACING,
    TWO_DEVICES,
    StorageFeatures,
    num_devices,
    probe_features,
)

TRIAL_PREFIX = ".hymt-doctor-"
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
OTHER_STORAGE_FIX = "set output_dir= to a folder on a local disk or a POSIX network file system"
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
    """Try the operations that the output needs from its file system.

    Args:
        folder: The output folder; it may not exist.
        need_bytes: Free bytes that the job needs; None if the inputs are unknown.
        fs: The file system.
        need_inodes: Free inodes that the job needs; None to estimate them from `need_bytes`.
        excludes_others: Returns whether a lock on a file excludes other processes; None for `lock_excludes_others`.
    """
    try:
        parents = list(dict.fromkeys(_nearest_existing(fs, path) for path in (folder / ".hymt", folder / "translated")))
        blocking = next((parent for parent in parents if not _is_folder(fs, parent, folder)), None)
        if blocking is not None:
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(blocking))
    except OSError as error:
        reason, fix = cause_and_fix(folder, error)
        return [Finding("output folder", Level.FAIL, f"{error.filename or folder}: {reason}", fix, "G9")]
    findings: list[Finding] = []
    for parent in parents:
        findings += _try_folder(
            fs, parent, folder, excludes_others or lock_excludes_others, all_operations=parent == parents[0]
        )
    findings += _space_findings(fs, _nearest_existing(fs, folder), need_bytes, need_inodes)
    findings.append(_device_finding(fs, folder))
    return findings


def _nearest_existing(fs: Fs, path: Path) -> Path:
    """Return the path or its nearest existing parent, of any kind."""
    return next((candidate for candidate in (path, *path.parents) if stat_or_none(fs, candidate) is not None), path)


def _is_folder(fs: Fs, path: Path, folder: Path) -> bool:
    """Return whether `path` is a folder; a symbolic link to one counts, except below the output folder.

    Below it, a link could lead anywhere, and the job rejects it.
    """
    stats, below = stat_or_none(fs, path), folder in path.parents
    return stats is not None and (stats.kind == "dir" or (not below and path.is_dir()))


@contextlib.contextmanager
def _trial_folder(fs: Fs, path: Path) -> Iterator[Path]:
    trial = path / f"{TRIAL_PREFIX}{uuid.uuid4().hex}"
    fs.mkdir(trial, 0o700)
    try:
        yield trial
    finally:
        with contextlib.suppress(OSError):
            for name in list_names(fs, trial):
                with contextlib.suppress(OSError):
                    fs.unlink(trial / name)
            fs.rmdir(trial)


def _try_folder(
    fs: Fs, path: Path, folder: Path, excludes_others: Callable[[Path], bool | None], *, all_operations: bool
) -> Iterator[Finding]:
    """Write a file in a trial folder and, if `all_operations`, try all operations of the commit protocol."""
    trial, written = path, False
    try:
        with _trial_folder(fs, path) as trial:
            write_new(fs, trial / "file", b"hymt-batch doctor")
            written = True
            yield Finding("output folder", Level.OK, f"{path} is writable")
            if all_operations:
                yield from _operation_findings(probe_features(fs, trial))
                yield _lock_finding(excludes_others, trial / "file")
    except OSError as error:
        reason, fix = cause_and_fix(folder, error)
        if error.errno in DISK_FULL_ERRNOS:
            id = "G4" if _is_out_of_inodes(fs, path) else "G3"
            yield Finding("output folder", Level.FAIL, f"{path}: {reason}", fix, id)
        elif written or error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EIO):
            errno_name = errno.errorcode.get(error.errno or 0, "error")
            seen = f"{path} does not support a necessary operation ({errno_name}: {error.strerror})"
            yield Finding("atomic operations", Level.FAIL, seen, OTHER_STORAGE_FIX, "G5")
        else:
            yield Finding("output folder", Level.FAIL, f"{path}: {reason}", fix, "G9")
    with contextlib.suppress(OSError):
        if trial != path and stat_or_none(fs, trial) is not None:
            yield Finding("output folder", Level.WARN, f"{trial} could not be removed", f"rm -r '{trial}'", "G9")


def _is_out_of_inodes(fs: Fs, path: Path) -> bool:
    with contextlib.suppress(OSError):
        inodes = fs.statvfs(path)[1]
        return inodes is not None and inodes < MIN_FREE_INODES
    return False


def _operation_findings(features: StorageFeatures) -> Iterator[Finding]:
    problems = [
        problem
        for works, problem in ((features.exclusive_create, NOT_EXCLUSIVE), (features.rename_replaces, NOT_REPLACING))
        if not works
    ]
    for problem in problems:
        seen = f"the file system {problem}; a stopped job could not resume safely there"
        yield Finding("atomic operations", Level.FAIL, seen, OTHER_STORAGE_FIX, "G5")
    if not problems:
        yield Finding("atomic operations", Level.OK, "exclusive creation, replacing rename, reading own writes")
    if features.hard_links:
        yield Finding("hard links", Level.OK, "supported: only the first process to publish a part succeeds")
    else:
        seen = "not supported: parts are published by rename, which is correct as long as one process runs"
        yield Finding("hard links", Level.WARN, seen, OTHER_STORAGE_FIX, "G6")
    if features.dir_fsync:
        yield Finding("directory sync", Level.OK, "supported: a new file name survives a power loss")
    else:
        seen = "not supported: a power loss may cost more than one part, but cannot make the output wrong"
        yield Finding("directory sync", Level.WARN, seen, OTHER_STORAGE_FIX, "G7")


def _lock_finding(excludes_others: Callable[[Path], bool | None], file: Path) -> Finding:
    excludes = excludes_others(file)
    if excludes is None:
        return Finding("file locks", Level.SKIP, "could not be tested")
    if excludes:
        return Finding("file locks", Level.OK, "flock excludes a second process")
    seen = "flock does not exclude a second process; the output stays correct, but work may be done twice"
    return Finding("file locks", Level.WARN, seen, OTHER_STORAGE_FIX, "G8")


def lock_excludes_others(file: Path) -> bool | None:
    """Return whether another process cannot lock a file that this one has locked; None if that cannot be tested."""
    try:
        fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_locked_for_others(file)
    except OSError:
        return False  # ENOLCK, ENOSYS: the file system does not support flock
    finally:
        os.close(fd)


def is_locked_for_others(file: Path) -> bool | None:
    """Return whether another process finds the file locked; None if that process cannot be run."""
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
        free, free_inodes = fs.statvfs(path)
    except OSError as error:
        yield Finding("free space", Level.SKIP, f"cannot be read ({error.strerror})")
        return
    need = MIN_FREE_BYTES if need_bytes is None else need_bytes
    seen = f"{gib(free)} free (quotas not counted), the job needs about {gib(need)}"
    if need_bytes is None:
        seen = f"{gib(free)} free (quotas not counted); the inputs are unknown"
    fix = "free some space, or set output_dir= to another file system, or write.min_free=0 to start anyway"
    if free < need:
        yield Finding("free space", Level.FAIL, seen, fix, "G3")
    else:
        yield Finding("free space", Level.OK, seen)
    if free_inodes is None:
        yield Finding("free inodes", Level.OK, "this file system does not count inodes")
        return
    need = (need_bytes or 0) // (64 << 10) + MIN_FREE_INODES if need_inodes is None else need_inodes
    seen = f"{free_inodes} free, the job needs about {need}"
    if free_inodes < need:
        fix = "remove some files, or set output_dir= to another file system, or write.min_free=0 to start anyway"
        yield Finding("free inodes", Level.FAIL, seen, fix, "G4")
    else:
        yield Finding("free inodes", Level.OK, seen)


def _device_finding(fs: Fs, folder: Path) -> Finding:
    try:
        num = num_devices(fs, folder)
    except OSError as error:
        return Finding("one device", Level.SKIP, f"cannot be read ({error.strerror})")
    if num > 1:
        seen = f"the storage under {folder} {TWO_DEVICES}; files cannot be renamed from one to the other"
        return Finding("one device", Level.FAIL, seen, "move both to one device, or set name=ANOTHER", "G10")
    return Finding(
        "one device",
        Level.OK,
        ".hymt and translated are on the same device" if num else ".hymt and translated do not exist yet",
    )


def check_lease(folder: Path, fs: Fs = OS_FS, this_process: LeaseHolder | None = None) -> list[Finding]:
    """Check whether another process is working in the folder; changes nothing.

    Args:
        folder: The output folder; it may not exist.
        fs: The file system.
        this_process: For tests: the process to compare the holder with; None for the current one.
    """
    path, holder = leases.lease_path(folder), leases.read(fs, folder)
    if holder is None:
        with contextlib.suppress(OSError):
            if stat_or_none(fs, path) is not None:
                seen = "the lease cannot be read: the job waits launch.lease_ttl_s before it takes the lease over"
                return [Finding("lease", Level.WARN, seen, f"rm '{path}', if no other process works there", "G12")]
        return [Finding("lease", Level.OK, "no process holds it")]
    holder_text = f"process {holder.pid} on {holder.host}, since {holder.since}"
    alive = holders.is_alive(holder, this_process or holders.current_process())
    if alive is False:
        return [Finding("lease", Level.OK, f"left by {holder_text}, which has ended; the job takes it over")]
    fix = f"wait for it, or kill {holder.pid} on {holder.host}, or set name=ANOTHER"
    if alive:
        return [Finding("lease", Level.FAIL, f"held by {holder_text}", fix, "G12")]
    seen = f"held by {holder_text}, which may have ended: the job watches the lease for up to launch.lease_ttl_s"
    return [Finding("lease", Level.WARN, seen, fix, "G12")]
