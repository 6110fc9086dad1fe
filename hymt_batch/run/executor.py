"""Choose the executor: this process, or worker processes with one replica each. Both take tasks and yield results.

Loads replicas and starts workers; independent of where the results go.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch.doctor.explain import explain_errors
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.records import Prompt, Translation
from hymt_batch.run.part_tracker import PartTracker
from hymt_batch.run.replica import Replica
from hymt_batch.run.watchdog import Watchdog
from hymt_batch.run.worker_pool import Task, WorkerPool
from hymt_batch.signals import StopRequest
from hymt_batch.write.attempts import MAX_ATTEMPTS

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "hymt_batch.run.worker")
"""Starts a worker; -P prevents the import of a user's folder that has the name of one of our packages."""


def open_executor(
    job: TranslateJob,
    model: Any,
    tokenizer: Any,
    tracker: PartTracker,
    stop: StopRequest,
    worker_command: Sequence[str],
) -> InProcessExecutor | WorkerPool:
    """Open an executor: this process with its own model, or at most as many workers as requested.

    If more than one worker is requested, worker processes are used, even if this machine has CPU cores for only one.
    They are also used if decoding a part has ended its process too often.
    """
    if tracker.needs_isolation:
        log.warning(
            "decoding one part ended its process %d times: parts are now decoded in a separate worker process",
            MAX_ATTEMPTS,
        )
    num_requested = requested_workers(job, model)
    if num_requested > 1 or tracker.needs_isolation:
        return open_worker_pool(
            job,
            model,
            max_workers(num_requested, model),
            begin_attempt=tracker.begin_attempt,
            set_environment=tracker.set_environment,
            on_batch=tracker.progress.add_batch,
            stop=stop,
            worker_command=worker_command,
        )

    def on_hang(reason: str) -> None:
        tracker.on_hang()
        stop.exit_now(f"{reason}; run the same command again to continue")

    watchdog = Watchdog(job.launch.hang_s, on_hang)

    def on_step() -> None:
        watchdog.reset()
        stop.check()

    with explain_errors("loading the model"):
        replica = Replica(job, model, tokenizer, check_stop=on_step, on_batch=tracker.progress.add_batch)
    watchdog.pause()
    gc.freeze()  # the libraries' objects stay: collecting garbage among them took a fifth of the time of a fast job
    gc.set_threshold(100_000, 20, 20)
    tracker.set_environment(replica.environment)
    return InProcessExecutor(replica, tracker.begin_attempt, watchdog)


class InProcessExecutor:
    """Decodes in this process."""

    def __init__(self, replica: Replica, begin_attempt: Callable[[Task], int], watchdog: Watchdog) -> None:
        self._replica, self._begin_attempt, self._watchdog = replica, begin_attempt, watchdog

    def __enter__(self) -> InProcessExecutor:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.__exit__()

    def submit(self, task: Task) -> Iterator[Task]:
        """Decode a task and yield it."""
        task.tries = self._begin_attempt(task)
        self._watchdog.reset()
        try:
            task.results = dict(enumerate(self._replica.translate(task.items)))
        finally:
            self._watchdog.pause()
        task.marks = list(self._replica.decoder.take_degraded())
        yield task

    def drain(self) -> Iterator[Task]:
        """Return no tasks: each one is finished in `submit`."""
        return iter(())


def open_worker_pool(
    job: TranslateJob,
    model: Any,
    num: int,
    *,
    begin_attempt: Callable[[Task], int],
    set_environment: Callable[[dict[str, Any]], None],
    on_batch: Callable[[int, int], None],
    stop: StopRequest,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> WorkerPool:
    """Open a pool of workers, each with one replica of the prepared model.

    Args:
        job: All settings; sent to each worker.
        model: The result of `prepare.prepare_model` in this process; each worker must get the same identity.
        num: Maximum number of workers.
        begin_attempt: See `WorkerPool`.
        set_environment: Called with the resolved environment of each worker.
        on_batch: Called with the number of rows and tokens after each batch.
        stop: Stop requests.
        worker_command: Starts a worker.
    """

    def check_ready(ready_message: tuple[Any, dict[str, Any]]) -> None:
        identity, environment = ready_message
        if identity != model.identity:
            raise PreflightError(
                "A worker loaded a different model from the one that was checked: its files changed",
                fix="Run the job again.",
            )
        set_environment(environment)

    return WorkerPool(
        worker_command,
        worker_environments(job, model, num),
        job,
        begin_attempt=begin_attempt,
        quarantine=quarantined_translation,
        check_ready=check_ready,
        on_batch=on_batch,
        check_stop=stop.check,
        stop_requested=lambda: stop.requested,
        hang_s=job.launch.hang_s,
    )


def requested_workers(job: TranslateJob, model: Any) -> int:
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


def max_workers(requested: int, model: Any) -> int:
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


def worker_environments(job: TranslateJob, model: Any, num: int) -> list[Mapping[str, str]]:
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


def quarantined_translation(prompt: Prompt, reason: str) -> Translation:
    """Return the result of a segment that killed its worker on its own."""
    return Translation(prompt, "", "crash", message=f"decoding this row alone ended the process ({reason})")
