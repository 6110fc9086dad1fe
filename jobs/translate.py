"""Translate a corpus; run the same command again to continue a stopped job.

The whole job (`translate`), or one task of a prepared job (`translate_shards`), in pipeline order: source -> segment
-> prompt -> batch -> decode -> check -> write. What happens to a segment (`decode_units`): a thread reads its shard
(`read_ahead` pulls it) and makes a prompt of it (`prepare_shard`); its part is planned and goes into the unit that the
executor pulls next (`pending_units`); the executor decodes it, checks it and tries it again if need be, in this process
or in a worker (`Replica.translate` in run/replica.py); its row is assembled and committed (`commit_result`). The last
shard of a file publishes the file; a task leaves that to `merge`.

Words: a part is committed as a whole, and a unit is decoded as a whole: one part, or all parts of a run of small files.
Shards come in groups, each of which gives whole units: one shard, or all shards of such a run. A divided row is too
long for one part: it is decoded and committed in runs of its segments, and joined when the last of them is there.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain, compress
from typing import TYPE_CHECKING, TypeAlias

from hymt_batch import batch, prompt, segment, signals
from hymt_batch.check.language_id import row_identifier
from hymt_batch.decode import token_limit
from hymt_batch.doctor import preflight
from hymt_batch.errors import ExitCode
from hymt_batch.records import Part, PreparedShard, Shard
from hymt_batch.run import error_advice, kept_settings, run_status, stderr_capture, stdin_job
from hymt_batch.run import executor as executors  # `executor` and `task` are variables below
from hymt_batch.run import task as tasks
from hymt_batch.run.commit_result import commit_divided_row, commit_known, commit_result
from hymt_batch.run.executor import OpenExecutor
from hymt_batch.run.finish import close_folder, finish, result_code
from hymt_batch.run.kept_model import KeptModel, prepare_alone
from hymt_batch.run.monitor import Monitor
from hymt_batch.run.plan import Plan, open_inputs, open_output
from hymt_batch.run.read_ahead import read_ahead
from hymt_batch.run.reporter import Reporter, next_command, render_summary
from hymt_batch.run.run_status import RunStatus
from hymt_batch.run.time_limit import TimeLimit
from hymt_batch.run.unit import Unit
from hymt_batch.run.unit_reader import read_units
from hymt_batch.sanitize import escape_line
from hymt_batch.signals import StopRequest
from hymt_batch.source import stream
from hymt_batch.source.shards import SkippedShard
from hymt_batch.write.job_output import JobOutput
from hymt_batch.write.summary import Summary
from hymt_batch.write.task_output import TaskSummary

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.model.tokenizer import Tokenizer
    from hymt_batch.schema import TranslateJob

PrepareModel: TypeAlias = "Callable[[TranslateJob], PreparedModel]"

log = logging.getLogger("hymt_batch.jobs.translate")  # the same name when run as `python -m jobs.translate`


def translate(
    job: TranslateJob,
    reporter: Reporter,
    open_executor: OpenExecutor = executors.open_executor,
    prepare_model: PrepareModel = prepare_alone,
) -> Summary:
    """Run one job until it is complete; raise HymtError if it cannot run or is stopped. What is committed is kept."""
    stop = signals.install()
    with open_inputs(job, stop) as inputs:  # standard input and hub data are stored first
        preflight.check(job, inputs)
        reporter.show_stage("checking the model")
        model = prepare_model(job)  # without its weights
        plan = Plan.resolve(job, model)  # prompt template, part limits, identity, environment
        # checks the identity and takes the lease before the weights are loaded, so that another job is refused at once
        with (
            open_output(job, plan, inputs, stop) as output,
            run_status.in_folder(reporter.run_status, output.folder, was_complete=output.is_complete),
        ):
            if not output.is_complete:
                kept_settings.save(output.fs, output.folder, job)  # for `retry`
            # an earlier version or another machine may have created the folder: its job keeps its `auto` values
            job, plan = plan.of_folder(job, output.identity, has_measures=output.has_measures)
            # as the job of the folder has it: the inputs were opened before the folder was known (on_mismatch=fork)
            inputs.plan_version = plan.part_limits.plan
            inputs.keep_in(output.folder)  # what was stored is linked there
            # a second signal and a hanging step end the process without leaving this block: they close the folder
            stop.on_exit(partial(close_folder, output, reporter, stop))
            if not output.is_complete:
                reporter.log_to(output.folder / "logs", job.launch.keep_logs)
                log.info("arguments=%s", escape_line(shlex.join(sys.argv[1:]), width=4000))
                output.assemble_outdated()  # published files whose output settings changed; decodes nothing
            if output.is_complete:  # it was, or nothing but assembling was left
                log.info("complete: nothing is left to decode")
                return finish(job, output, reporter, was_complete=True)
            cut_shards = partial(inputs.cut_shards, plan.part_limits.shard_rows, plan.part_limits.shard_bytes)
            # the output knows which files are decoded together, and which shards are complete
            shard_groups = read_units(output.units(), cut_shards, output.shard_record)
            monitor = Monitor(job, reporter, inputs.total_units(), inputs.files, output)
            decode_units(job, plan, model, output, shard_groups, monitor, stop, open_executor)
            return finish(job, output, reporter)


def translate_shards(
    job: TranslateJob,
    reporter: Reporter,
    open_executor: OpenExecutor = executors.open_executor,
    prepare_model: PrepareModel = prepare_alone,
) -> TaskSummary:
    """Translate the shards of one task of a prepared job, and publish nothing; any number of tasks may run at once.

    A shard on which another task works is skipped, and the rest is translated.

    Raises:
        HymtError: The folder was not prepared for this job or this machine, or the task is stopped; or, after the rest
            is translated, another task worked on one of its shards. What is committed is kept.
    """
    stop = signals.install()
    task = tasks.read_task(job, stop)
    with closing(tasks.planned_inputs(job, task.plan)) as inputs:
        preflight.check_process(job)  # `prepare` checked the inputs
        reporter.show_stage("checking the model")
        model = prepare_model(job)
        tasks.check_hardware(task.plan, model)
        plan = Plan.resolve(job, model)
        with tasks.open_task_output(job, plan, inputs, task) as output:
            job, plan = plan.of_folder(job, output.identity, has_measures=output.has_measures)
            stop.on_exit(output.close)
            if not output.is_complete:
                reporter.log_to(tasks.log_folder(output.folder, task))
                log.info("arguments=%s", escape_line(shlex.join(sys.argv[1:]), width=4000))
                shard_groups = tasks.read_units(inputs, output, plan.part_limits)
                # claimed before the weights are loaded: other tasks may work on all of them
                first_group = next(shard_groups, None)  # claims its shards
                if first_group is not None:  # what follows shows and checks the shards of this task alone
                    monitor = Monitor(job, reporter, tasks.total_units(task))
                    shard_groups = chain([first_group], shard_groups)
                    decode_units(job, plan, model, output, shard_groups, monitor, stop, open_executor)
            return output.summarize()  # raises if another task works on one of its shards


def decode_units(
    job: TranslateJob,
    plan: Plan,
    model: PreparedModel,
    output: JobOutput,
    shard_groups: Iterator[Sequence[Shard | SkippedShard]],
    monitor: Monitor,
    stop: StopRequest,
    open_executor: OpenExecutor,
) -> None:
    """Decode what is missing of the given shards, and commit it; raise if a stop was requested."""
    tokenizer = model.load_tokenizer(add_generation_prompt=job.add_generation_prompt)
    prompt.check_template(tokenizer, plan.template)
    # source: read ahead in a thread, which also segments and prompts
    prepare_next = partial(prepare_shards, job, plan, tokenizer)
    close_hung = partial(output.close, why="reading, splitting or encoding rows exceeded launch.hang_s")
    with (
        monitor,
        open_executor(job, model, tokenizer, output, stop, monitor.add_batch) as executor,
        closing(
            read_ahead(shard_groups, prepare_next, job.launch, stop, on_wait=monitor.refresh, before_exit=close_hung)
        ) as prepared_groups,
    ):
        stop.allow_drain(job.launch.grace_s)  # from here on, a stop request lets what is being decoded end
        time_limit = TimeLimit(os.environ)  # of a scheduler: no unit begins that would not end before it
        units = pending_units(prepared_groups, job, plan, output, monitor)
        identify = row_identifier(job.check.flag, job.tgt_lang)
        for result in executor.run(time_limit.units(units, stop)):  # decode, and check each translation
            part = result.part
            time_limit.end_part(part)
            rows = commit_result(output, result, identify)  # check: assemble the rows; write
            monitor.add_part(part, rows, one_line=output.is_one_line(part.shard.input))
            output.finish_if_complete(part.shard)  # if this was its last part; the last shard publishes the file
        if not output.is_complete:  # a stop after the last part changes nothing
            stop.raise_if_requested()


def pending_units(
    prepared_groups: Iterable[list[PreparedShard | SkippedShard]],
    job: TranslateJob,
    plan: Plan,
    output: JobOutput,
    monitor: Monitor,
) -> Iterator[Unit]:
    """Yield what is not committed yet, shard by shard in planned order; publish the files of which nothing is missing.

    A group of several shards is a run of small files, and one unit. If any of its parts is missing, all of them are
    decoded again, because a text may depend on its batch (see `Unit`); only the missing ones are committed. The runs of
    the divided rows of a group come last, each as a unit of its own.
    """
    max_new_tokens = partial(token_limit.max_new_tokens, job.decode, plan.max_context)
    for group in prepared_groups:
        unit_parts: list[Part] = []  # committed or not
        missing: list[Part] = []
        divided: list[Part] = []  # not committed
        for prepared in group:
            if isinstance(prepared, SkippedShard):  # an earlier run committed all its parts
                monitor.skip_shard(prepared.input, prepared.record)
                output.finish_skipped_shard(prepared.input, prepared.record)
                continue
            # batch: what is committed together
            shard, prompts, rejections = prepared.shard, prepared.prompts, prepared.rejections
            known = output.find_known(shard, prompts)  # rows that the earlier version of the file has
            parts = batch.plan_parts(shard, prompts, rejections, plan.part_limits, max_new_tokens, known.rows)
            monitor.add_shard(shard, parts)
            for part in parts:
                if output.has(part):  # decoded from exactly these rows; raises if the input changed
                    monitor.skip_part(part)
                elif part.known:  # it has known rows only, and no prompts
                    commit_known(output, part, known)
                    monitor.skip_part(part)
                elif part.is_divided:
                    divided.append(part)
                else:
                    monitor.begin_part(part)
                    missing.append(part)
                    if len(group) == 1:
                        yield Unit.of_part(part)
            unit_parts += [part for part in parts if not part.is_divided]
            # here for a shard whose parts were all committed: no result of it follows. In others this does nothing
            output.finish_if_complete(shard)
        if missing and len(group) > 1:
            output.make_folders([part.shard.input for part in missing])  # at once, to spare a sync for each file
            yield Unit(unit_parts, missing)
        for part in divided:
            for run in missing_runs(part, output, job, monitor):
                monitor.begin_part(run)
                yield Unit.of_part(run)
            output.finish_if_complete(part.shard)  # here for a row whose runs were all committed, for the same reason


def missing_runs(part: Part, output: JobOutput, job: TranslateJob, monitor: Monitor) -> list[Part]:
    """Return the runs of a divided row that are not committed yet; if none is missing, the row is committed."""
    runs = part.segment_runs()
    # `has` also tells the output of a run. All are asked for first: the last result joins the row only if all are known
    are_committed = [output.has(run) for run in runs]
    if all(are_committed):
        commit_divided_row(output, part, row_identifier(job.check.flag, job.tgt_lang))
        monitor.skip_part(part)
        return []
    for run in compress(runs, are_committed):
        monitor.skip_part(run)
    return [run for run, is_there in zip(runs, are_committed, strict=True) if not is_there]


def prepare_shards(
    job: TranslateJob,
    plan: Plan,
    tokenizer: Tokenizer,
    shards: Sequence[Shard | SkippedShard],
    check_stop: Callable[[], None],
) -> list[PreparedShard | SkippedShard]:
    """Prepare the shards that are decoded together; runs in the reader's thread while other parts are decoded."""
    return [prepare_shard(job, plan, tokenizer, shard, check_stop) for shard in shards]


def prepare_shard(
    job: TranslateJob, plan: Plan, tokenizer: Tokenizer, shard: Shard | SkippedShard, check_stop: Callable[[], None]
) -> PreparedShard | SkippedShard:
    """Split and encode the rows of a shard."""
    if isinstance(shard, SkippedShard):
        return shard
    rows, plan_version = shard.documents, plan.part_limits.plan
    segments, rejected = segment.split(
        rows,
        tokenizer.count,
        job.segment,
        plan_version,
        keeps_codes=job.check.code_rows,  # tags and placeholders in rows too; texts of documents always keep theirs
        find_token_starts=tokenizer.token_starts,
        check_stop=check_stop,
    )
    prompts, rejected_later = prompt.render(
        segments,
        rows,  # with the ids and the languages
        tokenizer,
        plan.template,
        plan.max_context,
        plan_version,
        check_stop=check_stop,
    )
    return PreparedShard(shard, prompts, {**rejected, **rejected_later})


@contextmanager
def open_sweep() -> Iterator[Callable[[TranslateJob], ExitCode]]:
    """Context with a function like `run` for the points of a sweep: those with the same model load it once."""
    with KeptModel() as kept:
        yield partial(run, kept=kept)


def run(job: TranslateJob, kept: KeptModel | None = None) -> ExitCode:
    """Run the job and print its result.

    Args:
        job: All settings.
        kept: Has the model that an earlier job of this process loaded, and keeps that of this job.

    Returns:
        COMPLETE; TOO_MANY_ERRORS if the share of error rows is above check.max_error_rate; WARNINGS if there were
        warnings and strict=true is set.

    Raises:
        HymtError: See `translate`.
    """
    if job.shard.is_task:  # shard.index= is set
        return run_task(job, kept)
    stop = signals.install()
    with (
        Reporter(job.launch.progress.value, job.launch.log_detail.value) as reporter,
        RunStatus(job) as status,
        stderr_capture.capture(),
    ):
        reporter.run_status = status  # for `translate`, which knows its folder
        stop.flush_output = stderr_capture.flush  # before a signal ends the process
        reporter.show_stage("loading")
        if stream.is_stdin(job.source.path):
            # prints its result itself, to stderr; keeps no model, because standard input can be read only once
            summary = stdin_job.run(job, reporter, translate)
        else:
            summary = translate(job, reporter, *shared_loaders(kept))
            reporter.print_result(f"{render_summary(summary, reporter.sample_pairs)}\n\n{next_command(job, summary)}")
        code = result_code(job, summary, reporter)
        if code is ExitCode.TOO_MANY_ERRORS:
            log.error("%s", error_advice.describe(job, summary))
        elif code is ExitCode.WARNINGS:
            reporter.log_strict()
        status.end(code)
    return code


def run_task(job: TranslateJob, kept: KeptModel | None = None) -> ExitCode:
    """Translate some shards of a prepared job and print what was done; `status` tells of all tasks, not of one.

    Returns:
        COMPLETE if all shards of the task are; WARNINGS if there were warnings and strict=true is set.
    """
    stop = signals.install()
    with Reporter(job.launch.progress.value, job.launch.log_detail.value) as reporter, stderr_capture.capture():
        stop.flush_output = stderr_capture.flush  # before a signal ends the process
        reporter.show_stage("loading")
        reporter.print_result(tasks.render_summary(translate_shards(job, reporter, *shared_loaders(kept))))
        if job.strict and reporter.num_warnings:
            reporter.log_strict()
            return ExitCode.WARNINGS
    return ExitCode.COMPLETE


def shared_loaders(kept: KeptModel | None) -> tuple[OpenExecutor, PrepareModel] | tuple[()]:
    """Return `open_executor` and `prepare_model` for a job that shares its model with others; () if it is alone."""
    return (partial(executors.open_executor, kept=kept), kept.prepare) if kept else ()


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("translate")
