"""One task of a prepared job: which units it translates, from where it reads them, and whether it fits this machine.

The plan of the folder is the only source of the units; the environment tells at most which task this is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch.batch import PartLimits
from hymt_batch.errors import IdentityError
from hymt_batch.fs import OS_FS
from hymt_batch.launch.task_index import task_index
from hymt_batch.records import Shard, ShardRecord, plural
from hymt_batch.run import identity, stored_settings
from hymt_batch.run.plan import Plan, input_access, open_inputs, requested_job
from hymt_batch.shard import AUTO, format_units
from hymt_batch.signals import StopRequest
from hymt_batch.source.planned_inputs import PlannedInputs
from hymt_batch.source.planned_shards import ShardLimits
from hymt_batch.write import shard_plan
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.shard_plan import PlannedFile, ShardPlan
from hymt_batch.write.task_output import Task, TaskOutput, TaskSummary

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)

DISCOVERY_SETTINGS = ("format", "document", "pattern", "follow_symlinks", "subset", "split", "revision")
"""Settings of the source stage that decide, with its path, which files are found."""


def read_task(job: TranslateJob, stop: StopRequest) -> Task:
    """Return what this task translates, by the plan in the folder of the job.

    Raises:
        UsageError: The folder was not prepared, or its plan has no such shard.
        InputChangedError: source.path names other files than those of the plan.
    """
    folder = Path(job.output_dir) / str(job.name)
    plan = shard_plan.read(OS_FS, folder)
    task = None
    if job.shard.index == AUTO and (found := task_index(os.environ)) is not None:
        task = found.index
        log.info("task %d, from %s", task, found.source)
    units = job.shard.units(plan.num_units, task)
    if not _is_same_source(job, plan):  # perhaps the same files, mounted elsewhere
        with open_inputs(job, stop) as inputs:
            plan = plan.with_inputs(inputs.files)
    return Task(plan, units, LeaseTimes(job.launch.lease_ttl_s, job.launch.lease_beat_s))


def _is_same_source(job: TranslateJob, plan: ShardPlan) -> bool:
    stored: dict[str, Any] = plan.settings.get("source", {})
    current = stored_settings.to_json(job.source) | {"path": stored_settings.absolute_paths(job)}
    return all(stored.get(key) == current[key] for key in ("path", *DISCOVERY_SETTINGS))


def planned_inputs(job: TranslateJob, plan: ShardPlan) -> PlannedInputs:
    """Return the inputs of a prepared job; opens none."""
    folder = Path(job.output_dir) / str(job.name)
    return PlannedInputs(
        job.source,
        [file.input for file in plan.files],
        last_max_rows=plan.last_max_rows,
        added_fields=job.write.added_fields,
        plan_version=identity.stored_plan_version(folder),
        skipped=plan.skipped,
        formats=plan.formats,
    )


def check_hardware(plan: ShardPlan, model: PreparedModel) -> None:
    """Check that this machine is one for which the job was prepared; log a warning if only its speed differs.

    Raises:
        IdentityError: The model would have another dtype here, so that the translations would differ.
    """
    devices = plan.devices
    if devices["dtype"] != model.dtype:
        raise IdentityError(
            f"the job was prepared for {devices['device']}, where the model is in {devices['dtype']}; on this machine "
            f"it would be in {model.dtype}",
            why="one output never mixes settings",
            fix=f"Start the task on such a machine, set model.dtype={devices['dtype']}, or prepare the job again for "
            "this one with overwrite=true.",
        )
    if devices["on_gpu"] != model.on_gpu:
        names = {True: "a GPU", False: "a CPU"}
        log.warning(
            "the job was prepared for %s, and this machine translates on %s: its parts have a size for the former",
            names[devices["on_gpu"]],
            names[model.on_gpu],
        )


def open_task_output(job: TranslateJob, plan: Plan, inputs: PlannedInputs, task: Task) -> TaskOutput:
    """Open the folder of a prepared job for one task; see `TaskOutput.open`."""
    folder, requested = Path(job.output_dir) / str(job.name), requested_job(job, plan, inputs)
    return TaskOutput.open(folder, requested, input_access(job, inputs), job.write, task)


def read_units(inputs: PlannedInputs, output: TaskOutput, limits: PartLimits) -> Iterator[list[Shard]]:
    """Claim the units of a task one after the other, and yield the shards of each.

    Raises:
        InputChangedError: A shard has other bytes than when the job was prepared.
    """
    shard_limits = ShardLimits(limits.shard_rows, limits.shard_bytes)

    def read(file: PlannedFile, record: ShardRecord) -> Shard | None:
        return inputs.read_shard(file.input, file.max_rows, record.index, file.shard_record, shard_limits)

    for unit in output.begin_units():
        yield [output.check_shard(unit, file, record, read(file, record)) for file, record in unit.shards()]


def total_units(task: Task) -> int:
    """Return the sum of `end - start` over all shards of a task, for its progress."""
    return sum(record.end - record.start for index in task.units for _, record in task.plan.unit(index).shards())


def log_folder(folder: Path, task: Task) -> Path:
    """Return where a task logs: no folder gets the logs of more than a thousand shards."""
    first = task.units[0] // 1000 * 1000
    return folder / "logs" / f"shards-{first}-{first + 999}"


def render_summary(summary: TaskSummary) -> str:
    """Return what a task did, and what comes next."""
    count = "shard" if len(summary.units) == 1 else "shards"
    return (
        f"{count} {format_units(summary.units, 20)} of {summary.num_units} complete in {summary.folder}: "
        f"{plural(summary.num_rows_decoded, 'row')} translated\n"
        f"Next, when all tasks have ended: hymt-batch merge name={summary.folder.name}"
    )


def with_job_settings(plan: ShardPlan, name: str, output_dir: str) -> TranslateJob:
    """Return the job that was prepared, for its folder as it is reached now."""
    from hymt_batch.schema import TranslateJob

    job: TranslateJob = stored_settings.from_json(TranslateJob, plan.settings)
    return replace(job, name=name, output_dir=output_dir)
