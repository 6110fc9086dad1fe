"""The errors that users see, with their exit codes.

    HymtError (70)
    ├── UsageError (2)            the command line has an invalid word, key or value
    │   └── ConfigError (2)       settings cannot be combined, or do not fit the input
    ├── IdentityError (3)         the folder belongs to a job with other settings
    ├── InputChangedError (4)     rows that were already translated have changed
    ├── LeaseError (5)            another process is working in the folder
    ├── PreflightError (6)        the machine, the storage or the model cannot do this job
    │   └── TextError (6)         the tokenizer failed on a text; in a job only that row is lost
    ├── MissingError (8)          shards are missing
    └── StoppedError (75)         stopped on request or by a storage error; run again to continue
        └── DeviceError (75)      the GPU failed or a decoding step hung; a row may be the cause

Each error has fields: what is wrong with the value, why it matters unless that is obvious, the exact override that
fixes it, and the id of the failure mode that explains it. Its message is composed of them in one place.
"""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from importlib.metadata import PackageNotFoundError
from typing import Any, Self


class ExitCode(IntEnum):
    """Exit codes of all jobs; `hymt-batch --help` prints their meanings."""

    COMPLETE = 0
    WARNINGS = 1
    USAGE = 2
    IDENTITY = 3
    INPUT_CHANGED = 4
    LEASE_HELD = 5
    PREFLIGHT = 6
    DAMAGE = 7
    MISSING = 8
    DIFFERENT = 9
    TOO_MANY_ERRORS = 10
    BUG = 70
    STOPPED = 75


EXIT_CODE_MEANINGS: dict[ExitCode, str] = {
    ExitCode.COMPLETE: "complete",
    ExitCode.WARNINGS: "complete, with warnings, under strict=true",
    ExitCode.USAGE: "wrong usage or configuration",
    ExitCode.IDENTITY: "the folder holds a job with other settings (its identity differs)",
    ExitCode.INPUT_CHANGED: "the input changed since the job began",
    ExitCode.LEASE_HELD: "another process works in the folder, or on a shard of this task",
    ExitCode.PREFLIGHT: "a check before the job failed, or the model was refused",
    ExitCode.DAMAGE: "verify, status or reproduce found damage",
    ExitCode.MISSING: "shards are missing, or the job is not complete",
    ExitCode.DIFFERENT: "reproduce: rows that were decoded again differ from those that are published",
    ExitCode.TOO_MANY_ERRORS: "complete, but more error rows than check.max_error_rate",
    ExitCode.BUG: "a bug in hymt-batch",
    ExitCode.STOPPED: "stopped; run the same command again to continue",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, why, and how to fix it. Errors carry one; a warning of a planning step is one.

    Code reads the fields. Only the user reads the message.
    """

    what: str  # what is wrong, with the value; without a full stop
    why: str = ""  # the reason: a clause, or a sentence with its full stop; "" if `what` says it all
    fix: str = ""  # a sentence with its full stop, or a bare override or command; "" only where nothing can be done
    id: str = ""  # the failure mode in doctor/catalogue.toml, such as "B1"; "" if there is none

    @property
    def statement(self) -> str:
        """What is wrong and why; without a full stop, unless the reason is a sentence."""
        if not self.why:
            return self.what
        if "\n" in self.what:  # several lines, such as those of a library
            return f"{self.what}\n  Cause: {self.why}"
        separator = ", " if self.why.startswith(CONJUNCTIONS) else ". " if self.why.endswith(".") else ": "
        return self.what + separator + self.why

    @property
    def message(self) -> str:
        """The fields as running text; the messages of all errors and warnings are composed here."""
        text = self.statement
        if not self.fix:
            return text if "\n" in text or text.endswith((".", "!", "?")) else f"{text}."
        if "\n" in text:
            return f"{text}\n  Fix: {self.fix}" if self.why else f"{text}\n{self.fix}"
        separator = " " if text.endswith((".", "!", "?")) else ". "
        is_bare = not self.fix.endswith(".") and ". " not in self.fix  # sentences may end with a path, to be copied
        return text + separator + (f"Fix: {self.fix}." if is_bare else self.fix)

    @property
    def text(self) -> str:
        """The message, and the command that explains the failure mode if it has an id."""
        return f"{self.message} [{self.id}: hymt-batch doctor explain={self.id}]" if self.id else self.message


CONJUNCTIONS = ("because ", "so ", "but ", "which ", "although ")
"""How a reason starts that continues the sentence after a comma; others follow a colon."""


class HymtError(Exception):
    """Base class of all errors; raised directly only for bugs in hymt-batch.

    The arguments are the fields of `Problem`. `hymt-batch doctor explain=B1` explains the failure mode with the id B1.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, what: str, *, why: str = "", fix: str = "", id: str = "") -> None:
        self.problem = Problem(what=what, why=why, fix=fix, id=id)
        self.what, self.why, self.fix, self.id, self.message = what, why, fix, id, self.problem.message
        super().__init__(self.problem.text)

    def replace(self, **fields: str) -> Self:
        """Return an error of the same class with other values for some fields."""
        return type(self)(**(asdict(self.problem) | fields))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, because Exception pickles the arguments of its own constructor: the text."""
        return partial(type(self), **asdict(self.problem)), ()


class UsageError(HymtError):
    """The command line has an invalid job, key or value."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """Settings cannot be combined, or do not fit the input."""


class IdentityError(HymtError):
    """The output folder belongs to a job with other settings."""

    exit_code = ExitCode.IDENTITY


class InputChangedError(HymtError):
    """Rows that were already translated have changed in the input."""

    exit_code = ExitCode.INPUT_CHANGED


class LeaseError(HymtError):
    """Another process is working in the output folder."""

    exit_code = ExitCode.LEASE_HELD


class PreflightError(HymtError):
    """The machine, the storage or the model cannot do this job."""

    exit_code = ExitCode.PREFLIGHT


class TextError(PreflightError):
    """The tokenizer failed on a text. In a job only that row is lost."""


class MissingError(HymtError):
    """Shards are missing."""

    exit_code = ExitCode.MISSING


class StoppedError(HymtError):
    """The job stopped on request or because of a storage error; everything committed is kept."""

    exit_code = ExitCode.STOPPED


class DeviceError(StoppedError):
    """The GPU failed or a decoding step hung. A row that causes this repeatedly is identified and quarantined."""


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
    None,  # raised by a decompressor or a parser about the data, not by the system
)
"""errno values of failures that persist until a user fixes the cause. All others come from the disk or the network and
may be temporary."""


TRANSIENT_WHILE_WRITING = (errno.ENOENT, errno.EROFS, errno.EEXIST)
"""Exceptions for a job that was able to write its folder before: the folder or its file system may come back."""


def is_transient(error: BaseException, *, writing: bool = False) -> bool:
    """Return whether a failed call may succeed if the same command runs again. No other place decides this.

    `writing` is True for the output folder of a running job.
    """
    if not isinstance(error, OSError):
        return False
    return error.errno not in PERMANENT_ERRNOS or (writing and error.errno in TRANSIENT_WHILE_WRITING)


def disk_read_error(name: str, error: OSError) -> StoppedError:
    """Return the error for an input that could not be read because of a disk failure."""
    return StoppedError(
        f"{name} could not be read ({error.strerror or error})",
        fix="Check the disk that it is on. Everything committed is kept; run the same command again to continue.",
    )


OUT_OF_MEMORY_MESSAGES = (
    "failed to map segment from shared object",
    "Cannot allocate memory",
    "can't start new thread",
)
REMEDIES = {
    errno.ENOSPC: "Free some space (bytes or inodes).",
    errno.EDQUOT: "Free some of your disk quota.",
    errno.EFBIG: "Raise the limit for the size of a file (ulimit -f).",
    errno.EMFILE: "The limit of open files is too low for this process: raise it (ulimit -n 1024).",
    errno.EACCES: "Give this user access to it, or choose another location.",
    errno.EPERM: "Give this user access to it, or choose another location.",
    errno.EROFS: "Its file system is read-only: choose another location.",
    errno.ENAMETOOLONG: "Choose a shorter name or path.",
    errno.ELOOP: "Remove the symbolic link that points to itself.",
    errno.ENOTDIR: "A file is where a folder must be: move it, or choose another location.",
    errno.EISDIR: "A folder is where a file must be: move it, or choose another location.",
    errno.ENOENT: "It was removed or never existed: check the path.",
    errno.EEXIST: "Another file or folder has this name: move it, or choose another location.",
}

RESOURCE_LIMIT_ERRNOS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE}
)  # the remedy is clear even if the error does not name a file


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def wrap_exception(error: BaseException) -> HymtError | None:
    """Convert an error of the machine that no stage handled into one for users; None if it is a bug in hymt-batch."""
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if no_memory or isinstance(error, MemoryError) or any(message in str(error) for message in OUT_OF_MEMORY_MESSAGES):
        return StoppedError(
            f"this process cannot get more memory ({first_line(error)})",
            fix="Give the job more (ulimit -v, or the limit of the container or scheduler; hymt-batch plan shows how "
            "much it needs), and run the same command again.",
        )
    if isinstance(error, PackageNotFoundError):
        return PreflightError(
            f"the installation is damaged: the version of {error.name} cannot be read",
            fix="Install hymt-batch again in a new environment.",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return wrap_os_error(error)
    if os.strerror(errno.EMFILE) in str(error):  # a library whose import fails this way sets no errno
        return PreflightError(first_line(error), fix=REMEDIES[errno.EMFILE])
    return None


def wrap_os_error(error: OSError) -> HymtError:
    """Convert a failed system call into an error that names the file, the reason and the remedy.

    Returns:
        StoppedError if the failure may be temporary, PreflightError if it is permanent.
    """
    why = error.strerror or first_line(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    failure = f"{' and '.join(names)}: {why}" if names else f"the operating system reports: {why}"
    remedy = REMEDIES.get(error.errno or 0, "") if names or error.errno in RESOURCE_LIMIT_ERRNOS else ""
    if is_transient(error):
        return StoppedError(failure, fix=f"{remedy} Run the same command again to continue.".lstrip())
    return PreflightError(failure, fix=remedy or "Remove the cause, and run the same command again.")
