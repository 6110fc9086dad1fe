"""Every error a user can meet, and the exit code of each.

    HymtError (70)
    ├── UsageError (2)            wrong command line, key or value
    │   └── ConfigError (2)       settings that cannot work together, or with the input
    ├── IdentityError (3)         the folder belongs to a job with other settings
    ├── InputChangedError (4)     rows that were already translated have changed
    ├── LeaseError (5)            another process works in the folder
    ├── PreflightError (6)        the machine, the store or the model cannot do this job
    │   └── TextError (6)         the tokenizer cannot take a text; in a job it costs the row alone
    ├── DamageError (7)           verify found damage
    ├── MissingError (8)          shards are missing
    └── StoppedError (75)         stopped on request or by the store; run again to continue
        └── DeviceError (75)      the GPU failed, or a step did not end; it may be a row's doing

A message says what is wrong with the value, why it matters if that is not plain, and the fix as the exact override.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum
from importlib.metadata import PackageNotFoundError


class ExitCode(IntEnum):
    """Exit codes of every job; the meaning of each is printed by `hymt-batch --help`."""

    COMPLETE = 0
    WARNINGS = 1
    USAGE = 2
    IDENTITY = 3
    INPUT_CHANGED = 4
    LEASE_HELD = 5
    PREFLIGHT = 6
    DAMAGE = 7
    MISSING = 8
    TOO_MANY_ERRORS = 10
    BUG = 70
    STOPPED = 75


EXIT_CODE_MEANINGS: dict[ExitCode, str] = {
    ExitCode.COMPLETE: "complete",
    ExitCode.WARNINGS: "complete, with warnings, under strict=true",
    ExitCode.USAGE: "usage or configuration",
    ExitCode.IDENTITY: "the folder holds a job with other settings (identity differs)",
    ExitCode.INPUT_CHANGED: "the input changed since the job began",
    ExitCode.LEASE_HELD: "another process holds the folder's lease",
    ExitCode.PREFLIGHT: "preflight failed or the model was refused",
    ExitCode.DAMAGE: "verify found damage",
    ExitCode.MISSING: "shards are missing",
    ExitCode.TOO_MANY_ERRORS: "complete, but more error rows than check.max_error_rate",
    ExitCode.BUG: "a bug of hymt-batch",
    ExitCode.STOPPED: "stopped; run the same command again to continue",
}


def with_explain_hint(message: str, id: str) -> str:
    """A message with the pointer to its failure mode."""
    return f"{message} [{id}: hymt-batch doctor explain={id}]" if id else message


class HymtError(Exception):
    """Root of the tree; raised itself only for our own mistakes.

    `id` names the failure mode, where doctor/catalogue.toml has one: `hymt-batch doctor explain=B1` explains it.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, id: str = "") -> None:
        super().__init__(with_explain_hint(message, id))
        self.message, self.id = message, id


class UsageError(HymtError):
    """The command line is wrong: job, key or value."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """Settings that cannot work together, or not with this input."""


class IdentityError(HymtError):
    """The output folder belongs to a job whose settings differ."""

    exit_code = ExitCode.IDENTITY


class InputChangedError(HymtError):
    """Rows that were already translated are no longer what they were."""

    exit_code = ExitCode.INPUT_CHANGED


class LeaseError(HymtError):
    """Another process works in the output folder."""

    exit_code = ExitCode.LEASE_HELD


class PreflightError(HymtError):
    """The machine, the store or the model cannot do this job."""

    exit_code = ExitCode.PREFLIGHT


class TextError(PreflightError):
    """The tokenizer cannot take a text. In a job it costs the row alone."""


class DamageError(HymtError):
    """A finished output is not what its manifest says."""

    exit_code = ExitCode.DAMAGE


class MissingError(HymtError):
    """Shards that should be there are not."""

    exit_code = ExitCode.MISSING


class StoppedError(HymtError):
    """Stopped on request, or by the store; everything committed is kept."""

    exit_code = ExitCode.STOPPED


class DeviceError(StoppedError):
    """The GPU's context is unusable, or a step did not end. A row that does this again and again is found out."""


PERMANENT_ERRNOS = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENXIO,
    errno.ENOTSUP,
    errno.EOVERFLOW,
    errno.EROFS,
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.EMFILE,
    errno.EFBIG,
    errno.EBADF,
    errno.ENOSYS,
    errno.EXDEV,
    errno.EMLINK,
    None,  # what a decompressor or a parser says of the data
)
"""Errors of a call that stay until somebody acts. All others are the disk's or the network's, and may pass."""


def is_transient(error: BaseException) -> bool:
    """Whether a call that failed may succeed when the same command runs again."""
    return isinstance(error, OSError) and error.errno not in PERMANENT_ERRNOS


def disk_read_error(name: str, error: OSError) -> StoppedError:
    """The error of an input whose disk fails."""
    return StoppedError(
        f"{name} could not be read ({error.strerror or error}); check the disk that it lies on. Everything committed "
        "is kept; run the same command again to continue."
    )


OUT_OF_MEMORY_MESSAGES = (
    "failed to map segment from shared object",
    "Cannot allocate memory",
    "can't start new thread",
)
REMEDIES = {
    errno.ENOSPC: "Free some space (bytes or inodes).",
    errno.EDQUOT: "Free some of the disk quota.",
    errno.EFBIG: "Raise the limit for the size of a file (ulimit -f).",
    errno.EMFILE: "This process may open too few files at once: raise the limit (ulimit -n 1024).",
    errno.EACCES: "Give this user access to it, or choose another place.",
    errno.EPERM: "Give this user access to it, or choose another place.",
    errno.EROFS: "Its file system can only be read: choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name or path.",
    errno.ELOOP: "Remove the link that leads to itself.",
    errno.ENOTDIR: "A file stands where a folder must be: move it, or choose another place.",
    errno.EISDIR: "A folder stands where a file must be: move it, or choose another place.",
    errno.ENOENT: "It was removed, or never was there: check the path.",
    errno.EEXIST: "Something else has this name: move it, or choose another place.",
}

RESOURCE_LIMIT_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE}
)  # whose remedy needs no name of a file


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def wrap_exception(error: BaseException) -> HymtError | None:
    """An error of the machine, which no stage could tell better, in our words; None for a bug of ours."""
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if full or isinstance(error, MemoryError) or any(what in str(error) for what in OUT_OF_MEMORY_MESSAGES):
        return StoppedError(
            f"this process may have no more memory ({first_line(error)}). Give the job more (ulimit -v, the "
            "container's or the scheduler's limit; hymt-batch plan says how much), and run the same command again"
        )
    if isinstance(error, PackageNotFoundError):
        return PreflightError(
            f"the installation is damaged: of {error.name} the version cannot be read. Install hymt-batch again in an "
            "empty environment."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return wrap_os_error(error)
    if os.strerror(errno.EMFILE) in str(error):  # as the import of a library tells it
        return PreflightError(f"{first_line(error)}. {REMEDIES[errno.EMFILE]}")
    return None


def wrap_os_error(error: OSError) -> HymtError:
    """An error of a call of the system: what was called for, why it failed, and what helps.

    Returns:
        StoppedError for what may pass by itself, PreflightError for what never does.
    """
    why = error.strerror or first_line(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    what = f"{' and '.join(names)}: {why}." if names else f"the system refuses: {why}."
    remedy = REMEDIES.get(error.errno or 0, "") if names or error.errno in RESOURCE_LIMIT_ERRNOS else ""
    if is_transient(error):
        return StoppedError(" ".join(filter(None, [what, remedy, "Run the same command again to continue."])))
    return PreflightError(" ".join(filter(None, [what, remedy])))
