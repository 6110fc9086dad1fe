"""Turn an error of the file system into an error for the user: the cause, the fix, and whether a retry may help.

A failure that may be temporary (a full or failing disk) stops a job with exit code 75. A permanent one (a link where a
folder should be, a missing permission) gives exit code 6; the message names the file and the fix. Independent of what
was being stored.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hymt_batch.errors import HymtError, PreflightError, StoppedError, is_transient

CAUSES = {
    errno.ENOSPC: ("the file system is full (bytes or inodes)", "Free some space."),
    errno.EDQUOT: ("the disk quota is used up", "Free some of it."),
    errno.EIO: ("the disk reports an input/output error", "Check it."),
    errno.EROFS: ("the file system became read-only", "Check it."),
    errno.ESTALE: ("the network file system lost the folder", "Mount it again."),
    errno.ENOENT: ("a file or folder of the job's state was removed meanwhile", ""),
}
"""Cause and fix of failures that may be temporary."""

WRONG_TYPE_ERRNOS = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.EINVAL, errno.ENOTEMPTY)
"""Errors that can mean that a path exists but has the wrong type, such as a file in place of a folder."""

PROCESS_LIMITS = {
    errno.EFBIG: ("a file grew beyond the limit for files", "Raise the limit (ulimit -f)"),
    errno.EMFILE: ("this process has too many open files for its limit", "Raise the limit (ulimit -n 1024)"),
}
"""Limits of this process."""

FILE_TYPES = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISREG, "a file"),
)


def describe_type(path: str | Path) -> str:
    """Return what is at a path, for example "a link"; "" if there is nothing, or it cannot be determined."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return ""
    return next((name for fits, name in FILE_TYPES if fits(mode)), "a device")


def _error_path(error: OSError) -> str:
    """Return the path that an error is about (of two, the target); "" if it has none, or only a file descriptor."""
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""


def describe_obstacle(error: OSError) -> str:
    """Return "PATH is a link, but a folder should be there" if such an obstacle caused the error; else ""."""
    if error.errno not in WRONG_TYPE_ERRNOS:
        return ""
    for path in (error.filename2, error.filename):
        if not isinstance(path, (str, bytes)) or not (actual := describe_type(os.fsdecode(path))):
            continue
        expected = "a folder" if error.errno == errno.ENOTDIR else "a file"
        if actual != expected:
            return f"{os.fsdecode(path)} is {actual}, but {expected} should be there"
    return ""


@contextmanager
def wrap_os_errors(what: str) -> Iterator[None]:
    """Turn an OSError inside the block into the error of `write_error`; `what` names the data being stored."""
    try:
        yield
    except OSError as error:
        raise write_error(what, error) from error


@contextmanager
def wrap_folder_errors(folder: Path, what: str) -> Iterator[None]:
    """Turn an OSError inside the block into the error of `output_folder_error`."""
    try:
        yield
    except OSError as error:
        raise output_folder_error(folder, error, what) from error


def write_error(what: str, error: OSError) -> HymtError:
    """Return the error for a write that failed while a job ran: StoppedError, or PreflightError if it is permanent."""
    name = errno.errorcode.get(error.errno or 0, "error")
    if is_transient(error, writing=True):
        cause, remedy = CAUSES.get(error.errno or 0, (error.strerror or str(error), ""))
        return StoppedError(
            f"{what} could not be written",
            why=f"{name}, {cause}",
            fix=f"{remedy} Everything committed is kept; run the same command again to continue.".lstrip(),
        )
    path = _error_path(error) or what
    causes = {
        errno.EACCES: (
            f"you have no permission to read or write {path}",
            "Give your user permission (chmod, chown)",
        ),
        errno.EPERM: (
            f"you have no permission to read or write {path}",
            "Give your user permission (chmod, chown, chattr)",
        ),
        errno.ENAMETOOLONG: (f"the name {path} is too long for the file system", "Set output_dir= to a shorter path"),
        **PROCESS_LIMITS,
    }
    other = (f"{error.strerror or error} ({path})", "Set output_dir= to another file system")
    if error.errno in WRONG_TYPE_ERRNOS:
        other = (error.strerror or str(error), f"Move {path} away")
    reason, fix = causes.get(error.errno or 0, other)
    if error.errno in PROCESS_LIMITS:
        reason = f"{reason} ({path})"
    if obstacle := describe_obstacle(error):
        reason, fix = obstacle, "Move it away or remove it"
    return PreflightError(
        f"{what} cannot be written",
        why=f"{name}, {reason}",
        fix=f"{fix}, and run the same command again. Everything committed is kept.",
    )


def cause_and_fix(folder: Path, error: OSError) -> tuple[str, str]:
    """Return why an output folder cannot be written to, and the fix; both without a full stop."""
    other_output_dir = "set output_dir= to another file system"
    permission_fix = "Give your user permission (chmod, chown), or set output_dir= to one of your own folders"
    path = Path(_error_path(error) or folder)
    denied = "you have no permission to " + (f"read or write {path}" if folder in path.parents else "write there")
    causes = {
        errno.ENOSPC: ("the file system has no space or inodes left", f"Free some space, or {other_output_dir}"),
        errno.EDQUOT: ("the disk quota is used up", f"Free some of it, or {other_output_dir}"),
        errno.EROFS: ("the file system is read-only", "Set output_dir= to a writable folder"),
        errno.EACCES: (denied, permission_fix),
        errno.EPERM: (denied, permission_fix),
        errno.ENOTDIR: ("a file is where a folder should be", "Remove it, or set name= to another name"),
        errno.ENAMETOOLONG: ("a name is too long for the file system", "Set name= to a shorter one"),
        **PROCESS_LIMITS,
    }
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        blocking = next((p for p in (*reversed(folder.parents), folder) if os.path.lexists(p) and not p.is_dir()), None)
        if blocking is not None:
            fix = "Set name= to another name" if blocking == folder else "Set output_dir= to a folder"
            return f"{blocking} is not a folder", fix
    if obstacle := describe_obstacle(error):
        return obstacle, "Move it away or remove it, or set name= to another name"
    return causes.get(error.errno or 0, (error.strerror or str(error), "Set output_dir= to another file system"))


NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a full disk: before a job starts they are preflight errors, which report the space it needs."""


def output_folder_error(
    folder: Path, error: OSError, what: str = "the output", *, is_prepared: bool = False
) -> HymtError:
    """Return the error for a folder that cannot be opened or written to before a job starts, with the fix.

    Args:
        folder: The folder.
        error: The failure of the file system.
        what: What the folder should hold.
        is_prepared: The folder was there with its state: what is missing now was removed by another process.

    Returns:
        StoppedError for a failure that may be temporary, PreflightError for a permanent one.
    """
    removed = is_prepared and error.errno == errno.ENOENT
    if is_transient(error, writing=removed) and error.errno not in NO_SPACE_ERRNOS:
        cause, remedy = CAUSES.get(error.errno or 0, (error.strerror or str(error), "Check the file system."))
        fix = f"{remedy} Run the same command again to continue.".lstrip()
        return StoppedError(f"{folder} cannot be opened at the moment", why=cause, fix=fix)
    cause, fix = cause_and_fix(folder, error)
    return PreflightError(f"{folder} cannot hold {what}", why=cause, fix=f"{fix}.")
