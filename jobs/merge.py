"""Publish a prepared job when all its shards are translated: `hymt-batch merge name=NAME`.

Takes the folder's lease, waits for tasks that still work on a missing shard, and then assembles and publishes every
file as `translate` does. Refuses while a shard is missing. Loads no model and imports no torch.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import manifest, signals
from hymt_batch.errors import ExitCode, IdentityError, MissingError
from hymt_batch.fs import OS_FS
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import StateDamagedError
from hymt_batch.run import error_advice, run_status
from hymt_batch.run import task as tasks
from hymt_batch.run.finish import close_folder, finish, result_code
from hymt_batch.run.plan import input_access
from hymt_batch.run.reporter import Reporter, next_command, render_summary
from hymt_batch.run.run_status import RunStatus
from hymt_batch.shard import format_units
from hymt_batch.signals import StopRequest
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import job_folders, shard_plan
from hymt_batch.write.claim import TaskRule
from hymt_batch.write.lease import LeaseTimes
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.shard_plan import ShardPlan
from hymt_batch.write.summary import Summary
from hymt_batch.write.unit_progress import UnitProgress

if TYPE_CHECKING:
    from hymt_batch.schema import MergeJob, TranslateJob

log = logging.getLogger(__name__)


def run(job: MergeJob) -> ExitCode:
    """Publish the job and print its summary.

    Returns:
        COMPLETE; TOO_MANY_ERRORS if the share of error rows is above check.max_error_rate; WARNINGS if there were
        warnings and the job was prepared with strict=true.

    Raises:
        MissingError: A shard is missing.
        HymtError: The folder was not prepared, or another process owns it.
    """
    stop = signals.install()
    folder = Path(job.output_dir) / job.name
    fs = OS_FS.within(folder)
    job_folders.find(fs, folder)
    plan = shard_plan.read(fs, folder)
    translate_job = tasks.with_job_settings(plan, job.name, job.output_dir)
    with Reporter("off", translate_job.launch.log_detail.value) as reporter, RunStatus(translate_job) as status:
        reporter.run_status = status
        summary = merge(translate_job, plan, stop, reporter)
        reporter.print_result(f"{render_summary(summary, [])}\n\n{next_command(translate_job, summary)}")
        code = result_code(translate_job, summary, reporter)
        if code is ExitCode.TOO_MANY_ERRORS:
            log.error("%s", error_advice.describe(translate_job, summary))
        status.end(code)
    return code


def merge(job: TranslateJob, plan: ShardPlan, stop: StopRequest, reporter: Reporter) -> Summary:
    """Publish all files of a prepared job and its manifest.

    Raises:
        MissingError: A shard is missing; nothing is published then.
        HymtError: See `Output.open`.
    """
    folder = Path(job.output_dir) / str(job.name)
    with closing(tasks.planned_inputs(job, plan)) as inputs:
        requested = RequestedJob(read_job(OS_FS, folder, plan), skipped=tuple(plan.skipped))
        progress = UnitProgress(OS_FS.within(folder), folder, plan)
        rule = TaskRule(wait=True, check_stop=stop.raise_if_requested)
        times = LeaseTimes(job.launch.lease_ttl_s, job.launch.lease_beat_s)
        with (
            Output.open(folder, requested, input_access(job, inputs), job.write, times, tasks=rule) as output,
            run_status.in_folder(reporter.run_status, folder, was_complete=output.is_complete),
        ):
            stop.on_exit(partial(close_folder, output, reporter, stop))
            was_complete = output.is_complete
            if not was_complete:
                reporter.log_to(folder / "logs", job.launch.keep_logs)
                publish(output, plan, progress, stop)
            summary = finish(job, output, reporter, was_complete=was_complete)
            return summary if was_complete else replace(summary, num_shards_merged=plan.num_units)


def read_job(fs: Fs, folder: Path, plan: ShardPlan) -> manifest.JobRecord:
    """Return the job of a prepared folder, with the paths of its inputs.

    Raises:
        IdentityError: The folder has no job, or another one than its plan.
    """
    try:
        job = manifest.read_job(fs, folder)
        reason = "" if job.identity_sha256 == plan.identity_sha256 else "its plan is that of another job"
    except StateDamagedError as damage:
        reason = f".hymt/job.json: {damage}"
    if reason:
        raise IdentityError(
            f"{folder} cannot be merged",
            why=reason,
            fix="Run hymt-batch translate with the settings of the job: it also publishes what is translated.",
        )
    return replace(job, inputs=tuple(file.input for file in plan.files))


def publish(output: Output, plan: ShardPlan, progress: UnitProgress, stop: StopRequest) -> None:
    """Publish every file, if no shard is missing.

    Raises:
        MissingError: A shard is missing.
    """
    missing = []
    for unit in plan.units():  # a task that was killed may not have made the record of a shard whose parts it committed
        stop.raise_if_requested()
        with wrap_os_errors(f"the state of shard {unit.index}"):
            if not progress.is_complete(unit) and not all(
                output.finish_if_committed(file.input, record) for file, record in unit.shards()
            ):
                missing.append(unit.index)
    if missing:
        shards = format_units(missing, 20)
        raise MissingError(
            f"{len(missing)} of {plan.num_units} shards of {output.folder} are missing: {shards}",
            fix="Translate them with shard.index= and the settings of the job, and merge again; `hymt-batch missing` "
            "prints them.",
        )
    for file in plan.files:
        stop.raise_if_requested()
        for record in file.shards:
            if (found := output.shard_record(file.input, record.index)) is not None:
                output.finish_skipped_shard(file.input, found)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("merge")
