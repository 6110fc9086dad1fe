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

from hymt_batch.desk import Desk
from hymt_batch.doctor.explain import explaining
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.launch.pool import Pool, Task
from hymt_batch.launch.watch import Watch
from hymt_batch.model.processors import processors
from hymt_batch.records import Prompt, Translation
from hymt_batch.replica import Replica
from hymt_batch.signals import Stop
from hymt_batch.write.attempts import MAX_ATTEMPTS

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "hymt_batch.replica")
"""Starts a worker; -P: a folder of the user's that is named like a package of ours is not taken for it."""


def hire(
    job: TranslateJob,
    model: Any,
    tokenizer: Any,
    desk: Desk,
    stop: Stop,
    decode_batch: Callable[..., Any] | None,
    worker: Sequence[str],
) -> Alone | Pool:
    """This process with a model of its own, or workers: at most as many as asked for.

    More than one are worker processes, be it one that this machine has the processors for; so is one where a part
    ended its process again and again.
    """
    if desk.worn:
        log.warning("a part ended its process %d times: parts are decoded in a process of their own", MAX_ATTEMPTS)
    wanted = number(job, model)
    if wanted > 1 or desk.worn:
        return workers(
            job,
            model,
            at_most(wanted, model),
            begin=desk.begin,
            made_in=desk.made_in,
            on_batch=desk.progress.batch,
            stop=stop,
            command=worker,
        )

    def hung(why: str) -> None:
        desk.hung()
        stop.leave(f"{why}; run the same command again to continue")

    watch = Watch(job.launch.hang_s, hung)

    def step() -> None:
        watch.beat()
        stop.check()

    with explaining("loading the model"):
        replica = Replica(job, model, tokenizer, check_stop=step, on_batch=desk.progress.batch, decode=decode_batch)
    watch.rest()
    gc.freeze()  # the libraries' objects stay: looking through them again and again took a fifth of a fast job's time
    gc.set_threshold(100_000, 20, 20)
    desk.made_in(replica.environment)
    return Alone(replica, desk.begin, watch)


class Alone:
    """This process decodes."""

    def __init__(self, replica: Replica, begin: Callable[[Task], int], watch: Watch) -> None:
        self._replica, self._begin, self._watch = replica, begin, watch

    def __enter__(self) -> Alone:
        self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__()

    def give(self, task: Task) -> Iterator[Task]:
        """Decode a task and give it back."""
        task.tries = self._begin(task)
        self._watch.beat()
        try:
            task.results = dict(enumerate(self._replica.translate(task.items)))
        finally:
            self._watch.rest()
        task.notes = list(self._replica.decode.take_degraded())
        yield task

    def drain(self) -> Iterator[Task]:
        """Nothing is ever under way."""
        return iter(())


def workers(
    job: TranslateJob,
    model: Any,
    num: int,
    *,
    begin: Callable[[Task], int],
    made_in: Callable[[dict[str, Any]], None],
    on_batch: Callable[[int, int], None],
    stop: Stop,
    command: Sequence[str] = COMMAND,
) -> Pool:
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
        made_in(environment)

    return Pool(
        command,
        environments(job, model, num),
        job,
        begin=begin,
        give_up=given_up,
        check_ready=check_ready,
        on_batch=on_batch,
        check_stop=stop.check,
        stopping=lambda: stop.requested,
        hang_s=job.launch.hang_s,
    )


def number(job: TranslateJob, model: Any) -> int:
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


def at_most(wanted: int, model: Any) -> int:
    """How many workers there may be: on a CPU, not more than processors that this process may use."""
    most = wanted if model.on_gpu else min(wanted, processors())
    if most < wanted:
        log.warning(
            "launch.workers=%d, but this process may use %d of the machine's processors: at most %d worker%s at a time",
            wanted,
            most,
            most,
            "" if most == 1 else "s",
        )
    return most


def environments(job: TranslateJob, model: Any, num: int) -> list[Mapping[str, str]]:
    """What each worker's environment has beyond this process's own: its GPUs, or its share of the CPU's threads."""
    here = str(Path(__file__).parent.parent)
    path = {"PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}
    if not model.on_gpu:
        threads = job.launch.num_threads or max(1, processors() // num)
        return [{**path, "OMP_NUM_THREADS": str(threads)}] * num
    shown = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    made: list[Mapping[str, str]] = []
    for devices in model.placement.replicas[:num]:
        indices = [int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")]
        made.append({**path, "CUDA_VISIBLE_DEVICES": ",".join(shown[i] if shown else str(i) for i in indices)})
    return made


def given_up(prompt: Prompt, reason: str) -> Translation:
    """What becomes of a segment that takes its worker down, alone."""
    return Translation(prompt, "", "crash", message=f"decoding this row alone ended the process ({reason})")
