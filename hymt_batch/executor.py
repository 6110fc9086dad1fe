"""Who decodes: this process, or workers with a replica each. Both take tasks and give them back done.

Knows how a replica is loaded and how a worker is started; not where the results go.
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
from hymt_batch.launch.pool import ProcessPool, Task
from hymt_batch.launch.watchdog import Watchdog
from hymt_batch.model.cpu_count import usable_cpus
from hymt_batch.part_tracker import PartTracker
from hymt_batch.records import Prompt, Translation
from hymt_batch.replica import Replica
from hymt_batch.signals import StopRequest
from hymt_batch.write.attempts import MAX_ATTEMPTS

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "hymt_batch.replica")
"""Starts a worker; -P: a folder of the user's that is named like a package of ours is not taken for it."""


def open_executor(
    job: TranslateJob,
    model: Any,
    tokenizer: Any,
    tracker: PartTracker,
    stop: StopRequest,
    decode_batch: Callable[..., Any] | None,
    worker_command: Sequence[str],
) -> InProcessExecutor | ProcessPool:
    """This process with a model of its own, or workers: at most as many as asked for.

    More than one are worker processes, be it one that this machine has the processors for; so is one where a part
    ended its process again and again.
    """
    if tracker.needs_isolation:
        log.warning("a part ended its process %d times: parts are decoded in a process of their own", MAX_ATTEMPTS)
    wanted = requested_workers(job, model)
    if wanted > 1 or tracker.needs_isolation:
        return open_worker_pool(
            job,
            model,
            max_workers(wanted, model),
            begin_attempt=tracker.begin_attempt,
            set_environment=tracker.set_environment,
            on_batch=tracker.progress.add_batch,
            stop=stop,
            worker_command=worker_command,
        )

    def hung(why: str) -> None:
        tracker.on_hang()
        stop.exit_now(f"{why}; run the same command again to continue")

    watch = Watchdog(job.launch.hang_s, hung)

    def step() -> None:
        watch.reset()
        stop.check()

    with explain_errors("loading the model"):
        replica = Replica(
            job, model, tokenizer, check_stop=step, on_batch=tracker.progress.add_batch, decode_batch=decode_batch
        )
    watch.pause()
    gc.freeze()  # the libraries' objects stay: looking through them again and again took a fifth of a fast job's time
    gc.set_threshold(100_000, 20, 20)
    tracker.set_environment(replica.environment)
    return InProcessExecutor(replica, tracker.begin_attempt, watch)


class InProcessExecutor:
    """This process decodes."""

    def __init__(self, replica: Replica, begin_attempt: Callable[[Task], int], watchdog: Watchdog) -> None:
        self._replica, self._begin_attempt, self._watchdog = replica, begin_attempt, watchdog

    def __enter__(self) -> InProcessExecutor:
        self._watchdog.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watchdog.__exit__()

    def submit(self, task: Task) -> Iterator[Task]:
        """Decode a task and give it back."""
        task.tries = self._begin_attempt(task)
        self._watchdog.reset()
        try:
            task.results = dict(enumerate(self._replica.translate(task.items)))
        finally:
            self._watchdog.pause()
        task.marks = list(self._replica.decode.take_degraded())
        yield task

    def drain(self) -> Iterator[Task]:
        """Nothing is ever under way."""
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
) -> ProcessPool:
    """A pool of workers that hold the prepared model's replicas.

    Args:
        job: All settings; sent to each worker.
        model: What `network.prepare` gave here; each worker must come to the same identity.
        num: How many there may be at once.
        begin: See `Pool`.
        made_in: Told the settled environment of each worker.
        on_batch: Told of rows that were decoded, and of their tokens.
        stop: Stop requests.
        command: Starts a worker.
    """

    def check_ready(said: tuple[Any, dict[str, Any]]) -> None:
        identity, environment = said
        if identity != model.identity:
            raise PreflightError(
                "A worker loaded another model than this process looked at: its files changed. Run again."
            )
        set_environment(environment)

    return ProcessPool(
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
    """How many workers are asked for.

    Raises:
        ConfigError: More than replicas fit the GPUs.
    """
    wanted, fit = job.launch.workers, len(model.placement.replicas) if model.on_gpu else None
    if wanted == "auto":
        return fit or 1
    if fit is not None and wanted > fit:
        raise ConfigError(
            f"launch.workers={wanted}, but {fit} replicas of the model fit the GPUs with device_map="
            f"{job.device_map.strategy.value}. Set launch.workers=auto."
        )
    return int(wanted)


def max_workers(requested: int, model: Any) -> int:
    """How many workers there may be: on a CPU, not more than processors that this process may use."""
    most = requested if model.on_gpu else min(requested, usable_cpus())
    if most < requested:
        log.warning(
            "launch.workers=%d, but this process may use %d of the machine's processors: at most %d worker%s at a time",
            requested,
            most,
            most,
            "" if most == 1 else "s",
        )
    return most


def worker_environments(job: TranslateJob, model: Any, num: int) -> list[Mapping[str, str]]:
    """What each worker's environment has beyond this process's own: its GPUs, or its share of the CPU's threads."""
    here = str(Path(__file__).parent.parent)
    path = {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}
    if not model.on_gpu:
        threads = job.launch.num_threads or max(1, usable_cpus() // num)
        return [{**path, "OMP_NUM_THREADS": str(threads)}] * num
    shown = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    made: list[Mapping[str, str]] = []
    for devices in model.placement.replicas[:num]:
        indices = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
        made.append({**path, "CUDA_VISIBLE_DEVICES": ",".join(shown[i] if shown else str(i) for i in indices)})
    return made


def quarantined_translation(prompt: Prompt, reason: str) -> Translation:
    """What becomes of a segment that takes its worker down, alone."""
    return Translation(prompt, "", "crash", message=f"decoding this row alone ended the process ({reason})")
