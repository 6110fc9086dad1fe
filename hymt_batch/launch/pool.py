"""Worker processes: each holds one replica and is handed parts; one that dies is replaced, and no part is lost with it.

The parent alone reads the source and writes the output, so that all that holds of one process holds of many. A worker
is started when a part waits and none is free. A part that takes its worker down three times is cut in halves until the
row that does it stands alone; a row that took three workers down alone is given up. Workers also die of what no row
did (a full memory, somebody's kill): that costs tries, never a row. Which worker decodes what depends on time, and the
text does not: a part decodes the same in every worker. Knows processes and pieces of parts; not what decoding is.
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
from hymt_batch.errors import HymtError, StoppedError
from hymt_batch.launch.oom import read_oom_kills

log = logging.getLogger(__name__)

MAX_TASK_TRIES = 3
"""Times that a whole part may take its worker down before it is cut in halves."""

MAX_ITEM_TRIES = 3
"""Times that an item may take its worker down alone before it is given up."""

MAX_IDLE_DEATHS = 5
"""Times in a row that a worker may die without a part before the job stops."""

MAX_EXTERNAL_KILLS = 20
"""The same where something outside killed it, and not because memory ran out: that passes, or it is no chance."""

IGNORED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that a worker ignores: the parent was told too, and lets the running part finish."""

MIN_LOAD_TIMEOUT_S = 600.0
"""Seconds that a worker may at least take until it has loaded its model, however short launch.hang_s is."""

POLL_S = 0.5
EXIT_TIMEOUT_S = 1.0
"""Seconds that a worker may take to end by itself."""


@dataclass(eq=False, slots=True)
class Task:
    """A part on its way through the workers."""

    key: Any  # the caller's own
    items: Sequence[Any]  # what is decoded, one by one or together
    tries: int = 0  # in this run and before it
    results: dict[int, Any] = field(default_factory=dict)  # by the item's place
    marks: list[str] = field(default_factory=list)  # what went otherwise than planned


@dataclass(eq=False, slots=True)
class _Piece:
    task: Task
    indices: Sequence[int]  # of its items
    deaths: int = 0  # workers that died with it in this run


@dataclass(eq=False, slots=True)
class _Worker:
    index: int
    process: subprocess.Popen[bytes]
    pipe: Connection
    last_heard: float  # monotonic seconds of its last sign of life
    oom_kills: int | None  # of the machine when it was started
    ready: bool = False
    piece: _Piece | None = None


class ProcessPool:
    """Workers, started as parts wait for them and ended with the block."""

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
        """Start nothing yet.

        Args:
            command: Starts a worker; the number of its end of a socket is appended.
            environments: Of each worker there may be, what it has beyond this process's own.
            hello: Sent to each worker first.
            begin: Called as a whole task is handed out; tells how often that was done, this time included.
            give_up: The result of an item that takes its worker down alone, from the item and the reason.
            check_ready: Looks at what a worker says of itself; raises to refuse it.
            on_batch: Told of rows that were decoded, and of their tokens.
            check_stop: Raises when the job must end at once.
            stopping: Whether nothing more is to be handed out.
            hang_s: Seconds without a sign of life after which a worker that decodes is killed.
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
        self._workers: dict[int, _Worker] = {}  # by their number
        # of each number, in a row and without a part: whether something outside killed it
        self._deaths: defaultdict[int, list[bool]] = defaultdict(list)

    def __enter__(self) -> ProcessPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.pipe.close()  # a worker whose parent is gone ends
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
        """Pieces that wait for a worker, or are with one."""
        return len(self._queue) + sum(worker.piece is not None for worker in self._workers.values())

    def submit(self, task: Task) -> Iterator[Task]:
        """Take a task; yields tasks that are done, waiting for some while every worker has one and another waits."""
        self._queue.append(_Piece(task, range(len(task.items))))
        while self.backlog >= 2 * len(self._environments) and not self._is_idle:
            yield from self._poll()
        yield from self._poll(0.0)

    def drain(self) -> Iterator[Task]:
        """Yield all tasks that are still under way; after a stop request, those that a worker has already."""
        while self.backlog and not self._is_idle:
            yield from self._poll()

    @property
    def _is_idle(self) -> bool:
        """Whether nothing more happens: a stop was requested, and the workers have nothing."""
        return self._stop_requested() and all(worker.piece is None for worker in self._workers.values())

    def _poll(self, timeout_s: float = POLL_S) -> Iterator[Task]:
        """Hand out what waits, start workers for the rest, and hear what they say or that they died."""
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
                task = self._handle_death(worker, f"it gave no sign of life for {limit:g} s (launch.hang_s)")
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
                with contextlib.suppress(OSError):  # it died: its pipe says so in a moment
                    worker.pipe.send([piece.task.items[place] for place in piece.indices])

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
            results, notes = values
            assert worker.piece is not None
            piece, worker.piece = worker.piece, None
            piece.task.results.update(zip(piece.indices, results, strict=True))
            piece.task.marks += notes
            return self._if_complete(piece.task)
        return None

    @staticmethod
    def _if_complete(task: Task) -> Task | None:
        return task if len(task.results) == len(task.items) else None

    def _handle_death(self, worker: _Worker, reason: str) -> Task | None:
        """Let a dead worker go, and decide about the piece it had; a task that is thereby done."""
        if not reason:  # it closed its end: let it say by itself how it ends
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
            killed = code == -signal.SIGKILL and worker.oom_kills is not None and worker.oom_kills == read_oom_kills()
            deaths = self._deaths[worker.index]
            deaths.append(killed)
            if deaths.count(False) >= MAX_IDLE_DEATHS or len(deaths) >= MAX_EXTERNAL_KILLS:
                raise self._worker_death_error(worker, killed, reason)
            return None
        piece.deaths += 1
        task, places = piece.task, piece.indices
        if len(places) == 1:
            if piece.deaths < MAX_ITEM_TRIES:
                self._queue.append(piece)  # last: a bad minute of the machine is not three tries
                return None
            task.marks.append("bisected")
            task.results[places[0]] = self._quarantine(task.items[places[0]], reason)
            return self._if_complete(task)
        if len(places) == len(task.items) and task.tries < MAX_TASK_TRIES:
            self._queue.appendleft(piece)
            return None
        task.marks.append("bisected")
        half = (len(places) + 1) // 2
        self._queue.extendleft([_Piece(task, places[half:]), _Piece(task, places[:half])])
        return None

    def _worker_death_error(self, worker: _Worker, killed: bool, reason: str) -> StoppedError:
        """A worker that never comes to its work."""
        num = len(self._environments)
        when = "before it was given a part" if worker.ready else "before it had loaded the model"
        fix = "The log says what it wrote. Set launch.workers=1 to decode in this process"
        if killed:
            fix = "Something outside of the job kills it: ask who administers the machine"
        elif reason == "signal SIGKILL":
            fewer = f"set launch.workers={num // 2}" if num > 1 else "give the job more memory"
            fix = f"SIGKILL mostly means that memory ran out: {fewer}"
        return StoppedError(
            f"worker {worker.index} died {len(self._deaths[worker.index])} times in a row {when} (the last time: "
            f"{reason}). {fix}, and run the same command again to continue"
        )

    def _start_workers(self) -> None:
        """One worker for each piece that waits, while there may be more of them. Called where no worker is free."""
        starting = sum(not worker.ready for worker in self._workers.values())
        for number in range(len(self._environments)):
            if len(self._queue) <= starting or self._stop_requested():
                return
            if number not in self._workers:
                self._workers[number] = self._spawn_worker(number)
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
        with contextlib.suppress(OSError):  # it died at once: its pipe says so in a moment
            pipe.send(self._init_message)
        return _Worker(index, process, pipe, time.monotonic(), read_oom_kills())


def picklable_error(error: HymtError) -> HymtError:
    """An error as it can be sent: its own class, message and id."""
    return type(error)(error.message, error.id)
