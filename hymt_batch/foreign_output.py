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

from hymt_batch.shown import shown

log = logging.getLogger(__name__)

LOGGER = "stderr"
"""The name under which foreign lines stand in the log file."""

MAX_LINES = 10_000  # of one run; a library that complains of every row must not fill the store
MAX_CHARS = 1000  # of one line
PIPE_BYTES = 1 << 20  # what a library may write while this process runs no Python
HELD_S = 0.5  # between two looks whether there is a log file by now
_CHUNK = 1 << 16

_PANIC = re.compile(r"panicked at ")
_RUST_PLACE = re.compile(r"[\w.@/+-]+\.rs:\d+(?::\d+)?")

_kept: list[TextIO] = []
"""The stream of the descriptor that 2 was; libraries may hold it longer than a run, so it is never closed."""

_current: Foreign | None = None


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Read what is written to descriptor 2 within the block.

    Inside of another such block this does nothing, nor where the process may have no more descriptors or threads:
    raw lines are better than no run.
    """
    global _current
    if _current is not None or not _is_stderr():
        yield
        return
    with contextlib.ExitStack() as block:
        with contextlib.suppress(OSError, RuntimeError):
            _current = block.enter_context(Foreign())
        try:
            yield
        finally:
            block.close()
            _current = None


def settle(timeout_s: float = 0.2) -> None:
    """Wait until what was written is read: call it before a process ends without unwinding, in a handler too."""
    if _current is not None:
        _current.settle(timeout_s)


class Foreign:
    """Descriptor 2 as a pipe, and the thread that reads it."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._num = 0
        self._told = False  # that a library failed
        self._rest = b""
        self._read = self._wake = self._awake = -1
        self._busy = threading.Event()
        self._restore = contextlib.ExitStack()
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)

    def __enter__(self) -> Foreign:
        with contextlib.ExitStack() as undo:
            num_kept, real = len(_kept), _real()
            if len(_kept) > num_kept:
                undo.callback(lambda: _kept.pop().close())
            self._read, write = os.pipe()
            undo.callback(os.close, self._read)
            undo.callback(os.close, write)
            self._awake, self._wake = os.pipe()
            undo.callback(os.close, self._awake)
            undo.callback(os.close, self._wake)
            with contextlib.suppress(OSError, AttributeError):  # AttributeError: not on Linux
                fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            os.set_blocking(self._read, False)
            self._thread.start()
            undo.pop_all()
        for name in ("stderr", "__stderr__"):
            stream = getattr(sys, name)
            if stream is not None and _number(stream) == 2:
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
        os.dup2(_kept[-1].fileno(), 2)
        os.close(self._wake)  # its other end becomes ready; a write could fail
        self._thread.join(timeout=5.0)
        self._restore.close()
        if not self._thread.is_alive():
            for descriptor in (self._read, self._awake):
                os.close(descriptor)
        for line in self._held:  # no log file came
            with contextlib.suppress(OSError, ValueError, AttributeError):
                print(f"hymt-batch: stderr: {line}", file=sys.stderr, flush=True)

    def settle(self, timeout_s: float) -> None:
        """See the function of this name."""
        until = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while (poll.poll(0) or self._busy.is_set()) and time.monotonic() < until:
            time.sleep(0.002)
        if self._held and _log_file() is None:
            for line in list(self._held):
                with contextlib.suppress(OSError):
                    os.write(_kept[-1].fileno(), f"hymt-batch: stderr: {line}\n".encode(errors="replace"))

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        poll.register(self._awake, select.POLLIN)
        ending = False
        while not ending:
            ready = {descriptor for descriptor, _ in poll.poll(1000 * HELD_S if self._held else None)}
            ending = self._awake in ready
            self._busy.set()
            while data := self._take():
                self._split(data)
            if ending and self._rest:
                self._line(self._rest)
            self._hand_over()
            self._busy.clear()

    def _take(self) -> bytes:
        try:
            return os.read(self._read, _CHUNK)
        except BlockingIOError:
            return b""

    def _split(self, data: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + data)
        for line in lines:
            self._line(line)
        if len(self._rest) > 4 * MAX_CHARS:
            self._line(self._rest)
            self._rest = b""
        self._hand_over()

    def _line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip()
        if not text or self._num > MAX_LINES:
            return
        self._num += 1
        if self._num > MAX_LINES:
            text = f"more than {MAX_LINES:,} lines: no more are kept"
        if _PANIC.search(text):
            text = failure(text)
            if not self._told:
                self._told = True
                log.warning("%s", text)
        self._held.append(shown(text)[:MAX_CHARS])

    def _hand_over(self) -> None:
        """Give what is held to the log file, where there is one."""
        if self._held and (file := _log_file()) is not None:
            held, self._held = self._held, []
            for line in held:
                file.handle(logging.getLogger(LOGGER).makeRecord(LOGGER, logging.INFO, "", 0, "%s", (line,), None))


def failure(line: str) -> str:
    """A failure inside of a library written in Rust, from its line: such a line may hold the text it failed on."""
    place = _RUST_PLACE.search(line)
    library = "safetensors" if place and "safetensors" in place[0] else "tokenizers"
    return f"the {library} library failed on a text" + (f" ({place[0]})" if place else "")


def _log_file() -> logging.FileHandler | None:
    handlers = logging.getLogger("hymt_batch").handlers
    return next((handler for handler in handlers if isinstance(handler, logging.FileHandler)), None)


def _number(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return -1


def _is_stderr() -> bool:
    """Whether descriptor 2 is free to be taken: not where it was closed, and a file of this process got its number."""
    try:
        os.fstat(2)
    except OSError:
        return True
    return sys.__stderr__ is not None


def _real() -> TextIO:
    """A stream to where descriptor 2 leads; opened again where it leads elsewhere than the last time."""
    try:
        os.fstat(2)
    except OSError:  # closed: from now on its number belongs to nobody else
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        if null > 2:
            os.close(null)
    if not _kept or _kept[-1].closed or not os.path.sameopenfile(_kept[-1].fileno(), 2):
        like = sys.__stderr__
        encoding, errors = (like.encoding, like.errors) if like is not None else ("utf-8", "backslashreplace")
        _kept.append(open(os.dup(2), "w", buffering=1, encoding=encoding, errors=errors))  # noqa: SIM115  kept
    return _kept[-1]
