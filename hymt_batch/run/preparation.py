"""Make the plan of a job: read each input once, and write down where its shards are and which bytes they have."""

from __future__ import annotations

import contextlib
import logging
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
