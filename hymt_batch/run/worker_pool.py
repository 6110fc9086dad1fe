"""A pool of worker processes, each with one replica of the model.

A worker that dies is replaced, and its part is decoded again. The parent alone reads the source and writes the output,
so one process and many give the same guarantees. A worker is started when a part waits and no worker is free. A part
that kills its worker three times is split in halves until the row that causes it is alone; a row that kills three
workers on its own is quarantined. Workers also die for reasons outside their rows (out of memory, a kill from outside):
that costs attempts, never a row. Timing decides which worker decodes a part, but the text is the same in every worker.
Manages processes and pieces of parts; independent of how parts are decoded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from hymt_batch import child_process
from hymt_batch.errors import StoppedError
from hymt_batch.records import Part
from hymt_batch.run.oom import read_oom_kills

log = logging.getLogger(__name__)

MAX_TASK_TRIES = 3
"""How often a whole part may kill its worker before it is split in halves."""

MAX_ITEM_TRIES = 3
"""How often an item may kill its worker on its own before it is quarantined."""

MAX_IDLE_DEATHS = 5
"""How often in a row a worker may die while it has no part; after that the job stops."""

MAX_EXTERNAL_KILLS = 20
"""The same limit for kills from outside, other than out-of-memory kills: higher, because the cause may disappear."""

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that a worker ignores: the parent receives them too, and lets the running part finish."""

MIN_LOAD_TIMEOUT_S = 600.0
"""Minimum time in seconds that a worker has to load its model, even if launch.hang_s is shorter."""

POLL_S = 0.5
EXIT_TIMEOUT_S = 1.0
"""Seconds that a worker has to exit after it closed its socket, before it is killed."""


@dataclass(eq=False, slots=True)
class Task:
    """A part that waits for a worker or is being decoded."""

    part: Part
    items: Sequence[Any]  # decoded together, or one by one after crashes
    tries: int = 0  # attempts at the whole task, in this run and earlier ones
    results: dict[int, Any] = field(default_factory=dict)  # item index -> its result
    marks: list[str] = field(default_factory=list)  # degradations, such as "bisected" or "oom_split"


@dataclass(eq=False, slots=True)
class _Piece:
    task: Task
    indices: Sequence[int]  # indices of the task's items
    deaths: int = 0  # number of workers that died while decoding it, in this run


@dataclass(eq=False, slots=True)
class _Worker:
    index: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    last_heard: float  # monotonic time in seconds of its last message
    oom_kills: int | None  # the machine's count when the worker was started
    ready: bool = False
    piece: _Piece | None = None


class WorkerPool:
    """Worker processes, started when parts wait for them and stopped when the `with` block ends."""

    def __init__(
        self,
        command: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        init_message: Any,
        *,
        begin_attempt: Callable[[Task], int],
        quarantine: Callable[[Any, str], Any],
        check_ready: Callable[[Any], None],
        on_batch: Callable[[int, int], None],
        check_stop: Callable[[], None],
        stop_requested: Callable[[], bool],
        hang_s: float,
    ) -> None:
        """Store the settings; no worker is started yet.

        Args:
            command: Starts a worker; the file descriptor of its end of a socket is appended.
            environments: Environment variables to add for each worker; their number is the maximum number of workers.
            init_message: The first message to each worker.
            begin_attempt: Called when a whole task is sent to a worker; returns the number of attempts so far, this one
                included.
            quarantine: Returns the result of an item that kills its worker on its own, given the item and the reason.
            check_ready: Called with a worker's description of itself; raises to reject the worker.
            on_batch: Called with the number of rows and tokens after each batch.
            check_stop: Called repeatedly; raises if the job must end at once.
            stop_requested: Returns True once no more pieces may be sent.
            hang_s: Seconds without a message after which a worker that decodes is killed.
        """
        self._command, self._environments, self._init_message = command, environments, init_message
        self._begin_attempt, self._quarantine, self._check_ready = begin_attempt, quarantine, check_ready
        self._on_batch, self._check_stop, self._stop_requested, self._hang_s = (
            on_batch,
            check_stop,
            stop_requested,
            hang_s,
        )
        self._queue: deque[_Piece] = deque()
        self._workers: dict[int, _Worker] = {}  # by index
        # worker index -> its deaths in a row while it had no part; True if it was killed from outside
        self._deaths: defaultdict[int, list[bool]] = defaultdict(list)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.pipe.close()  # a worker exits when its parent closes the socket
        deadline = time.monotonic() + 2.0
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    @property
    def backlog(self) -> int:
        """Number of pieces that wait for a worker or are being decoded."""
        return len(self._queue) + sum(worker.piece is not None for worker in self._workers.values())

    def submit(self, task: Task) -> Iterator[Task]:
        """Queue a task and yield finished ones; blocks while every worker has a piece and as many more wait."""
        self._queue.append(_Piece(task, range(len(task.items))))
        while self.backlog >= 2 * len(self._environments) and not self._is_idle:
            yield from self._poll()
        yield from self._poll(0.0)

    def drain(self) -> Iterator[Task]:
        """Yield all remaining tasks as they finish; after a stop request, only those already being decoded."""
        while self.backlog and not self._is_idle:
            yield from self._poll()

    @property
    def _is_idle(self) -> bool:
        """True once a stop was requested and all workers are idle."""
        return self._stop_requested() and all(worker.piece is None for worker in self._workers.values())

    def _poll(self, timeout_s: float = POLL_S) -> Iterator[Task]:
        """Send waiting pieces, start workers if needed, and handle messages and deaths; yields finished tasks."""
        self._check_stop()
        self._dispatch()
        self._start_workers()
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        for pipe in wait(list(by_pipe), timeout_s):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                task = self._handle_message(worker, worker.pipe.recv())
            except (EOFError, OSError):
                task = self._handle_death(worker, "")
            if task is not None:
                yield task
        for worker in list(self._workers.values()):
            limit = self._hang_s if worker.ready else max(self._hang_s, MIN_LOAD_TIMEOUT_S)
            if (worker.piece or not worker.ready) and time.monotonic() - worker.last_heard > limit:
                task = self._handle_death(worker, f"it sent no message for {limit:g} s (launch.hang_s)")
                if task is not None:
                    yield task

    def _dispatch(self) -> None:
        for worker in self._workers.values():
            if not self._queue or self._stop_requested():
                return
            if worker.ready and worker.piece is None:
                piece = self._queue.popleft()
                if len(piece.indices) == len(piece.task.items):
                    piece.task.tries = self._begin_attempt(piece.task)
                worker.piece, worker.last_heard = piece, time.monotonic()
                self._deaths[worker.index].clear()
                with contextlib.suppress(OSError):  # it died: the next poll sees that its pipe is closed
                    worker.pipe.send([piece.task.items[index] for index in piece.indices])

    def _handle_message(self, worker: _Worker, message: tuple[Any, ...]) -> Task | None:
        worker.last_heard = time.monotonic()
        kind, *values = message
        if kind == "batch":
            self._on_batch(*values)
        elif kind == "log":
            name, level, text = values
            logging.getLogger(name).log(level, "worker=%d %s", worker.index, text)
        elif kind == "ready":
            self._check_ready(values[0])
            worker.ready = True
        elif kind == "refused":
            (error,) = values
            raise error
        elif kind == "done":
            results, marks = values
            assert worker.piece is not None
            piece, worker.piece = worker.piece, None
            piece.task.results.update(zip(piece.indices, results, strict=True))
            piece.task.marks += marks
            return self._if_complete(piece.task)
        return None

    @staticmethod
    def _if_complete(task: Task) -> Task | None:
        return task if len(task.results) == len(task.items) else None

    def _handle_death(self, worker: _Worker, reason: str) -> Task | None:
        """Remove a dead worker; requeue, split or quarantine its piece; return the task if this completes it."""
        if not reason:  # it closed its socket: wait for its own exit code
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(EXIT_TIMEOUT_S)
        worker.process.kill()
        code = worker.process.wait()
        worker.pipe.close()
        del self._workers[worker.index]
        reason = reason or (f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        log.warning("worker=%d died: %s", worker.index, reason)
        piece = worker.piece
        if piece is None:
            killed_from_outside = (
                code == -signal.SIGKILL and worker.oom_kills is not None and worker.oom_kills == read_oom_kills()
            )
            deaths = self._deaths[worker.index]
            deaths.append(killed_from_outside)
            if deaths.count(False) >= MAX_IDLE_DEATHS or len(deaths) >= MAX_EXTERNAL_KILLS:
                raise self._worker_death_error(worker, killed_from_outside, reason)
            return None
        piece.deaths += 1
        task, indices = piece.task, piece.indices
        if len(indices) == 1:
            if piece.deaths < MAX_ITEM_TRIES:
                # at the end of the queue: a brief problem on the machine must not use up all attempts
                self._queue.append(piece)
                return None
            task.marks.append("bisected")
            task.results[indices[0]] = self._quarantine(task.items[indices[0]], reason)
            return self._if_complete(task)
        if len(indices) == len(task.items) and task.tries < MAX_TASK_TRIES:
            self._queue.appendleft(piece)
            return None
        task.marks.append("bisected")
        half = (len(indices) + 1) // 2
        self._queue.extendleft([_Piece(task, indices[half:]), _Piece(task, indices[:half])])
        return None

    def _worker_death_error(self, worker: _Worker, killed_from_outside: bool, reason: str) -> StoppedError:
        """Return the error for a worker that dies repeatedly while it has no part."""
        num_workers = len(self._environments)
        when = "before it received a part" if worker.ready else "before it loaded the model"
        why, fix = "The log shows its output.", "Set launch.workers=1 to decode in this process"
        if killed_from_outside:
            why, fix = "Something outside the job kills it.", "Ask the administrator of the machine"
        elif reason == "signal SIGKILL":
            why = "SIGKILL usually means that memory ran out."
            fix = f"Set launch.workers={num_workers // 2}" if num_workers > 1 else "Give the job more memory"
        return StoppedError(
            f"worker {worker.index} died {len(self._deaths[worker.index])} times in a row {when} (the last time: "
            f"{reason})",
            why=why,
            fix=f"{fix}, and run the same command again to continue.",
        )

    def _start_workers(self) -> None:
        """Start a worker for each waiting piece, up to the maximum; called after `_dispatch`, so no worker is free."""
        starting = sum(not worker.ready for worker in self._workers.values())
        for index in range(len(self._environments)):
            if len(self._queue) <= starting or self._stop_requested():
                return
            if index not in self._workers:
                self._workers[index] = self._spawn_worker(index)
                starting += 1

    def _spawn_worker(self, index: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                child_process.die_with_parent_command(
                    [*self._command, str(theirs.fileno())], ignored_signals=IGNORED_SIGNALS
                ),
                pass_fds=[theirs.fileno()],
                env={**os.environ, **self._environments[index]},
                stdin=subprocess.DEVNULL,
            )
        pipe = Connection(ours.detach())
        with contextlib.suppress(OSError):  # it died at once: the next poll sees that its pipe is closed
            pipe.send(self._init_message)
        return _Worker(index, process, pipe, time.monotonic(), read_oom_kills())
