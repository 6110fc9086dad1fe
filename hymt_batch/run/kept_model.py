"""What a sweep keeps loaded from one point to the next: the replica of this process, or the worker processes.

Loading a model often takes longer than translating the rows of a point. Points whose settings of model, placement,
threads and workers are equal share what is loaded; the engine is opened again where its own settings differ. After an
error nothing is kept, since its cause may lie in what was loaded.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from hymt_batch.model import prepare
from hymt_batch.run.replica import Replica
from hymt_batch.run.worker_process import WorkerProcess, WorkerSpec, end_all

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)


class KeptModel:
    """Hands what one job loaded to the next one; ends it at the end of the `with` block."""

    def __init__(self) -> None:
        self._settings: object = None  # of the model
        self._model: PreparedModel | None = None  # as it was before its weights filled the devices
        self._replica: Replica | None = None
        self._specs: list[WorkerSpec] = []
        self._workers: Mapping[int, WorkerProcess] = {}  # by their index in `_specs`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def prepare(self, job: TranslateJob) -> PreparedModel:
        """Prepare the model of a job as `prepare.prepare_model` does; first free what an earlier job loaded.

        If this model is loaded and its files did not change, the devices are not examined again: it occupies them.
        """
        settings = job.model_settings
        if self._model is not None and (self._replica or self._workers) and settings == self._settings:
            if prepare.is_unchanged(self._model):
                log.info("the model is loaded already")
                for warning in self._model.warnings:
                    log.warning("%s", warning)
                return self._model
            log.info("the model's files changed: it is loaded again")
        self._drop()
        self._model = prepare_alone(job)
        self._settings = settings
        return self._model

    def take_replica(self) -> Replica | None:
        """Return the replica of this process, and forget it; None if none is kept."""
        replica, self._replica = self._replica, None
        self._drop_loaded()
        return replica

    def take_workers(self, specs: Sequence[WorkerSpec]) -> Mapping[int, WorkerProcess]:
        """Return the workers that were started in this way, by their index, and forget them."""
        workers: Mapping[int, WorkerProcess] = {}
        if list(map(_start, specs)) == list(map(_start, self._specs)):
            workers, self._workers = self._workers, {}
        self._drop_loaded()
        return workers

    def keep_replica(self, replica: Replica) -> None:
        """Keep the replica of this process for the next job."""
        self._replica = replica

    def keep_workers(self, specs: Sequence[WorkerSpec], workers: Mapping[int, WorkerProcess]) -> None:
        """Keep workers for the next job, also those that still load their replica.

        Args:
            specs: How the workers of the pool are started.
            workers: Those that run, by their index in `specs`; other indexes are those of a last resort.
        """
        self._specs = list(specs)
        self._workers = {index: worker for index, worker in workers.items() if index < len(self._specs)}
        end_all([worker for index, worker in workers.items() if index not in self._workers])

    def _drop(self) -> None:
        self._settings = self._model = None
        self._drop_loaded()

    def _drop_loaded(self) -> None:
        """End the workers, and free the memory of the replica."""
        end_all(self._workers.values())
        self._workers = {}
        if self._replica is not None:
            self._replica.close()
            self._replica = None
            gc.unfreeze()  # the executor froze what was loaded
            gc.collect()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.empty_cache()


def prepare_alone(job: TranslateJob) -> PreparedModel:
    """Prepare the model of a job; see `prepare.prepare_model`."""
    return prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)


def _start(spec: WorkerSpec) -> tuple[str, dict[str, str]]:
    return spec.device, dict(spec.variables)
