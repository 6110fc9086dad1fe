"""What libraries write to descriptor 2, past Python: read from a pipe and kept in the job's log file.

CUDA, OpenMP, NCCL and Rust write there whenever they like, in the middle of a bar or between two of our lines. While a
run lasts, descriptor 2 is a pipe, of this process and of every worker; a thread reads it. sys.stderr, and so all that
Python itself says, goes where descriptor 2 went before. Lines from before there is a log file are held; where none
comes, they are told on stderr at the end. Knows no job.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from hymt_batch.sanitize import sanitize_text

log = logging.getLogger(__name__)

LOGGER_NAME = "stderr"
"""The name under which foreign lines stand in the log file."""

MAX_LINES = 10_000  # of one run; a library that complains of every row must not fill the store
MAX_CHARS = 1000  # of one line
PIPE_BYTES = 1 << 20  # what a library may write while this process runs no Python
LOG_FILE_POLL_S = 0.5  # between two looks whether there is a log file by now
_CHUNK = 1 << 16

_PANIC = re.compile(r"panicked at ")
_RUST_LOCATION = re.compile(r"[\w.@/+-]+\.rs:\d+(?::\d+)?")

_original_streams: list[TextIO] = []
"""The stream of the descriptor that 2 was; libraries may hold it longer than a run, so it is never closed."""

_active_capture: StderrCapture | None = None


@contextlib.contextmanager
def capture() -> Iterator[None]:
    """Read what is written to descriptor 2 within the block.

    Inside of another such block this does nothing, nor where the process may have no more descriptors or threads:
    raw lines are better than no run.
    """
    global _active_capture
    if _active_capture is not None or not _can_capture():
        yield
        return
    with contextlib.ExitStack() as block:
        with contextlib.suppress(OSError, RuntimeError):
            _active_capture = block.enter_context(StderrCapture())
        try:
            yield
        finally:
            block.close()
            _active_capture = None


def flush(timeout_s: float = 0.2) -> None:
    """Wait until what was written is read: call it before a process ends without unwinding, in a handler too."""
    if _active_capture is not None:
        _active_capture.flush(timeout_s)


class StderrCapture:
    """Descriptor 2 as a pipe, and the thread that reads it."""

    def __init__(self) -> None:
        self._pending_lines: list[str] = []
        self._num_lines = 0
        self._panic_reported = False  # that a library failed
        self._partial_line = b""
        self._read_fd = self._wake_write_fd = self._wake_read_fd = -1
        self._busy = threading.Event()
        self._restore = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)

    def __enter__(self) -> StderrCapture:
        with contextlib.ExitStack() as undo:
            num_kept, real = len(_original_streams), _original_stderr()
            if len(_original_streams) > num_kept:
                undo.callback(lambda: _original_streams.pop().close())
            self._read_fd, write = os.pipe()
            undo.callback(os.close, self._read_fd)
            undo.callback(os.close, write)
            self._wake_read_fd, self._wake_write_fd = os.pipe()
            undo.callback(os.close, self._wake_read_fd)
            undo.callback(os.close, self._wake_write_fd)
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Linux
                fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            os.set_blocking(self._read_fd, False)
            self._thread.start()
            undo.pop_all()
        for name in ("stderr", "__stderr__"):
            stream = getattr(sys, name)
            if stream is not None and _fileno(stream) == 2:
                with contextlib.suppress(OSError):
                    stream.flush()
                setattr(sys, name, real)
                self._restore.callback(setattr, sys, name, stream)
        if sys.stderr is real:  # else somebody else has taken care of it: a test runner
            enabled = faulthandler.is_enabled()
            faulthandler.enable(real.fileno())  # a crash ends the thread that would read what it says
            self._restore.callback(faulthandler.enable if enabled else faulthandler.disable)
        os.dup2(write, 2)
        os.close(write)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(_original_streams[-1].fileno(), 2)
        os.close(self._wake_write_fd)  # its other end becomes ready; a write could fail
        self._thread.join(timeout=5.0)
        self._restore.close()
        if not self._thread.is_alive():
            for descriptor in (self._read_fd, self._wake_read_fd):
                os.close(descriptor)
        for line in self._pending_lines:  # no log file came
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(f"hymt-batch: stderr: {line}", file=sys.stderr, flush=True)

    def flush(self, timeout_s: float) -> None:
        """See the function of this name."""
        until = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        while (poll.poll(0) or self._busy.is_set()) and time.monotonic() < until:
            time.sleep(0.002)
        if self._pending_lines and _log_file() is None:
            for line in list(self._pending_lines):
                with contextlib.suppress(OSError):
                    os.write(_original_streams[-1].fileno(), f"hymt-batch: stderr: {line}\n".encode(errors="replace"))

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.register(self._wake_read_fd, select.POLLIN)
        ending = False
        while not ending:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * LOG_FILE_POLL_S if self._pending_lines else None)}
            ending = self._wake_read_fd in ready
            self._busy.set()
            while data := self._read_chunk():
                self._split_lines(data)
            if ending and self._partial_line:
                self._add_line(self._partial_line)
            self._write_to_log()
            self._busy.clear()

    def _read_chunk(self) -> bytes:
        try:
            return os.read(self._read_fd, _CHUNK)
        except BlockingIOError:
            return b""

    def _split_lines(self, data: bytes) -> None:
        *lines, self._partial_line = re.split(rb"[\r\n]+", self._partial_line + data)
        for line in lines:
            self._add_line(line)
        if len(self._partial_line) > 4 * MAX_CHARS:
            self._add_line(self._partial_line)
            self._partial_line = b""
        self._write_to_log()

    def _add_line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if not text or self._num_lines > MAX_LINES:
            return
        self._num_lines += 1
        if self._num_lines > MAX_LINES:
            text = f"more than {MAX_LINES:,} lines: no more are kept"
        if _PANIC.search(text):
            text = panic_message(text)
            if not self._panic_reported:
                self._panic_reported = True
                log.warning("%s", text)
        self._pending_lines.append(sanitize_text(text)[:MAX_CHARS])

    def _write_to_log(self) -> None:
        """Give what is held to the log file, where there is one."""
        if self._pending_lines and (file := _log_file()) is not None:
            held, self._pending_lines = self._pending_lines, []
            for line in held:
                file.handle(
                    logging.getLogger(LOGGER_NAME).makeRecord(LOGGER_NAME, logging.INFO, "", 0, "%s", (line,), None)
                )


def panic_message(line: str) -> str:
    """A failure inside of a library written in Rust, from its line: such a line may hold the text it failed on."""
    place = _RUST_LOCATION.search(line)
    library = "safetensors" if place and "safetensors" in place[0] else "tokenizers"
    return f"the {library} library failed on a text" + (f" ({place[0]})" if place else "")


def _log_file() -> logging.FileHandler | None:
    handlers = logging.getLogger("hymt_batch").handlers
    return next((handler for handler in handlers if isinstance(handler, logging.FileHandler)), None)


def _fileno(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _can_capture() -> bool:
    """Whether descriptor 2 is free to be taken: not where it was closed, and a file of this process got its number."""
    try:
        os.fstat(2)
    except OSError:
        return True
    return sys.__stderr__ is not None


def _original_stderr() -> TextIO:
    """A stream to where descriptor 2 leads; opened again where it leads elsewhere than the last time."""
    try:
        os.fstat(2)
    except OSError:  # closed: from now on its number belongs to nobody else
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        if null > 2:
            os.close(null)
    if (
        not _original_streams
        or _original_streams[-1].closed
        or not os.path.sameopenfile(_original_streams[-1].fileno(), 2)
    ):
        like = sys.__stderr__
        encoding, errors = (like.encoding, like.errors) if like is not None else ("utf-8", "backslashreplace")
        _original_streams.append(open(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors))  # noqa: SIM115  kept
    return _original_streams[-1]
