"""One worker process, as its parent sees it: how it is started, what it is told to ignore, and why it died.

Independent of what the worker decodes; `run/worker.py` is its program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from hymt_batch import child_process
from hymt_batch.child_process import IGNORED_SIGNALS
from hymt_batch.run.oom import read_oom_kills

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "hymt_batch.run.worker")
"""Starts a worker; -P prevents the import of a user's folder that has the name of one of our packages."""

EXIT_TIMEOUT_S = 1.0
"""Seconds that a worker has to exit after it closed its socket, before it is killed."""


@dataclass(frozen=True, eq=False, slots=True)
class WorkerSpec:
    """How to start one worker."""

    job: TranslateJob  # its settings
    variables: Mapping[str, str]  # environment variables to add
    device: str = ""  # where its replica is, for messages: "cuda:1" as the job numbers the GPUs, or "cpu"


@dataclass(eq=False, slots=True)
class WorkerProcess:
    """A running worker."""

    index: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    last_heard: float  # monotonic time in seconds of its last message
    oom_kills: int | None  # the machine's count when the worker was started
    ready: bool = False
    environment: dict[str, Any] = field(
        default_factory=dict
    )  # recorded in the parts that it decodes; set once it is ready

    @classmethod
    def start(cls, index: int, spec: WorkerSpec) -> WorkerProcess:
        """Start a worker and send it its settings.

        Args:
            index: Its number, from 0.
            spec: How to start it.
        """
        process, pipe = child_process.start_connected(
            COMMAND, ignored_signals=IGNORED_SIGNALS, env={**os.environ, **spec.variables}
        )
        worker = cls(index, process, pipe, time.monotonic(), read_oom_kills())
        worker.send(spec.job)
        return worker

    def begin_job(self, spec: WorkerSpec) -> None:
        """Go on with another job of the same model; the worker gets it before any of its prompts."""
        self.ready, self.last_heard = False, time.monotonic()
        self.send(spec.job)

    def send(self, message: object) -> None:
        """Send a message; if the worker is dead, do nothing: the parent sees that its pipe is closed."""
        with contextlib.suppress(OSError):
            self.pipe.send(message)

    def end(self, reason: str) -> str:
        """Kill the worker.

        Args:
            reason: Why, or "" if it closed its socket: then it has a moment to exit by itself.

        Returns:
            The reason of its death.
        """
        if not reason:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_TIMEOUT_S)
        self.process.kill()
        code = self.process.wait()
        self.pipe.close()
        return reason or (f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def was_killed_from_outside(self) -> bool:
        """True if the dead worker got a SIGKILL that was none of the kernel's out-of-memory kills."""
        code = self.process.returncode
        return code == -signal.SIGKILL and self.oom_kills is not None and self.oom_kills == read_oom_kills()


def end_all(workers: Iterable[WorkerProcess]) -> None:
    """End worker processes, and wait until they are gone."""
    workers = list(workers)
    for worker in workers:
        worker.pipe.close()  # a worker exits when its parent closes the socket
    deadline = time.monotonic() + 2.0
    for worker in workers:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
