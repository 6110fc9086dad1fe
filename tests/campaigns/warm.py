"""Fork jobs from a process that has imported everything; each job records its progress in shared memory.

The job is the real one, in a separate process. It differs from production only in this: package versions are checked
once and not by each process; workers are forked as well, as many as the job asks for; fsync does nothing (the machine
keeps running when a process dies, so a sync would only cost time); and each stage of the job records that it begins.
Does not know why a job ends.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import glob
import hashlib
import importlib.metadata
import logging
import mmap
import os
import signal
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hymt_batch import child_process, config, fs, streams
from hymt_batch.check import retry
from hymt_batch.decode.decoder import Decoder
from hymt_batch.doctor import preflight
from hymt_batch.run import executor, replica, worker, worker_process
from hymt_batch.run.reporter import Reporter
from hymt_batch.write import cleanup, lease, published_file, row_record, segment_run
from hymt_batch.write import part as parts
from hymt_batch.write.output import Output
from hymt_batch.write.part_store import PartStore
from jobs import translate
from jobs.__main__ import report_error
from tests.fakes import job as fake_job

PHASES = (
    "import",  # the interpreter starts; nothing is forked
    "config",
    "open",  # identity of the folder, probe of the file system, completed parts
    "lease",
    "load",  # log file, model
    "decode",
    "check",
    "commit",
    "read",  # the next rows, their plan, existing parts
    "record",  # a shard is complete: its row record is made, and its parts are removed
    "finish",  # a file is assembled and published
    "finalize",  # the manifest
    "collect",  # parts are removed
    "end",  # the result is reported, the process exits
)
_COUNTS = struct.Struct("=II")  # number of parts and rows begun, for each process of a job
_FIRST, _PROCESSES = 8, 256


class Marks:
    """The progress of a job and its workers in shared memory, which a SIGKILL does not lose."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, _FIRST + _PROCESSES * _COUNTS.size)
        self.process = 0  # index of the counts of this process: 0 for the job, then its workers

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
        """Record that the rows of a part are about to be decoded."""
        self.phase = "decode"
        offset = _FIRST + self.process * _COUNTS.size
        parts, num_rows = _COUNTS.unpack_from(self._map, offset)
        _COUNTS.pack_into(self._map, offset, parts + 1, num_rows + rows)


MARKS = Marks()


def _record_phase(owner: Any, name: str, phase: str, after: str = "") -> None:
    """Wrap a function of the job so that it records its phase; functions inherited from a base class do not change."""
    original = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        MARKS.phase = phase
        result = original(*arguments, **options)
        if after:
            MARKS.phase = after
        return result

    setattr(owner, name, call)


class Worker:
    """Stands in for `subprocess.Popen`: a worker that is forked and so need not import anything."""

    started = 0

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], env: dict[str, str], stdin: int) -> None:
        Worker.started += 1
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        try:
            logging.getLogger().handlers.clear()  # the handlers of the job
            os.closerange(3, pass_fds[0])
            os.closerange(pass_fds[0] + 1, 256)
            MARKS.process = Worker.started % _PROCESSES
            worker.main(command[-1:])
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = poll(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.001)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def prepare(*, sync: bool = False) -> None:
    """Import all that a job with the stub model needs, and wrap its functions; call this once, before the first fork.

    A worker is a fork of its job, and so has the job's model and engine.

    Args:
        sync: True to keep the real fsync.
    """
    import pyarrow.parquet  # noqa: F401

    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401  pyarrow imports it if it is installed

    findings: dict[tuple[Any, ...], Any] = {}
    original, original_run = preflight.run_quick, Decoder.run

    def run_quick_once(job: Any) -> Any:
        key = (job.model.path, job.device_map.strategy)
        if key not in findings:
            findings[key] = original(job)
        return findings[key]

    def run_and_count(self: Decoder, prompts: Sequence[Any], attempts: Sequence[int] = ()) -> Any:
        if not attempts:  # what is tried again does not begin a new part
            MARKS.begun(len(prompts))
        return original_run(self, prompts, attempts)

    executor.usable_cpus = lambda: 8  # lets a job start as many workers as it asks for, on any machine
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    preflight.run_quick = run_quick_once
    Decoder.run = run_and_count  # type: ignore[method-assign]
    _record_phase(Output, "open", "open", "load")
    _record_phase(lease, "acquire", "lease", "open")
    _record_phase(replica, "open_engine", "load", "read")
    _record_phase(retry, "check_and_retry", "check")
    _record_phase(Output, "commit", "commit", "read")
    _record_phase(published_file, "assemble", "finish", "read")
    _record_phase(Output, "finalize", "finalize", "end")
    _record_phase(PartStore, "finish_shard", "record", "read")
    _record_phase(cleanup, "try_remove_rows", "collect")
    if not sync:
        fs.OsFs.fsync = staticmethod(lambda fd: None)  # type: ignore[assignment]
        fs.OsFs.fsync_dir = lambda self, path: True  # type: ignore[method-assign]
    child_process.subprocess = worker_process.subprocess = SimpleNamespace(  # type: ignore[assignment]
        Popen=Worker, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired
    )
    gc.collect()
    gc.freeze()  # keeps the collector of a fork from touching, and so copying, these objects


def load(overrides: Sequence[str]) -> Any:
    """Compose the settings of a job in this process and run its preflight checks, whose result the forks reuse."""
    job = config.load("translate", list(overrides))
    preflight.run_quick(job)
    return job


Translate = Callable[[Any, Reporter], Any]
STUB: Translate = fake_job.translate_with


def fork(work: Callable[[], int], stderr_path: Path | None = None) -> int:
    """Run `work` in a forked process with a new process group, stderr in a file and no stdout; return its id."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):  # parent and child both do this, so the group exists from now on
            os.setpgid(pid, pid)
        return pid
    code = 70
    try:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(os.open(stderr_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if stderr_path else null, 2)
        streams.prepare()  # the command line does this first
        code = work()
    except Exception as error:
        code = int(report_error(error))
    finally:
        os._exit(code)


def run(job: Any, body: Translate = STUB) -> int:
    """Run the job, with `body` in place of `translate`, for the rest of this process; return the exit code."""
    translate.translate = body
    return int(translate.run(job))


def start(job: Any, *, compose: Sequence[str] = (), body: Translate = STUB, stderr_path: Path | None = None) -> int:
    """Fork a process that runs the job, and return its id; with `compose`, that process composes the settings."""
    MARKS.clear()
    MARKS.phase = "config"
    Worker.started = 0
    return fork(lambda: run(config.load("translate", list(compose)) if compose else job, body), stderr_path)


def poll(pid: int) -> int | None:
    """Return the exit code of a process, negative for a signal; None while it runs."""
    ended_pid, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended_pid else None


def wait(pid: int, timeout_s: float = 120.0) -> int:
    """Wait for a process to end and return its exit code.

    Raises:
        TimeoutError: The process did not end in time.
    """
    deadline = time.monotonic() + timeout_s
    while (code := poll(pid)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not end within {timeout_s:g} s")
        time.sleep(0.0005)
    return code


def within(work: Callable[[], object]) -> None:
    """Run `work` in a forked process, so that this process has none of its threads when it forks again."""

    def call() -> int:
        work()
        return 0

    code = wait(fork(call))
    if code:
        raise RuntimeError(f"a helper process ended with {code}")


def digest(output: Path, leave_out: str = "") -> str:
    """Return the SHA-256 of the names and bytes of all published files; skip names that begin with `leave_out`."""
    hasher = hashlib.sha256()
    published = (path for name in ("translated", "errors", "review") for path in output.glob(f"{name}/**/*"))
    for path in sorted([*published, output / "manifest.json"]):
        if path.is_file() and not (leave_out and path.name.startswith(leave_out)):
            hasher.update(f"{path.relative_to(output)}\0".encode() + path.read_bytes())
    return hasher.hexdigest()


def live_paths(folder: Path, pattern: str) -> list[Path]:
    """Return what matches a pattern in a folder in which a job works; `Path.glob` fails if a folder vanishes."""
    return [folder / name for name in glob.glob(pattern, root_dir=folder)]


def committed_parts(output: Path, divided: tuple[str, int] | None = None) -> dict[tuple[str, str, int], int]:
    """Return the rows of each committed part, by file, shard and part; the row record of a shard stands for its parts.

    Names alone prove that a file is whole.

    Args:
        output: The output folder.
        divided: The shard whose last part is that of a divided row, and the segments of this row: they count as rows.
    """
    num_rows: dict[tuple[str, str, int], int] = {}
    for path in live_paths(output, ".hymt/f*/s*"):
        key = (path.parent.name, path.stem)
        last = 0
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if row_record.RECORD_NAME.fullmatch(path.name):
                recorded = row_record.decode(path.read_bytes())[1].parts
                num_rows |= {(*key, index): part.num_rows for index, part in enumerate(recorded)}
                if divided and divided[0] == path.stem:
                    num_rows[*key, len(recorded) - 1] = divided[1]
                continue
            names = sorted(os.listdir(path))
            for name in names:
                if match := parts.PART_NAME.fullmatch(name):
                    header = parts.read_header(fs.OS_FS, path / name)
                    last = header.num_parts - 1
                    num_rows[*key, int(match[1])] = header.num_rows
            if divided and divided[0] == path.stem and parts.part_name(last) in names:
                num_rows[*key, last] = divided[1]
                continue
            for name in names:
                if match := parts.RUN_NAME.fullmatch(name):
                    run = segment_run.read_header(fs.OS_FS, path / name).key
                    part = (*key, int(match[1]))
                    num_rows[part] = num_rows.get(part, 0) + run.last - run.first + 1
    return num_rows


def is_within_long_row(output: Path) -> bool:
    """Return whether some runs of a divided row are committed, and the part of the row is not."""
    runs = [path for path in live_paths(output, ".hymt/f*/s*/p*-r*") if parts.RUN_NAME.fullmatch(path.name)]
    return any(not path.with_name(path.name.partition("-")[0]).exists() for path in runs)


def published(output: Path) -> bool:
    """Return whether a file is published and recorded."""
    return next(output.glob(".hymt/f*/file.json"), None) is not None
