"""Why a store refused an operation, and whether that may pass by itself: the one translator of its errors.

What may pass (a full disk, a failing one) stops a job with exit code 75. What never does (a link where a folder should
be, a permission) is exit code 6 and names the file and the way out. Does not know what was to be stored.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from hymt_batch.errors import HymtError, PreflightError, StoppedError, is_transient

CAUSES = {
    errno.ENOSPC: "the store is full (bytes or inodes); free some",
    errno.EDQUOT: "the disk quota is used up; free some of it",
    errno.EIO: "the store reports an input/output error; check it",
    errno.EROFS: "the store became read-only; check it",
    errno.ESTALE: "the network file system lost the folder; mount it again",
    errno.ENOENT: "the folder of the job's state was removed while the job ran",
}
WRONG_TYPE_ERRNOS = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.EINVAL, errno.ENOTEMPTY)
"""Errors that something of another kind gives, where a file or a folder should be."""

PROCESS_LIMITS = {
    errno.EFBIG: ("a file grew beyond the limit for files", "Raise the limit (ulimit -f)"),
    errno.EMFILE: ("this process has too many open files for its limit", "Raise the limit (ulimit -n 1024)"),
}
"""Limits of this process."""

PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
PERMANENT_ERRNOS = frozenset(
    {*WRONG_TYPE_ERRNOS, *PROCESS_LIMITS, *PERMISSION_ERRNOS, errno.ENAMETOOLONG, errno.EXDEV}
) - {errno.EEXIST}
"""Errors that do not pass by running again."""

FILE_TYPES = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISREG, "a file"),
)


def describe_type(path: str | Path) -> str:
    """What lies at a path, as in "a link"; "" where there is nothing, or it cannot be seen."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return ""
    return next((name for fits, name in FILE_TYPES if fits(mode)), "a device")


def _error_path(error: OSError) -> str:
    """The path that an error is about, of two the one to be made; "" where it names none, or a descriptor."""
    name = error.filename2 or error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""


def describe_obstacle(error: OSError) -> str:
    """What stands where a file or a folder should be, in words that name it; "" where that is not the cause."""
    if error.errno not in WRONG_TYPE_ERRNOS:
        return ""
    for path in (error.filename2, error.filename):
        if not isinstance(path, (str, bytes)) or not (found := describe_type(os.fsdecode(path))):
            continue
        wanted = "a folder" if error.errno == errno.ENOTDIR else "a file"
        if found != wanted:
            return f"{os.fsdecode(path)} is {found}, and {wanted} should be there"
    return ""


def write_error(what: str, error: OSError) -> HymtError:
    """The error of a store that refused while a job ran: StoppedError, or PreflightError for what never passes."""
    name = errno.errorcode.get(error.errno or 0, "error")
    if error.errno not in PERMANENT_ERRNOS:
        cause = CAUSES.get(error.errno or 0, error.strerror or str(error))
        return StoppedError(
            f"{what} could not be stored: {name}, {cause}. "
            "Everything committed is kept; run the same command again to continue."
        )
    at = _error_path(error) or what
    ways = {
        errno.EACCES: (f"this user may not read or write {at}", "Give this user the right to (chmod, chown)"),
        errno.EPERM: (f"this user may not read or write {at}", "Give this user the right to (chmod, chown, chattr)"),
        errno.ENAMETOOLONG: (f"the name {at} is too long for the store", "Set output_dir= to a shorter path"),
        **PROCESS_LIMITS,
    }
    why, fix = ways.get(error.errno or 0, (error.strerror or str(error), f"Move {at} away"))
    if error.errno in PROCESS_LIMITS:
        why = f"{why} ({at})"
    if found := describe_obstacle(error):
        why, fix = found, "Move it away or remove it"
    return PreflightError(
        f"{what} cannot be stored: {name}, {why}. {fix}, and run the same command again. Everything committed is kept."
    )


def cause_and_fix(folder: Path, error: OSError) -> tuple[str, str]:
    """Why an output folder cannot be written to, and the way out; both without a full stop."""
    elsewhere = "set output_dir= to another store"
    yours = "Give this user the right to (chmod, chown), or set output_dir= to a folder of yours"
    at = Path(_error_path(error) or folder)
    denied = "this user may not " + (f"read or write {at}" if folder in at.parents else "write there")
    ways = {
        errno.ENOSPC: ("the store has no space or inodes left", f"Free some, or {elsewhere}"),
        errno.EDQUOT: ("the disk quota is used up", f"Free some of it, or {elsewhere}"),
        errno.EROFS: ("the store is read-only", "Set output_dir= to a folder that can be written"),
        errno.EACCES: (denied, yours),
        errno.EPERM: (denied, yours),
        errno.ENOTDIR: ("a file stands where a folder should be", "Remove it, or set name= to another name"),
        errno.ENAMETOOLONG: ("a name is too long for the store", "Set name= to a shorter one"),
        **PROCESS_LIMITS,
    }
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        blocking = next((p for p in (*reversed(folder.parents), folder) if os.path.lexists(p) and not p.is_dir()), None)
        if blocking is not None:
            fix = "Set name= to another name" if blocking == folder else "Set output_dir= to a folder"
            return f"{blocking} is not a folder", fix
    if found := describe_obstacle(error):
        return found, "Move it away or remove it, or set name= to another name"
    return ways.get(error.errno or 0, (error.strerror or str(error), "Set output_dir= to another store"))


NO_SPACE_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a store without room: before a job works they are its preflight's, which says what it needs."""


def output_folder_error(folder: Path, error: OSError) -> HymtError:
    """The error of a folder that cannot be opened or written to, with the way out.

    Returns:
        StoppedError for a store that fails and may work again, PreflightError for what stays.
    """
    if is_transient(error) and error.errno not in NO_SPACE_ERRNOS:
        why = CAUSES.get(error.errno or 0) or f"{error.strerror or error}; check the store"
        return StoppedError(f"{folder} cannot be opened now: {why}. Run the same command again to continue.")
    why, fix = cause_and_fix(folder, error)
    return PreflightError(f"{folder} cannot hold the output: {why}. {fix}.")
