"""A pool of worker processes, each with one replica of the model.

A worker that dies is replaced, and its unit is decoded again. The parent alone reads the source and writes the output,
so one process and many give the same guarantees. A worker is started when a unit waits and no worker is free. A unit
that kills its worker three times is split in halves until the row that causes it is alone; a row that kills three
workers on its own is quarantined. Workers also die for reasons outside their rows (out of memory, a kill from outside):
that costs attempts, never a row. A worker that cannot load its replica is given up, and the others go on. Timing
decides which worker decodes a unit, but the text is the same in every worker. Workers receive prompts alone, and send
back translations without prompts, so messages stay small.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import HymtError, PreflightError, StoppedError
from hymt_batch.run import message
from hymt_batch.run.identity import build_environment
from hymt_batch.run.kept_model import KeptModel
from hymt_batch.run.piece import Piece, RunningUnit, quarantined_translation
from hymt_batch.run.unit import PartResult, Unit, units_until_stop
from hymt_batch.run.worker_process import WorkerProcess, WorkerSpec, end_all
from hymt_batch.signals import StopRequest

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

MAX_UNIT_TRIES = 3
"""How often a whole unit may kill its worker before it is split in halves."""

MAX_PROMPT_TRIES = 3
"""How often a prompt may kill its worker on its own before it is quarantined."""

MAX_IDLE_DEATHS = 5
"""How often in a row a worker may die while it has no unit; after that the job stops."""

MAX_EXTERNAL_KILLS = 20
"""The same limit for kills from outside, other than out-of-memory kills: higher, because the cause may disappear."""

MIN_LOAD_TIMEOUT_S = 600.0
"""Minimum time in seconds that a worker has to load its model, even if launch.hang_s is shorter."""

POLL_S = 0.5


class WorkerPool:
    """Worker processes, started when units wait for them and stopped when the `with` block ends."""

    def __init__(
        self,
        job: TranslateJob,
        identity: Mapping[str, Any],
        specs: Sequence[WorkerSpec],
        stop: StopRequest,
        begin_attempt: Callable[[Unit], int],
        on_batch: Callable[[int, int], None],
        last_resort: WorkerSpec | None = None,
        kept: KeptModel | None = None,
    ) -> None:
        """Store the settings; no worker is started yet.

        Args:
            job: All settings.
            identity: Identity of the prepared model; a worker that loads another one is refused.
            specs: How to start each worker; their number is the maximum number of workers.
            stop: Stop requests.
            begin_attempt: Called when a whole unit is sent to a worker; returns the number of attempts, with this one.
            on_batch: Called with the number of rows and tokens after each batch.
            last_resort: How to start a worker once none of `specs` can be used, or None.
            kept: Has the workers of an earlier pool with the same model, which go on with this job, and gets those of
                this one at the end of the `with` block, if all went well; None to end them.
        """
        self._job, self._identity, self._stop = job, identity, stop
        self._specs = dict(enumerate(specs))  # of the workers that can be used, by index
        self._num_specs, self._last_resort = len(specs), last_resort
        self._begin_attempt, self._on_batch, self._hang_s = begin_attempt, on_batch, job.launch.hang_s
        self._queue: deque[Piece] = deque()
        self._workers = dict(kept.take_workers(specs)) if kept else {}  # by index
        self._kept, self._all_specs = kept, specs
        self._decoding: dict[int, Piece] = {}  # worker index -> what it decodes
        # not yielded yet, each with the index of its worker
        self._finished: deque[tuple[int, PartResult]] = deque()
        self._committing: set[int] = set()  # workers that get nothing else before all their results are yielded
        # worker index -> its deaths in a row while it had no unit; True if it was killed from outside
        self._deaths: defaultdict[int, list[bool]] = defaultdict(list)
        self._nothing_finished = True

    def __enter__(self) -> WorkerPool:
        for index, worker in self._workers.items():
            worker.begin_job(self._specs[index])
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if self._kept is not None and error_type is None:
            self._kept.keep_workers(self._all_specs, self._workers)
        else:
            end_all(self._workers.values())
        self._workers = {}

    def run(self, units: Iterable[Unit]) -> Iterator[PartResult]:
        """See `Executor.run`; pulls no unit while every worker has a piece and as many more wait."""
        for unit in units_until_stop(units, self._stop):
            self._queue.append(Piece(RunningUnit(unit), range(len(unit.prompts))))
            while self._backlog >= 2 * len(self._specs) and not self._is_idle:
                yield from self._poll()
            yield from self._poll(0.0)
        while self._backlog and not self._is_idle:
            yield from self._poll()

    @property
    def _backlog(self) -> int:
        """Number of pieces that wait for a worker or are being decoded."""
        return len(self._queue) + len(self._decoding)

    @property
    def _is_idle(self) -> bool:
        """True once a stop was requested and all workers are idle."""
        return self._stop.requested and not self._decoding

    def _poll(self, timeout_s: float = POLL_S) -> Iterator[PartResult]:
        """Send waiting pieces, start workers if needed, and handle messages and deaths; yields finished parts."""
        self._advance(timeout_s)
        while self._finished:
            index, result = self._finished.popleft()
            yield result  # who asks for the next one has committed it
            self._committing.discard(index)
            if self._finished:  # no worker waits for the results of another one, or of a unit of many files
                self._advance(0.0)

    def _advance(self, timeout_s: float) -> None:
        self._stop.check()
        self._dispatch()
        self._start_workers()
        with explain_errors("translating the first part") if self._nothing_finished else contextlib.nullcontext():
            self._handle_events(timeout_s)

    def _handle_events(self, timeout_s: float) -> None:
        by_pipe = {worker.pipe: worker for worker in self._workers.values()}
        for pipe in wait(list(by_pipe), timeout_s):
            worker = by_pipe[pipe]  # type: ignore[index]
            try:
                received = worker.pipe.recv()
            except (EOFError, OSError):
                self._handle_death(worker, "")
            else:
                self._handle_message(worker, *received)
        for worker in list(self._workers.values()):
            limit = self._hang_s if worker.ready else max(self._hang_s, MIN_LOAD_TIMEOUT_S)
            is_working = worker.index in self._decoding or not worker.ready
            if is_working and time.monotonic() - worker.last_heard > limit:
                self._handle_death(worker, f"it sent no message for {limit:g} s (launch.hang_s)")

    def _dispatch(self) -> None:
        for worker in self._workers.values():
            if not self._queue or self._stop.requested:
                return
            if worker.ready and worker.index not in self._decoding and worker.index not in self._committing:
                piece = self._queue.popleft()
                if piece.is_whole_unit:
                    piece.of.tries = self._begin_attempt(piece.of.unit)
                self._decoding[worker.index], worker.last_heard = piece, time.monotonic()
                self._deaths[worker.index].clear()
                worker.send(message.pack_prompts([piece.of.unit.prompts[index] for index in piece.indices]))

    def _start_workers(self) -> None:
        """Start a worker for each waiting piece, up to the maximum; called after `_dispatch`, so no worker is free."""
        starting = sum(not worker.ready for worker in self._workers.values())
        for index, spec in self._specs.items():
            if len(self._queue) <= starting or self._stop.requested:
                return
            if index not in self._workers:
                self._workers[index] = WorkerProcess.start(index, spec)
                starting += 1

    def _handle_message(self, worker: WorkerProcess, kind: str, *values: Any) -> None:
        worker.last_heard = time.monotonic()
        if kind == "batch":
            self._on_batch(*values)
        elif kind == "log":
            name, level, text = values
            logging.getLogger(name).log(level, "worker=%d %s", worker.index, text)
        elif kind == "ready":
            identity, environment = values
            if identity != self._identity:
                raise PreflightError(
                    "A worker loaded a different model from the one that was checked: its files changed",
                    fix="Run the job again.",
                )
            worker.environment, worker.ready = build_environment(self._job, environment), True
        elif kind == "refused":
            (error,) = values
            worker.end("")
            self._go_on_without(worker.index, error)
        elif kind == "done":
            columns, degraded = values
            piece = self._decoding.pop(worker.index)
            prompts = [piece.of.unit.prompts[index] for index in piece.indices]
            piece.of.translations.update(zip(piece.indices, message.unpack_translations(prompts, columns), strict=True))
            piece.of.degraded += degraded
            self._finish_if_complete(piece.of, worker)

    def _finish_if_complete(self, running: RunningUnit, worker: WorkerProcess) -> None:
        """Keep the results of a unit to be yielded, if this worker had its last piece."""
        if len(running.translations) == len(running.unit.prompts):
            translations = [running.translations[index] for index in range(len(running.unit.prompts))]
            results = list(running.unit.results(translations, worker.environment, running.degraded))
            self._finished += [(worker.index, result) for result in results]
            if len(results) == 1:  # so that a kill costs at most one part per worker; committing many files takes long
                self._committing.add(worker.index)
            self._nothing_finished = False

    def _handle_death(self, worker: WorkerProcess, reason: str) -> None:
        """Remove a dead worker; requeue, split or quarantine its piece, which may complete its unit."""
        reason = worker.end(reason)
        del self._workers[worker.index]
        log.warning("worker=%d died: %s", worker.index, reason)
        piece = self._decoding.pop(worker.index, None)
        if piece is None:
            self._count_idle_death(worker, reason)
            return
        piece.deaths += 1
        running, indices = piece.of, piece.indices
        if len(indices) == 1:
            if piece.deaths < MAX_PROMPT_TRIES:
                # at the end of the queue: a brief problem on the machine must not use up all attempts
                self._queue.append(piece)
                return
            running.degraded.append("bisected")
            running.translations[indices[0]] = quarantined_translation(running.unit.prompts[indices[0]], reason)
            self._finish_if_complete(running, worker)
            return
        if piece.is_whole_unit and running.tries < MAX_UNIT_TRIES:
            self._queue.appendleft(piece)
            return
        running.degraded.append("bisected")
        half = (len(indices) + 1) // 2
        self._queue.extendleft([Piece(running, indices[half:]), Piece(running, indices[:half])])

    def _count_idle_death(self, worker: WorkerProcess, reason: str) -> None:
        """Count the death of a worker that had no unit; do without it if there were too many in a row."""
        killed_from_outside = worker.was_killed_from_outside()
        deaths = self._deaths[worker.index]
        deaths.append(killed_from_outside)
        if deaths.count(False) < MAX_IDLE_DEATHS and len(deaths) < MAX_EXTERNAL_KILLS:
            return
        when = "before it received a part" if worker.ready else "before it loaded the model"
        why, fix = "The log shows its output.", "Set launch.workers=1 to decode in this process"
        if killed_from_outside:
            why, fix = "Something outside the job kills it.", "Ask the administrator of the machine"
        elif reason == "signal SIGKILL":
            why = "SIGKILL usually means that memory ran out."
            fix = f"Set launch.workers={self._num_specs // 2}" if self._num_specs > 1 else "Give the job more memory"
        error = StoppedError(
            f"worker {worker.index} died {len(deaths)} times in a row {when} (the last time: {reason})",
            why=why,
            fix=f"{fix}, and run the same command again to continue.",
        )
        self._go_on_without(worker.index, error)

    def _go_on_without(self, index: int, error: HymtError) -> None:
        """Do not start this worker again, because it cannot load its model; raise the error if no other is left."""
        self._workers.pop(index, None)
        spec = self._specs.pop(index)
        if not self._specs:
            if self._last_resort is None:
                raise error
            self._specs, self._last_resort = {self._num_specs: self._last_resort}, None
        others = f"{len(self._specs)} other worker{'s go' if len(self._specs) > 1 else ' goes'} on"
        log.warning("worker=%d on %s cannot be used, %s: %s", index, spec.device, others, error)
