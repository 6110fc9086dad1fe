"""Cut a job into shards for many tasks: read each input once and write the plan that `shard.index=` works by.

The plan is `.hymt/plan.json` in the folder of the job: where each shard lies and which bytes it has. It is made under
the folder's lease and never changes; another plan in the folder is refused. Loads no weights.
"""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import signals
from hymt_batch.device_map.settings import gib
from hymt_batch.doctor import preflight
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.launch.prepared_job import is_called_by_launcher
from hymt_batch.model import detect_devices, prepare
from hymt_batch.records import plural
from hymt_batch.run import preparation
from hymt_batch.run.plan import Plan, open_inputs, open_output
from hymt_batch.run.reporter import Reporter, format_duration
from hymt_batch.shard import format_units
from hymt_batch.source import stream
from hymt_batch.write import shard_plan
from hymt_batch.write.claim import REFUSE_TASKS, TaskRule
from hymt_batch.write.shard_plan import ShardPlan

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import PrepareJob

log = logging.getLogger(__name__)

MAX_LISTED = 5  # files that are read from their start


def run(job: PrepareJob) -> ExitCode:
    """Prepare the job and print its shards.

    Raises:
        HymtError: The job cannot be prepared; IdentityError if another plan is in the folder.
    """
    with Reporter("off", job.launch.log_detail.value) as reporter:
        if text := prepare_shards(job):
            reporter.print_result(text)
    return ExitCode.COMPLETE


def prepare_shards(job: PrepareJob) -> str:
    """Write the plan of a job, unless the folder has it already; return what to tell the user, which may be ""."""
    stop = signals.install()
    if stream.needs_spool(job.source):
        raise ConfigError(
            f"source.path={job.source.path} cannot be read by many tasks",
            fix="Write the rows to a file that all machines see, and set source.path=FILE.",
        )
    with open_inputs(job, stop) as inputs:
        preflight.check(job, inputs)
        model = prepare_for_workers(job)
        job = replace(job, batch=preparation.longer_parts(job.batch, model, job.part_s))
        plan = Plan.resolve(job, model)
        earlier = None if job.overwrite else shard_plan.read_if_any(OS_FS, folder_of(job))
        if earlier is not None and job.on_input_change.is_accepted:
            raise ConfigError(
                f"on_input_change={job.on_input_change.value} does not go with {folder_of(job)}, which is prepared",
                why="it would remove the plan by which the tasks work",
                fix="Drop it to go on with this plan. For a changed input, set overwrite=true to start over, or "
                "name=ANOTHER for a second job.",
            )
        tasks = REFUSE_TASKS if earlier is None else TaskRule(ignore=True)  # a rerun disturbs nobody
        with open_output(job, plan, inputs, stop, tasks) as output:
            if output.is_complete:
                return "" if is_called_by_launcher() else f"{output.folder} is complete: nothing is left to translate"
            _, of_folder = plan.of_folder(job, output.identity, has_measures=output.has_measures)
            if earlier is not None and of_folder.part_limits != plan.part_limits:
                raise preparation.other_plan_error(output.folder, "its parts have other sizes (devices=, part_s=)")
            inputs.plan_version = of_folder.part_limits.plan
            made = preparation.make_plan(
                job, output.job_record, inputs, of_folder.part_limits, model, stop.raise_if_requested
            )
            if earlier is None:
                shard_plan.write(output.fs, output.folder, made)
            else:
                preparation.check_same(made, earlier, output.folder)
            return describe(job, made, model, was_prepared=earlier is not None)


def folder_of(job: PrepareJob) -> Path:
    return Path(job.output_dir) / str(job.name)


def prepare_for_workers(job: PrepareJob) -> PreparedModel:
    """Prepare the model as on the machines of the tasks: with devices=, for those instead of this machine's."""
    if job.devices is None:
        return prepare.prepare_model(job.model, job.device_map, job.launch.num_threads)
    find = partial(detect_devices.simulated_devices, job.devices)
    return prepare.prepare_model(job.model, job.device_map, job.launch.num_threads, find)


def describe(job: PrepareJob, plan: ShardPlan, model: PreparedModel, *, was_prepared: bool) -> str:
    """Return the plan as text: its shards, for what it was resolved, what reading costs, and the next commands."""
    folder = folder_of(job)
    per_task = job.shard.per_task
    num_tasks = -(-plan.num_units // per_task)
    each = f" of {plural(per_task, 'shard')} each" if per_task > 1 else ""
    lines = [
        f"{folder}: {'prepared already' if was_prepared else 'prepared'}: {plural(plan.num_units, 'shard')} with "
        f"{plural(plan.num_rows, 'row')} in {plural(len(plan.files), 'file')}",
        f"  for       {plan.devices['device']}, {plan.devices['dtype']}",
        f"  tasks     {format_units(range(num_tasks))}{each}",
    ]
    time = preparation.estimate_task(plan, model, per_task)
    if time.loads_too_often and num_tasks > 1:
        lines.append(
            f"  loading   by a rough estimate, a task works {format_duration(time.work_s)} and loads for "
            f"{format_duration(time.load_s)}: with shard.per_task={time.min_per_task}, loading takes less than 5 %"
        )
    for cost in preparation.costly_files(plan)[:MAX_LISTED]:
        lines.append(
            f"  reading   {cost.rel} can only be read from its start: each of its {cost.num_shards} shards reads "
            f"{gib(int(cost.mean_bytes))} on average. To spare that, decompress it, or split it into "
            f"{cost.num_shards} files, and prepare the job again with overwrite=true."
        )
    if is_called_by_launcher():
        return "\n".join(lines)
    name = f"name={shlex.quote(str(job.name))}"
    lines += [
        f"Next: hymt-batch translate with the same settings, {name} and shard.index=0 (or '0-7 9', or auto), then "
        f"hymt-batch merge {name}"
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("prepare")
