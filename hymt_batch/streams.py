"""Make the standard streams of this process work in any environment: any locale, closed, full or broken streams.

A character that a stream cannot encode is escaped. If standard error cannot be written, its lines are lost and the job
continues. If standard output cannot be written, that is an error with an exit code. Independent of jobs. Imports only
the standard library and errors.py, because the entry point calls it before anything else.
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

ENCODING_OPTION = "hymt_batch_encoding"  # our -X option: the encoding of standard output before the restart

_closed_descriptors: set[int] = set()  # descriptors 0 to 2 that were closed when this process started
_notice_chars = 0  # length of the notice that is shown


class _BlockingFile(io.FileIO):
    """A raw file that waits for a full non-blocking descriptor."""

    def write(self, data: Any) -> int:
        while (size := super().write(data)) is None:
            select.select([], [self], [], 1.0)
        return size


class _LossyFile(_BlockingFile):
    """A raw file that drops what cannot be written."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def restart_if_needed() -> None:
    """Restart this program if Python runs in a mode that jobs cannot use: a locale without UTF-8, or no docstrings.

    File names are bytes to the operating system; Python decodes them by the locale. A job that is continued under
    another locale must decode them to the same text, and in practice file names are UTF-8. Transformers reads its own
    docstrings, which PYTHONOPTIMIZE=2 removes.
    """
    started_from_a_file = sys.argv[:1] not in ([""], ["-"])
    no_docstrings = sys.flags.optimize > 1 and os.environ.pop("PYTHONOPTIMIZE", None) is not None
    not_utf8 = sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode
    if not started_from_a_file or not (no_docstrings or not_utf8):
        return
    options = []
    if not_utf8:
        os.environ["PYTHONUTF8"] = "1"  # inherited by worker processes
        options += ["-X", "utf8"]
        if sys.stdout is not None:
            options += ["-X", f"{ENCODING_OPTION}={sys.stdout.encoding}"]
    with contextlib.suppress(OSError):  # without the restart, file names are decoded by the locale
        os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])


def prepare() -> None:
    """Make the standard streams safe to write to; call this before any file is opened."""
    _open_closed_descriptors()
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        encoding = sys._xoptions.get(ENCODING_OPTION)
        sys.stdout = _wrap_stream(1, sys.stdout, _BlockingFile, encoding if isinstance(encoding, str) else None)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _wrap_stream(2, sys.stderr, _LossyFile, None)


def disable_warning_errors() -> None:
    """Print warnings of libraries even if PYTHONWARNINGS or -W turns them into errors: they must not end a job."""
    for index, (action, *conditions) in enumerate(warnings.filters):
        if action == "error":
            warnings.filters[index] = ("default", *conditions)  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _open_closed_descriptors() -> None:
    """Open /dev/null for each closed descriptor from 0 to 2, so that no file of a job gets its number."""
    for descriptor, stream in ((0, sys.__stdin__), (1, sys.__stdout__), (2, sys.__stderr__)):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            if stream is None:
                _closed_descriptors.add(descriptor)
            continue
        _closed_descriptors.add(descriptor)
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_RDWR)  # the kernel gives the lowest free number, which is this one
            os.set_inheritable(null, True)


def _wrap_stream(
    descriptor: int, stream: TextIO | None, raw_class: type[_BlockingFile], encoding: str | None
) -> TextIO:
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    try:
        target = (
            os.open(os.devnull, os.O_WRONLY) if is_closed(descriptor) else descriptor
        )  # another file may have its number
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
    """Return whether this standard stream was closed when the process started."""
    return descriptor in _closed_descriptors


def show_notice(text: str) -> None:
    """Show on a terminal, on a line that the next message replaces, what this process does; nothing elsewhere."""
    global _notice_chars
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if sys.stderr.isatty():
            print(f"\r{text}", end="", file=sys.stderr, flush=True)
            _notice_chars = len(text)


def clear_notice() -> None:
    """Remove the notice from the terminal; call it before the first message."""
    global _notice_chars
    if _notice_chars:
        with contextlib.suppress(OSError, ValueError):
            print(f"\r{' ' * _notice_chars}\r", end="", file=sys.stderr, flush=True)
        _notice_chars = 0


def require_stdout() -> None:
    """Check that a result can be printed, before the work for it begins.

    Raises:
        PreflightError: Standard output is closed or open for reading only.
    """
    if is_closed(1):
        raise _unwritable_error("it is closed")
    with contextlib.suppress(OSError, ValueError, ImportError):  # a test's stream has no descriptor
        import fcntl

        if fcntl.fcntl(sys.stdout.fileno(), fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise _unwritable_error("it is open for reading only")


def print_result(text: str, end: str = "\n") -> None:
    """Print a result; a reader that closed the pipe is not an error.

    Raises:
        StoppedError: Standard output cannot be written any more.
        PreflightError: Standard output is closed.
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
    """Print file names, one per line, as the bytes that the operating system uses, for another program.

    Raises:
        StoppedError: Standard output cannot be written any more, or its reader closed the pipe.
        PreflightError: Standard output is closed.
    """
    require_stdout()
    _write(sys.stdout.buffer, b"".join(os.fsencode(f"{name}\n") for name in names))


def copy_to_stdout(paths: Sequence[Path]) -> None:
    """Copy files to standard output byte by byte, independent of the locale.

    Raises:
        StoppedError: Standard output cannot be written any more, or its reader closed the pipe.
        PreflightError: Standard output is closed.
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


def _unwritable_error(why: str) -> PreflightError:
    return PreflightError("standard output cannot be written", why=why, fix="Redirect it to a file (> FILE).")


def _stdout_error(error: OSError) -> HymtError:
    if error.errno == errno.EBADF:
        return _unwritable_error("it is not open for writing")
    why = "its reader closed the pipe" if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = f"the disk is full ({why})"
    return StoppedError("standard output cannot be written any more", why=why, fix="Redirect it to a file (> FILE).")


def discard_stdout() -> None:
    """Redirect standard output to /dev/null, so that flushing its buffer at exit does not fail."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def flush() -> None:
    """Write out the buffer of standard output.

    Raises:
        HymtError: See `print_result`.
    """
    _print("", "")
