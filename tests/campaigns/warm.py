"""Jobs forked from a process that has everything imported, with marks in shared memory of how far they came.

The job is the real one, in a process of its own; only this is otherwise than in production: the versions of the
packages are examined once and not by each process, workers are forked too and as many as asked for, fsync does nothing
(a process that ends leaves the machine running, so it would only cost time), and each stage of the job leaves a mark
before it begins.
Does not know why a job ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import logging
import mmap
import os
import re
import signal
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hymt_batch import check, config, executor, fs, replica, streams
from hymt_batch.decode import engine
from hymt_batch.doctor import preflight
from hymt_batch.launch import pool
from hymt_batch.progress import Reporter
from hymt_batch.write import cleanup, lease, published_file
from hymt_batch.write.output import Output
from jobs import translate
from jobs.__main__ import report_error
from tests.campaigns import stub

PHASES = (
    "import",  # the interpreter starts; nothing is forked
    "config",
    "open",  # whose folder it is, probe, what is done
    "lease",
    "load",  # log file, model
    "decode",
    "check",
    "commit",
    "read",  # the next rows, their plan, parts that are there
    "finish",  # a file is assembled and published
    "finalize",  # the manifest
    "collect",  # parts are removed
    "end",  # the result is told, the process leaves
)
_COUNTS = struct.Struct("=II")  # parts and rows begun, of each process of a job
_FIRST, _PROCESSES = 8, 256


class Marks:
    """What a job, and the workers it starts, tell whoever watches it; it outlives a SIGKILL."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _FIRST + _PROCESSES * _COUNTS.size)
        self.process = 0  # whose counts this process adds to: the job's own 0, then its workers'

    def clear(self) -> None:
        self._map[:] = bytes(len(self._map))

    @property
    def phase(self) -> str:
        return PHASES[self._map[0]]

    @phase.setter
    def phase(self, name: str) -> None:
        if not self.process or name == "decode":
            self._map[0] = PHASES.index(name)

    @property
    def parts(self) -> int:
        return sum(parts for parts, _ in _COUNTS.iter_unpack(self._map[_FIRST:]))

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in _COUNTS.iter_unpack(self._map[_FIRST:]))

    def begun(self, rows: int) -> None:
        """A part's rows are about to be decoded."""
        self.phase = "decode"
        at = _FIRST + self.process * _COUNTS.size
        parts, before = _COUNTS.unpack_from(self._map, at)
        _COUNTS.pack_into(self._map, at, parts + 1, before + rows)


MARKS = Marks()


def _marked(owner: Any, name: str, phase: str, after: str = "") -> None:
    """Let a function of the job mark its phase; a method that is inherited or a class's is left what it is."""
    right = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        MARKS.phase = phase
        result = right(*arguments, **options)
        if after:
            MARKS.phase = after
        return result

    setattr(owner, name, call)


class Worker:
    """What `subprocess.Popen` gives for a worker; forked, so that it need not import."""

    serve: Callable[..., None] = replica.serve
    started = 0

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], env: dict[str, str], stdin: int) -> None:
        Worker.started += 1
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            logging.getLogger().handlers.clear()  # those of the job
            os.closerange(3, pass_fds[0])
            os.closerange(pass_fds[0] + 1, 256)
            MARKS.process = Worker.started % _PROCESSES
            replica.main(command[-1:], Worker.serve)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ended(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout if timeout is not None else 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def prepare(serve: Callable[..., None] | None = None, *, sync: bool = False) -> None:
    """Do what is done once, before the first fork; ends with everything imported that the stub model's job needs.

    Args:
        serve: What a worker does; None: it serves the stub model.
        sync: Let fsync be what it is.
    """
    import pyarrow.parquet  # noqa: F401

    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  pyarrow imports it where it is installed

    Worker.serve = staticmethod(
        serve or partial(replica.serve, prepare_model=stub.prepare, decode_batch=stub.decode_batch)
    )
    findings: dict[tuple[Any, ...], Any] = {}
    cheap, decode_run = preflight.run_quick, engine.Decoder.run

    def once(job: Any) -> Any:
        key = (job.model.path, job.device_map.strategy)
        if key not in findings:
            findings[key] = cheap(job)
        return findings[key]

    def counted(self: engine.Decoder, prompts: Sequence[Any], attempt: int = 0) -> Any:
        if not attempt:  # a second try of the ladder begins no part
            MARKS.begun(len(prompts))
        return decode_run(self, prompts, attempt)

    executor.usable_cpus = lambda: 8  # as many workers as a job asks for, on any machine
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    preflight.run_quick = once
    engine.Decoder.run = counted  # type: ignore[method-assign]
    _marked(Output, "open", "open", "load")
    _marked(lease, "acquire", "lease", "open")
    _marked(engine.Decoder, "self_check", "load", "read")
    _marked(check, "flag_and_retry", "check")
    _marked(Output, "commit", "commit", "read")
    _marked(published_file, "assemble", "finish", "read")
    _marked(Output, "finalize", "finalize", "end")
    _marked(cleanup, "try_remove_parts", "collect")
    if not sync:
        fs.OsFs.fsync = staticmethod(lambda fd: None)  # type: ignore[assignment]
        fs.OsFs.fsync_dir = lambda self, path: True  # type: ignore[method-assign]
    pool.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=Worker, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    gc.collect()
    gc.freeze()  # a fork's collector need not touch, and so copy, what is here


def load(overrides: Sequence[str]) -> Any:
    """The settings of a job, composed in this process; what examining them once finds is kept for its forks."""
    job = config.load("translate", list(overrides))
    preflight.run_quick(job)
    return job


Translate = Callable[[Any, Reporter], Any]
STUB: Translate = partial(translate.translate, prepare_model=stub.prepare, decode_batch=stub.decode_batch)


def forked(work: Callable[[], int], told: Path | None = None) -> int:
    """Run something in a forked process, in a group of its own; its id. stderr goes to `told`, stdout nowhere."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # here as well as there: whoever comes first, the group exists from now on
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if told else null, 2)
        streams.prepare()  # as the front does first
        code = work()
    except Exception as error:
        code = int(report_error(error))
    finally:
        os._exit(code)


def start(job: Any, *, compose: Sequence[str] = (), body: Translate = STUB, told: Path | None = None) -> int:
    """Fork a process that runs the job; its id. With `compose`, that process composes the settings itself."""
    MARKS.clear()
    MARKS.phase = "config"
    Worker.started = 0
    return forked(lambda: int(translate.run(config.load("translate", list(compose)) if compose else job, body)), told)


def ended(pid: int) -> int | None:
    """A process's exit code, negative for a signal; None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(pid: int, timeout_s: float = 120.0) -> int:
    """A process's exit code once it ends.

    Raises:
        TimeoutError: It did not.
    """
    until = time.monotonic() + timeout_s
    while (code := ended(pid)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f"process {pid} did not end within {timeout_s:g} s")
        time.sleep(0.0005)
    return code


def within(work: Callable[[], object]) -> None:
    """Do something in a forked process, so that its threads are not in this one when it forks."""

    def call() -> int:
        work()
        return 0

    code = wait(forked(call))
    if code:
        raise RuntimeError(f"a helper process ended with {code}")


def digest(output: Path, leave_out: str = "") -> str:
    """Sha256 over all that is published: names and bytes; but not of files whose names begin with `leave_out`."""
    whole = hashlib.sha256()
    for path in sorted([*output.glob("translated/**/*"), *output.glob("errors/**/*"), output / "manifest.json"]):
        if path.is_file() and not (leave_out and path.name.startswith(leave_out)):
            whole.update(f"{path.relative_to(output)}\0".encode() + path.read_bytes())
    return whole.hexdigest()


_PART = re.compile(r"p\d+")


def part_names(output: Path) -> set[tuple[str, str, str]]:
    """Committed parts: file, shard, part. Their names alone say so, which is what is tested."""
    found = set()
    for shard in output.glob(".hymt/f*/s*"):
        try:
            found |= {(shard.parent.name, shard.name, name) for name in os.listdir(shard) if _PART.fullmatch(name)}
        except FileNotFoundError:
            continue
    return found


def published(output: Path) -> bool:
    """Whether a file is published and recorded, so that its parts may be gone."""
    return next(output.glob(".hymt/f*/file.json"), None) is not None
