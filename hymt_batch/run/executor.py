"""Choose the executor: this process, or worker processes with one replica each.

Loads the replica and starts the workers; independent of what is decoded and of where the results go.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hymt_batch.device_map import replicas
from hymt_batch.device_map.replicas import ReplicaChoice
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.model import nvidia
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.model.settings import Dtype
from hymt_batch.records import Translation
from hymt_batch.run.identity import build_environment
from hymt_batch.run.kept_model import KeptModel
from hymt_batch.run.replica import Replica
from hymt_batch.run.unit import Executor, PartResult, Unit, units_until_stop
from hymt_batch.run.watchdog import Watchdog
from hymt_batch.run.worker_pool import WorkerPool
from hymt_batch.run.worker_process import WorkerSpec
from hymt_batch.signals import StopRequest
from hymt_batch.write.attempts import MAX_ATTEMPTS
from hymt_batch.write.job_output import JobOutput

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.model.tokenizer import Tokenizer
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)


class OpenExecutor(Protocol):
    """A function like `open_executor`."""

    def __call__(
        self,
        job: TranslateJob,
        model: PreparedModel,
        tokenizer: Tokenizer,
        output: JobOutput,
        stop: StopRequest,
        on_batch: Callable[[int, int], None],
        /,
    ) -> Executor: ...


def open_executor(
    job: TranslateJob,
    model: PreparedModel,
    tokenizer: Tokenizer,
    output: JobOutput,
    stop: StopRequest,
    on_batch: Callable[[int, int], None],
    kept: KeptModel | None = None,
) -> Executor:
    """Open an executor: this process with its own model, or worker processes with one replica each.

    Worker processes are used for more than one replica; if more than one worker is requested, even if this machine has
    CPU cores for only one; if decoding a part has ended its process too often; and for an engine that has a process of
    its own, which may die.

    Args:
        job: All settings.
        model: The result of `prepare.prepare_model` in this process; each worker must get the same identity.
        tokenizer: The model's tokenizer.
        output: The output folder; each unit gets an attempt marker there before it is decoded.
        stop: Stop requests.
        on_batch: Called with the number of rows and tokens after each batch.
        kept: Has what an earlier job loaded, and keeps what is loaded for the next one; None to keep nothing.
    """
    if output.attempts.needs_isolation:
        log.warning("decoding one part ended its process %d times: parts now get a process of their own", MAX_ATTEMPTS)

    def begin_attempt(unit: Unit) -> int:
        return output.attempts.begin(unit.missing[0])  # one marker for the unit, removed with its first commit

    choice = replicas.choose(job.launch.workers, model.placement, usable_cpus())
    for warning in choice.warnings:
        log.warning("%s", warning.text)
    log.info("%s", choice.describe(job.launch.workers))
    if choice.uses_workers or output.attempts.needs_isolation or job.decode.in_worker:
        _collect_garbage_rarely()
        specs = worker_specs(job, model, choice)
        last_resort = _last_resort(job, model, specs)
        return WorkerPool(job, model.identity, specs, stop, begin_attempt, on_batch, last_resort, kept)

    def on_hang(reason: str) -> None:
        output.close(orderly=False)  # keeps the attempt marker of the part that hangs
        stop.exit_now(f"{reason}; run the same command again to continue")

    watchdog = Watchdog(job.launch.hang_s, on_hang)

    def on_step() -> None:
        watchdog.reset()
        stop.check()

    replica = kept.take_replica() if kept else None
    with explain_errors("loading the model"):
        if replica is not None:
            replica.use(job, check_stop=on_step, on_batch=on_batch)
        else:
            replica = Replica(job, model, tokenizer, check_stop=on_step, on_batch=on_batch)
            _collect_garbage_rarely()
    watchdog.pause()
    return InProcessExecutor(job, replica, watchdog, stop, begin_attempt, kept.keep_replica if kept else None)


def _collect_garbage_rarely() -> None:
    """Leave the libraries' objects alone: collecting garbage among them took a fifth of the time of a fast job."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    if "triton" in sys.modules:
        atexit.register(gc.unfreeze)  # else Triton lists its objects on stderr at the exit, since they are never freed


class InProcessExecutor:
    """Decodes in this process, one unit at a time."""

    def __init__(
        self,
        job: TranslateJob,
        replica: Replica,
        watchdog: Watchdog,
        stop: StopRequest,
        begin_attempt: Callable[[Unit], int],
        keep: Callable[[Replica], None] | None = None,
    ) -> None:
        self._replica, self._watchdog, self._stop, self._begin_attempt = replica, watchdog, stop, begin_attempt
        self._keep = keep  # gets the replica at the end, if all went well
        self._environment = build_environment(job, replica.environment)
        self._nothing_finished = True

    def __enter__(self) -> InProcessExecutor:
        self._watchdog.__enter__()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._watchdog.__exit__()
        if self._keep is not None and error_type is None:
            self._keep(self._replica)
        else:
            self._replica.close()

    def run(self, units: Iterable[Unit]) -> Iterator[PartResult]:
        """See `Executor.run`."""
        for unit in units_until_stop(units, self._stop):
            with explain_errors("translating the first part") if self._nothing_finished else contextlib.nullcontext():
                translations = self._decode(unit)
            self._nothing_finished = False
            yield from unit.results(translations, self._environment, self._replica.decoder.take_degraded())

    def _decode(self, unit: Unit) -> list[Translation]:
        self._begin_attempt(unit)
        self._watchdog.reset()
        try:
            return self._replica.translate(unit.prompts)
        finally:
            self._watchdog.pause()


def worker_specs(job: TranslateJob, model: PreparedModel, choice: ReplicaChoice) -> list[WorkerSpec]:
    """Return how to start each worker: with a GPU of its own, or with its share of the CPU threads.

    A single worker sees all GPUs and has the settings of the job, so that it places the model as this process does.
    """
    num = len(choice.devices)
    if not model.on_gpu:
        threads = job.launch.num_threads or max(1, usable_cpus() // num)
        variables = {**python_path(), "OMP_NUM_THREADS": str(threads)}
        return [WorkerSpec(job, variables, "cpu")] * num
    if num == 1:
        return [WorkerSpec(job, python_path(), choice.devices[0][0])]
    specs = []
    for (device,) in choice.devices:
        # the dtype is that of all GPUs of the job; by its own GPU alone, a worker might choose another
        settings = replace(
            job,
            model=replace(job.model, dtype=Dtype(model.dtype)),
            device_map=replicas.settings_for_worker(job.device_map, model.placement, device),
        )
        specs.append(WorkerSpec(settings, {**python_path(), **nvidia.visible_variables([device])}, device))
    return specs


def _last_resort(job: TranslateJob, model: PreparedModel, specs: Sequence[WorkerSpec]) -> WorkerSpec | None:
    """Return the worker for the case that no GPU alone holds the model: with what is left of device_map=fallback."""
    return WorkerSpec(job, python_path(), "all GPUs") if len(specs) > 1 and len(model.placements) > 1 else None


def python_path() -> dict[str, str]:
    """Return the environment variable that lets a worker import this package."""
    package_root = str(Path(__file__).parent.parent.parent)
    return {"PYTHONPATH": os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])}
