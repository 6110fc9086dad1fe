"""Choose the executor: this process, or worker processes with one replica each.

Loads the replica and resolves the number of workers; independent of what is decoded and of where the results go.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import ConfigError
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.records import Part
from hymt_batch.run.identity import build_environment
from hymt_batch.run.replica import Replica
from hymt_batch.run.unit import Executor, PartResult, Unit, parts_until_stop
from hymt_batch.run.watchdog import Watchdog
from hymt_batch.run.worker_pool import WorkerPool
from hymt_batch.signals import StopRequest
from hymt_batch.write.attempts import MAX_ATTEMPTS
from hymt_batch.write.output import Output

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
        output: Output,
        stop: StopRequest,
        on_batch: Callable[[int, int], None],
        /,
    ) -> Executor: ...


def open_executor(
    job: TranslateJob,
    model: PreparedModel,
    tokenizer: Tokenizer,
    output: Output,
    stop: StopRequest,
    on_batch: Callable[[int, int], None],
) -> Executor:
    """Open an executor: this process with its own model, or at most as many workers as requested.

    If more than one worker is requested, worker processes are used, even if this machine has CPU cores for only one.
    They are also used if decoding a part has ended its process too often.

    Args:
        job: All settings.
        model: The result of `prepare.prepare_model` in this process; each worker must get the same identity.
        tokenizer: The model's tokenizer.
        output: The output folder; each part gets an attempt marker there before it is decoded.
        stop: Stop requests.
        on_batch: Called with the number of rows and tokens after each batch.
    """
    if output.attempts.needs_isolation:
        log.warning(
            "decoding one part ended its process %d times: parts are now decoded in a separate worker process",
            MAX_ATTEMPTS,
        )
    num_requested = requested_workers(job, model)
    if num_requested > 1 or output.attempts.needs_isolation:
        variables = worker_variables(job, model, max_workers(num_requested, model))
        begin_attempt = output.attempts.begin
        return WorkerPool(job, model.identity, variables, stop, begin_attempt=begin_attempt, on_batch=on_batch)

    def on_hang(reason: str) -> None:
        output.close(orderly=False)  # keeps the attempt marker of the part that hangs
        stop.exit_now(f"{reason}; run the same command again to continue")

    watchdog = Watchdog(job.launch.hang_s, on_hang)

    def on_step() -> None:
        watchdog.reset()
        stop.check()

    with explain_errors("loading the model"):
        replica = Replica(job, model, tokenizer, check_stop=on_step, on_batch=on_batch)
    watchdog.pause()
    gc.freeze()  # the libraries' objects stay: collecting garbage among them took a fifth of the time of a fast job
    gc.set_threshold(100_000, 20, 20)
    return InProcessExecutor(job, replica, watchdog, stop, output.attempts.begin)


class InProcessExecutor:
    """Decodes in this process, one part at a time."""

    def __init__(
        self,
        job: TranslateJob,
        replica: Replica,
        watchdog: Watchdog,
        stop: StopRequest,
        begin_attempt: Callable[[Part], int],
    ) -> None:
        self._replica, self._watchdog, self._stop, self._begin_attempt = replica, watchdog, stop, begin_attempt
        self._environment = build_environment(job, replica.environment)
        self._nothing_finished = True

    def __enter__(self) -> InProcessExecutor:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.__exit__()

    def run(self, units: Iterable[Unit]) -> Iterator[PartResult]:
        """See `Executor.run`."""
        for part in parts_until_stop(units, self._stop):
            with explain_errors("translating the first part") if self._nothing_finished else contextlib.nullcontext():
                result = self._decode(part)
            self._nothing_finished = False
            yield result

    def _decode(self, part: Part) -> PartResult:
        self._begin_attempt(part)
        self._watchdog.reset()
        try:
            translations = self._replica.translate(part.prompts)
        finally:
            self._watchdog.pause()
        degraded = tuple(dict.fromkeys(self._replica.decoder.take_degraded()))
        return PartResult(part, translations, self._environment, degraded)


def requested_workers(job: TranslateJob, model: PreparedModel) -> int:
    """Return the number of workers that the settings request.

    Raises:
        ConfigError: The settings request more workers than replicas fit the GPUs.
    """
    workers, num_fitting = job.launch.workers, len(model.placement.replicas) if model.on_gpu else None
    if workers == "auto":
        return num_fitting or 1
    if num_fitting is not None and workers > num_fitting:
        raise ConfigError(
            f"launch.workers={workers}, but only {num_fitting} replicas of the model fit the GPUs with "
            f"device_map={job.device_map.strategy.value}",
            fix="Set launch.workers=auto.",
        )
    return int(workers)


def max_workers(requested: int, model: PreparedModel) -> int:
    """Return the maximum number of workers: on a CPU, at most the number of CPU cores that this process may use."""
    num_allowed = requested if model.on_gpu else min(requested, usable_cpus())
    if num_allowed < requested:
        log.warning(
            "launch.workers=%d, but this process may use only %d CPU cores: at most %d worker%s at a time",
            requested,
            num_allowed,
            num_allowed,
            "" if num_allowed == 1 else "s",
        )
    return num_allowed


def worker_variables(job: TranslateJob, model: PreparedModel, num: int) -> list[Mapping[str, str]]:
    """Return the environment variables to add for each worker: its GPUs, or its share of the CPU threads."""
    package_root = str(Path(__file__).parent.parent.parent)
    python_path = {"PYTHONPATH": os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    if not model.on_gpu:
        threads = job.launch.num_threads or max(1, usable_cpus() // num)
        return [{**python_path, "OMP_NUM_THREADS": str(threads)}] * num
    visible_devices = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    environments: list[Mapping[str, str]] = []
    for devices in model.placement.replicas[:num]:
        indices = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
        environments.append(
            {
                **python_path,
                "CUDA_VISIBLE_DEVICES": ",".join(visible_devices[i] if visible_devices else str(i) for i in indices),
            }
        )
    return environments
