"""Capture what libraries write directly to descriptor 2, bypassing sys.stderr, and keep it in the job's log file.

CUDA, OpenMP, NCCL and Rust write there at any time, also in the middle of a progress bar. During a run, descriptor 2 of
this process and of every worker is a pipe, which a thread reads. sys.stderr, and so all output of Python itself, goes
to the original target of descriptor 2. Lines that arrive before the log file exists are held; if no log file is ever
opened, they are printed to stderr at the end. Independent of jobs.
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
"""The logger name of captured lines in the log file."""

MAX_LINES = 10_000  # per run; a library that warns about every row must not fill the disk
MAX_CHARS = 1000  # per line
PIPE_BYTES = 1 << 20  # libraries can write this much before they wait for the reading thread
LOG_FILE_POLL_S = 0.5  # time between two checks whether the log file exists
_CHUNK = 1 << 16

_PANIC = re.compile(r"panicked at ")
_RUST_LOCATION = re.compile(r"[\w.@/+-]+\.rs:\d+(?::\d+)?")

_original_streams: list[TextIO] = []
"""Streams to the original target of descriptor 2; never closed, because libraries may use one after a run."""

_active_capture: StderrCapture | None = None


@contextlib.contextmanager
def capture() -> Iterator[None]:
    """Capture what is written to descriptor 2 within the block.

    Does nothing inside another such block, or if the process cannot get more descriptors or threads: unfiltered lines
    are better than a failed run.
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
    """Wait until the pipe is read; call this before the process ends without unwinding, also in a signal handler.

    Args:
        timeout_s: Maximum time to wait, in seconds.
    """
    if _active_capture is not None:
        _active_capture.flush(timeout_s)


class StderrCapture:
    """Replaces descriptor 2 by a pipe, and reads the pipe in a thread."""

    def __init__(self) -> None:
        self._pending_lines: list[str] = []
        self._num_lines = 0
        self._panic_reported = False
        self._partial_line = b""
        self._read_fd = self._wake_write_fd = self._wake_read_fd = -1
        self._busy = threading.Event()
        self._restore = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)

    def __enter__(self) -> StderrCapture:
        with contextlib.ExitStack() as undo:
            num_streams, original = len(_original_streams), _original_stderr()
            if len(_original_streams) > num_streams:
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
                setattr(sys, name, original)
                self._restore.callback(setattr, sys, name, stream)
        if sys.stderr is original:  # if not, a test runner has replaced sys.stderr
            enabled = faulthandler.is_enabled()
            faulthandler.enable(original.fileno())  # in a crash no thread would read the pipe
            self._restore.callback(faulthandler.enable if enabled else faulthandler.disable)
        os.dup2(write, 2)
        os.close(write)
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(_original_streams[-1].fileno(), 2)
        os.close(self._wake_write_fd)  # this wakes the thread; unlike a write, it cannot fail
        self._thread.join(timeout=5.0)
        self._restore.close()
        if not self._thread.is_alive():
            for descriptor in (self._read_fd, self._wake_read_fd):
                os.close(descriptor)
        for line in self._pending_lines:  # no log file was opened
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(f"hymt-batch: stderr: {line}", file=sys.stderr, flush=True)

    def flush(self, timeout_s: float) -> None:
        """Wait until the pipe is read; see the module's `flush`."""
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        while (poll.poll(0) or self._busy.is_set()) and time.monotonic() < deadline:
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
            text = f"more than {MAX_LINES:,} lines: the rest is dropped"
        if _PANIC.search(text):
            text = panic_message(text)
            if not self._panic_reported:
                self._panic_reported = True
                log.warning("%s", text)
        self._pending_lines.append(sanitize_text(text)[:MAX_CHARS])

    def _write_to_log(self) -> None:
        """Write the held lines to the log file, if it is open."""
        if self._pending_lines and (handler := _log_file()) is not None:
            lines, self._pending_lines = self._pending_lines, []
            for line in lines:
                handler.handle(
                    logging.getLogger(LOGGER_NAME).makeRecord(LOGGER_NAME, logging.INFO, "", 0, "%s", (line,), None)
                )


def panic_message(line: str) -> str:
    """Return a message for a panic of a Rust library, without the rest of its line, which may contain source text."""
    location = _RUST_LOCATION.search(line)
    library = "safetensors" if location and "safetensors" in location[0] else "tokenizers"
    return f"the {library} library failed on a text" + (f" ({location[0]})" if location else "")


def _log_file() -> logging.FileHandler | None:
    handlers = logging.getLogger("hymt_batch").handlers
    return next((handler for handler in handlers if isinstance(handler, logging.FileHandler)), None)


def _fileno(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _can_capture() -> bool:
    """Return whether descriptor 2 can be replaced: not if it was closed and another file got its number."""
    try:
        os.fstat(2)
    except OSError:
        return True
    return sys.__stderr__ is not None


def _original_stderr() -> TextIO:
    """Return a stream to the target of descriptor 2; a new one if the target has changed since the last call."""
    try:
        os.fstat(2)
    except OSError:  # closed: reserve its number, so that no other file gets it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        if null > 2:
            os.close(null)
    if (
        not _original_streams
        or _original_streams[-1].closed
        or not os.path.sameopenfile(_original_streams[-1].fileno(), 2)
    ):
        stderr = sys.__stderr__
        encoding, errors = (stderr.encoding, stderr.errors) if stderr is not None else ("utf-8", "backslashreplace")
        _original_streams.append(open(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors))  # noqa: SIM115  kept
    return _original_streams[-1]
