"""Make the plan of a job: read each input once, and write down where its shards are and which bytes they have."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hymt_batch import batch
from hymt_batch.batch import BatchConfig, PartLimits
from hymt_batch.errors import IdentityError, InputChangedError
from hymt_batch.manifest import JobRecord
from hymt_batch.records import plural
from hymt_batch.run import stored_settings
from hymt_batch.source.inputs import Inputs
from hymt_batch.write.input_changes import hash_input
from hymt_batch.write.part import make_shard_record
from hymt_batch.write.shard_plan import PlannedFile, ShardPlan
from hymt_batch.write.shard_table import ShardTable

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import PrepareJob

log = logging.getLogger(__name__)

DEFAULT_PART_S = 20.0


def longer_parts(config: BatchConfig, model: PreparedModel, part_s: float) -> BatchConfig:
    """Return the settings with parts of about `part_s` seconds, where their sizes are `auto`.

    The runs of a long row stay as short as they are: a kill loses at most what is being decoded.
    """
    if part_s == DEFAULT_PART_S:
        return config
    limits, factor = batch.resolve_part_limits(config, model.num_parameters, model.on_gpu), part_s / DEFAULT_PART_S
    changes: dict[str, Any] = {}
    if config.part_rows == "auto":
        changes["part_rows"] = max(1, min(config.shard_rows, int(limits.part_rows * factor)))
    if config.part_tokens == "auto":
        changes["part_tokens"] = max(64, int(limits.part_tokens * factor))
    if config.part_new_tokens == "auto" and limits.part_new_tokens is not None:
        changes["part_new_tokens"] = limits.part_new_tokens
    return replace(config, **changes)


def survey(inputs: Inputs, limits: PartLimits, check_stop: Callable[[], None]) -> Iterator[PlannedFile]:
    """Read every input once, and yield its checksum and its shards."""
    for file in inputs.survey():
        with contextlib.closing(file):
            shards = ShardTable()
            for shard in file.shards(limits.shard_rows, limits.shard_bytes):
                shards.add(make_shard_record(shard))
                check_stop()
            input = replace(file.input, path=os.path.abspath(file.input.path))
            sha256 = file.sha256()
            size = file.num_bytes
            if sha256 is None:
                hashed = hash_input(input)
                size, sha256 = int(hashed["bytes"]), str(hashed["sha256"])
            yield PlannedFile(input, size, sha256, file.max_rows, shards, can_seek=file.can_seek)
            check_stop()


def make_plan(
    job: PrepareJob,
    folder_job: JobRecord,
    inputs: Inputs,
    limits: PartLimits,
    model: PreparedModel,
    check_stop: Callable[[], None],
) -> ShardPlan:
    """Return the plan of a job; reads all inputs.

    Args:
        job: All settings.
        folder_job: The job of the folder, with its units.
        inputs: The inputs.
        limits: How they are cut.
        model: The model, prepared for the devices of the tasks.
        check_stop: Called for each shard; raises if a stop was requested.
    """
    devices = {
        "device": str(model.environment["device"]),
        "dtype": model.dtype,
        "on_gpu": model.on_gpu,
        "simulated": job.devices,
    }
    return ShardPlan(
        folder_job.identity_sha256,
        list(survey(inputs, limits, check_stop)),
        folder_job.units,
        devices,
        stored_settings.of_job(job),
        inputs.formats,
        inputs.skipped,
        folder_job.layout,
    )


def check_same(plan: ShardPlan, earlier: ShardPlan, folder: object) -> None:
    """Check that a plan is that of the folder.

    Raises:
        IdentityError: It is another plan.
        InputChangedError: It is the same job, but its inputs changed.
    """
    if plan.identity_sha256 == earlier.identity_sha256 and plan.contents != earlier.contents:
        sums = {file.input.rel: file.sha256 for file in earlier.files}
        changed = [file.input.rel for file in plan.files if sums.get(file.input.rel) != file.sha256]
        names = ", ".join(changed[:10]) + (f" and {len(changed) - 10} more" if len(changed) > 10 else "")
        raise InputChangedError(
            f"{plural(len(changed), 'file')} changed since {folder} was prepared: {names}"
            if changed
            else f"the files of {folder} are cut into other shards now",
            fix="Restore them, or set overwrite=true to start over, or name=ANOTHER for a second job.",
        )
    if plan.contents != earlier.contents:
        raise other_plan_error(folder)


def other_plan_error(folder: object, why: str = "") -> IdentityError:
    """Return the error for a folder that holds another plan."""
    return IdentityError(
        f"{folder} is prepared with another plan",
        why=why or "its job has other settings",
        fix="Set name=ANOTHER for a second job, or overwrite=true to start over.",
    )


@dataclass(frozen=True, slots=True)
class ReadingCost:
    """What reading by shards costs the tasks, where a file can only be read from its start."""

    rel: str
    num_shards: int
    num_bytes: int

    @property
    def mean_bytes(self) -> float:
        """Bytes that a task of one shard reads on average."""
        return self.num_bytes * (self.num_shards + 1) / (2 * self.num_shards)


def costly_files(plan: ShardPlan) -> list[ReadingCost]:
    """Return the files of several shards that each task reads from the start, the largest first."""
    costs = [
        ReadingCost(file.input.rel, file.shards.end, file.num_bytes)
        for file in plan.files
        if not file.can_seek and file.shards.end > 1
    ]
    return sorted(costs, key=lambda cost: -cost.num_bytes)


START_S = 20.0
"""Estimate of the time until a task begins to load the model."""

WEIGHTS_BYTES_PER_S = 1 << 30
MAX_LOADING_SHARE = 0.05
MIN_TOKENS_PER_ROW = 32
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class TaskTime:
    """A rough estimate of how long a task takes, by which parts are sized too."""

    work_s: float  # of all shards of the task
    load_s: float  # to start it and to load the model
    min_per_task: int  # shards with which loading takes at most 5 % of a task

    @property
    def loads_too_often(self) -> bool:
        return self.load_s > MAX_LOADING_SHARE * (self.work_s + self.load_s)


def estimate_task(plan: ShardPlan, model: PreparedModel, per_task: int) -> TaskTime:
    """Estimate how long a task of `per_task` shards takes."""
    auto = batch.resolve_part_limits(BatchConfig(), model.num_parameters, model.on_gpu)
    num_bytes = sum(shard.end - shard.start for file in plan.files for shard in file.shards)
    num_tokens = max(num_bytes / BYTES_PER_TOKEN, plan.num_rows * MIN_TOKENS_PER_ROW)
    shard_s = num_tokens * DEFAULT_PART_S / auto.part_tokens / max(1, plan.num_units)
    load_s = START_S + model.num_parameters * model.dtype_bytes / WEIGHTS_BYTES_PER_S
    work_s = load_s * (1 / MAX_LOADING_SHARE - 1)
    min_per_task = min(max(1, plan.num_units), math.ceil(work_s / shard_s)) if shard_s else 1
    return TaskTime(shard_s * min(per_task, max(1, plan.num_units)), load_s, min_per_task)
