"""One task of a job on a node of a Ray cluster: hymt-batch in a process of its own, which Ray cannot lose.

A crash of CUDA or a lack of memory then ends that process, and not the worker of Ray that started it. If the worker
ends, even by SIGKILL, the process ends with it, so that a repetition finds no live claim. Imports no Ray.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from hymt_batch.child_process import die_with_parent_command
from hymt_batch.errors import ExitCode
from hymt_batch.launch.command import of_this_machine

POLL_S = 0.2
TAIL_BYTES = 4000
KILL_S = 10.0
"""How long a process may take to end after its grace period, before it is killed."""


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How the process of a task ended."""

    code: int  # exit code; negative: number of the signal that killed it
    host: str
    tail: str  # the end of what it wrote to standard error


def run_task(words: Sequence[str], cwd: str, environment: Mapping[str, str], grace_s: float) -> TaskEnd:
    """Run hymt-batch on this node until it ends. Call it from the main thread.

    If this process is asked to stop (SIGTERM, or the interrupt of `ray.cancel`), the task gets SIGTERM, and finishes
    its running part.

    Args:
        words: Job and overrides.
        cwd: The folder that relative paths are relative to.
        environment: Variables of the machine that handed the job out, which the task gets, too.
        grace_s: Seconds that the task may take to end after SIGTERM.
    """
    host = socket.gethostname()
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                die_with_parent_command([*of_this_machine(), *words]),
                cwd=cwd,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        except OSError as error:
            return TaskEnd(int(ExitCode.PREFLIGHT), host, f"the task cannot be started in {cwd}: {error}")
        try:
            while process.poll() is None:
                time.sleep(POLL_S)  # short, because the interrupt of ray.cancel waits for the end of a call
        except BaseException:
            _stop(process, grace_s)
            raise
        return TaskEnd(process.returncode, host, _read_tail(log))


def _stop(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask a process to stop, and wait until it has ended."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(grace_s + KILL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _read_tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - TAIL_BYTES))
    return log.read().decode("utf-8", "replace").strip()
