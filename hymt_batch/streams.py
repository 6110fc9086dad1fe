"""Standard input, output and error of this process, and the names that it is given, whatever the environment is.

A character that a stream cannot show is escaped. Standard error that takes no more loses its lines and nothing else.
Standard output that takes no more is an error with an exit code. Knows no job; imports nothing but the standard library
and errors.py, because the front calls it before anything else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TextIO

from hymt_batch.errors import HymtError, PreflightError, StoppedError

ENCODING_OPTION = "hymt_batch_encoding"  # an option of our own (-X): how standard output was encoded before the restart

_closed_descriptors: set[int] = set()  # descriptors that this process was started without


class _BlockingFile(io.FileIO):
    """A descriptor; where it does not block, a full one is waited for."""

    def write(self, data: Any) -> int:
        while (size := super().write(data)) is None:
            select.select([], [self], [], 1.0)
        return size


class _LossyFile(_BlockingFile):
    """A descriptor that nobody may read: what it does not take is lost."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def restart_if_needed() -> None:
    """Start this program again where Python was told what no job can work with: a locale without UTF-8, no docstrings.

    Names of files are bytes to the system; Python turns them into texts by the locale. A job that is continued under
    another locale must find the same texts, and a file's name is UTF-8 in practice. Transformers reads its docstrings,
    which PYTHONOPTIMIZE=2 takes away.
    """
    started_from_a_file = sys.argv[:1] not in ([""], ["-"])
    stripped = sys.flags.optimize > 1 and os.environ.pop("PYTHONOPTIMIZE", None) is not None
    foreign = sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode
    if not started_from_a_file or not (stripped or foreign):
        return
    words = []
    if foreign:
        os.environ["PYTHONUTF8"] = "1"  # for worker processes
        words += ["-X", "utf8"]
        if sys.stdout is not None:
            words += ["-X", f"{ENCODING_OPTION}={sys.stdout.encoding}"]
    with contextlib.suppress(OSError):  # then names stay as the locale has them
        os.execv(sys.executable, [sys.executable, *words, *sys.orig_argv[1:]])


def prepare() -> None:
    """Make the standard streams safe to write to; call it before any file is opened."""
    _open_closed_descriptors()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        encoding = sys._xoptions.get(ENCODING_OPTION)
        sys.stdout = _wrap_stream(1, sys.stdout, _BlockingFile, encoding if isinstance(encoding, str) else None)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _wrap_stream(2, sys.stderr, _LossyFile, None)


def disable_warning_errors() -> None:
    """Show a warning of a library where PYTHONWARNINGS or -W would raise it: it must not end a job."""
    for index, (action, *rest) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[index] = ("default", *rest)  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _open_closed_descriptors() -> None:
    """Open what is closed of descriptors 0 to 2 on nothing, so that no file of a job gets their numbers."""
    for descriptor, stream in ((0, sys.__stdin__), (1, sys.__stdout__), (2, sys.__stderr__)):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            if stream is None:
                _closed_descriptors.add(descriptor)
            continue
        _closed_descriptors.add(descriptor)
        with contextlib.suppress(OSError):
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number, which is this one
            os.set_inheritable(opened, True)


def _wrap_stream(
    descriptor: int, stream: TextIO | None, raw_class: type[_BlockingFile], encoding: str | None
) -> TextIO:
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        target = os.open(os.devnull, os.O_WRONLY) if is_closed(descriptor) else descriptor  # its number may be taken
        writer = io.BufferedWriter(raw_class(target, "wb", closefd=False))
    except OSError:  # not even /dev/null could be opened
        return io.StringIO()
    return io.TextIOWrapper(
        writer,
        encoding=encoding or getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or getattr(stream, "line_buffering", False),
    )


def is_closed(descriptor: int) -> bool:
    """Whether this process was started without this one of its standard streams."""
    return descriptor in _closed_descriptors


def require_stdout() -> None:
    """Refuse to work for a result that cannot be printed.

    Raises:
        PreflightError: Standard output is closed, or open for reading only.
    """
    if is_closed(1):
        raise _stdout_error(OSError(errno.EBADF, "it is closed"))
    with contextlib.suppress(OSError, ValueError, ImportError):  # a stream of a test has no descriptor
        import fcntl

        if fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise _stdout_error(OSError(errno.EBADF, "it is open for reading only"))


def print_result(text: str, end: str = "\n") -> None:
    """Print a result; that its reader left is no error.

    Raises:
        StoppedError: Standard output takes no more.
        PreflightError: It is closed.
    """
    require_stdout()
    _print(text, end)


def _print(text: str, end: str) -> None:
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        discard_stdout()
    except OSError as error:
        discard_stdout()
        raise _stdout_error(error) from error


def print_names(names: Sequence[str]) -> None:
    """Print names one a line as the system has them, for a program that reads them; errors are those of `copy`."""
    require_stdout()
    _write(sys.stdout.buffer, b"".join(os.fsencode(f"{name}\n") for name in names))


def copy_to_stdout(paths: Sequence[Path]) -> None:
    """Copy files to standard output, byte for byte, whatever the locale is.

    Raises:
        StoppedError: Standard output takes no more, or its reader left.
        PreflightError: It is closed.
    """
    require_stdout()
    output: IO[bytes] = sys.stdout.buffer
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                _write(output, block)
    _write(output, b"")


def _write(output: IO[bytes], block: bytes) -> None:
    try:
        output.write(block)
        output.flush()
    except OSError as error:
        discard_stdout()
        raise _stdout_error(error) from error


def _stdout_error(error: OSError) -> HymtError:
    if error.errno == errno.EBADF:
        why = error.strerror if error.strerror != os.strerror(errno.EBADF) else "it is not open for writing"
        return PreflightError(f"standard output cannot be written: {why}. Redirect it to a file (> FILE).")
    why = "its reader left" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"the store is full ({why})"
    return StoppedError(f"standard output takes no more: {why}.")


def discard_stdout() -> None:
    """Let what is left in the buffer of standard output go to nothing, or it would fail as the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, sys.stdout.fileno())
        os.close(opened)


def flush() -> None:
    """Write out what is buffered.

    Raises:
        HymtError: See `show`.
    """
    _print("", "")
