"""Decode failed, quarantined or flagged rows of a finished job again, also with another model or decoding.

The rows that are selected form a pass, a job of its own inside the folder: it can be stopped and continued. When all
its rows are decoded, the pass becomes part of the job, and the files that have such rows are written again. Only these
rows change, and a row that fails again stays as it was; the identity of the folder stays too.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hymt_batch import manifest, sanitize, signals
from hymt_batch.cli import validate
from hymt_batch.doctor import preflight
from hymt_batch.errors import ExitCode, HymtError, MissingError, PreflightError, UsageError
from hymt_batch.fs import OS_FS
from hymt_batch.launch.registry import Target
from hymt_batch.records import Shard
from hymt_batch.run import error_advice, executor, pass_shards, retry_pass, run_status, stderr_capture
from hymt_batch.run.candidates import Candidates, of_refinement, open_candidates
from hymt_batch.run.executor import OpenExecutor
from hymt_batch.run.finish import close_folder, finish, result_code
from hymt_batch.run.kept_model import KeptModel
from hymt_batch.run.monitor import Monitor
from hymt_batch.run.plan import Plan, open_folder
from hymt_batch.run.reporter import Reporter
from hymt_batch.run.retry_errors import open_job_inputs
from hymt_batch.run.retry_pass import Settings
from hymt_batch.run.retry_result import RetryResult
from hymt_batch.run.run_status import RunStatus
from hymt_batch.sanitize import escape_line
from hymt_batch.severity import SEVERITY
from hymt_batch.signals import StopRequest
from hymt_batch.source.inputs import Inputs
from hymt_batch.source.shards import SkippedShard
from hymt_batch.write import job_folders, passes
from hymt_batch.write.job_output import JobOutput
from hymt_batch.write.output import Output
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.passes import PassRecord
from hymt_batch.write.row_selection import SelectedRows

if TYPE_CHECKING:
    from hymt_batch.model.load import PreparedModel
    from hymt_batch.schema import RetryJob, TranslateJob

log = logging.getLogger("hymt_batch.jobs.retry")

DecodeUnits: TypeAlias = (
    "Callable[[TranslateJob, Plan, PreparedModel, JobOutput, Iterator[Sequence[Shard | SkippedShard]], Monitor, "
    "StopRequest, OpenExecutor], None]"
)
"""Decodes what is missing of some shards and commits it: `decode_units` in jobs/translate.py."""


def run(job: RetryJob, words: Sequence[str], decode_units: DecodeUnits) -> ExitCode:
    """Decode the rows again and print what became of them; of a sweep, at each point that is complete.

    Args:
        job: The settings of the command line.
        words: Its overrides, each KEY=VALUE.
        decode_units: Decodes and commits.

    Returns:
        COMPLETE, also if no row is selected; TOO_MANY_ERRORS and WARNINGS as `translate`. The worst of a sweep.

    Raises:
        HymtError: The folder is not that of a finished job, or the pass failed or was stopped.
    """
    stop = signals.install()
    if job.launch.target is not Target.local:
        raise UsageError(
            f"launch={job.launch.target.value} does not go with retry", fix="Drop it: a pass runs in this process."
        )
    parent = Path(job.output_dir) / job.name
    folders = job_folders.find(OS_FS, parent)
    codes: list[ExitCode] = []
    with KeptModel() as kept:
        open_executor = executor.open_executor if len(folders) == 1 else partial(executor.open_executor, kept=kept)
        for folder in folders:
            retry = partial(retry_folder, job, words, folder, stop, decode_units, open_executor, kept)
            if folders == [parent]:
                return retry()
            codes.append(run_point(folder, retry))
            if codes[-1] is ExitCode.STOPPED:
                break
    return max(codes, key=SEVERITY.index)


def run_point(folder: Path, retry: Callable[[], ExitCode]) -> ExitCode:
    """Run the pass of one point of a sweep; its error does not stop the others."""
    print(sanitize.sanitize_text(f"hymt-batch: {folder.name}"), file=sys.stderr, flush=True)
    try:
        return retry()
    except HymtError as error:
        print(sanitize.sanitize_text(f"hymt-batch: {error}"), file=sys.stderr, flush=True)
        return error.exit_code


def retry_folder(
    job: RetryJob,
    words: Sequence[str],
    folder: Path,
    stop: StopRequest,
    decode_units: DecodeUnits,
    open_executor: OpenExecutor,
    kept: KeptModel,
) -> ExitCode:
    """Decode the rows of one folder again, and print the result."""
    record = retry_pass.read_job(folder)
    settings = of_refinement(retry_pass.read_settings(job, words, folder, record))
    validate.validate_job(settings.of_pass)
    with (
        Reporter(job.launch.progress.value, job.launch.log_detail.value) as reporter,
        RunStatus(settings.job) as status,
        stderr_capture.capture(),
    ):
        reporter.run_status = status
        stop.flush_output = stderr_capture.flush
        reporter.show_stage("loading")
        runner = Retry(job, settings, record, reporter, stop, decode_units, open_executor, kept)
        result = runner.run(folder)
        reporter.print_result(result.to_json() if job.format.value == "json" else result.describe())
        if result.code is ExitCode.TOO_MANY_ERRORS and result.summary is not None:
            log.error("%s", error_advice.describe(settings.of_pass, result.summary))
        elif result.code is ExitCode.WARNINGS:
            reporter.log_strict()
        status.end(result.code)
    return result.code


@dataclass(frozen=True, slots=True)
class Retry:
    """One run of `retry` in one folder."""

    job: RetryJob
    settings: Settings
    record: manifest.JobRecord
    reporter: Reporter
    stop: StopRequest
    decode_units: DecodeUnits
    open_executor: OpenExecutor
    kept: KeptModel

    def run(self, folder: Path) -> RetryResult:
        """Select the rows, or go on with a pass that was stopped; decode them; publish the files that have them."""
        with open_job_inputs(self.settings.job, self.stop) as inputs:
            requested = RequestedJob(replace(self.record, inputs=inputs.files), skipped=inputs.skipped)
            with open_folder(self.settings.job, requested, inputs, self.stop) as output:
                self.stop.on_exit(partial(close_folder, output, self.reporter, self.stop))
                last = None if output.is_finished else self.publish_last_pass(output)
                self.check_rows(output)
                candidates = open_candidates(self.settings, self.job, folder)
                stopped = None if self.job.overwrite else output.read_stopped_pass()
                is_new = stopped is None and last is None
                selected = self.select_rows(output, candidates) if is_new else SelectedRows()
                if is_new and not selected.num_rows:
                    return RetryResult(str(folder))  # before the model is looked at
                preflight.check_process(self.settings.of_pass)
                self.reporter.show_stage("checking the model")
                model = self.kept.prepare(self.settings.of_pass)
                pass_job, plan = retry_pass.resolve_plan(self.settings, model, output.job_record.identity)
                criteria = retry_pass.criteria_of(self.job)
                if candidates is not None:
                    plan = candidates.planned(plan)
                if stopped is not None:
                    retry_pass.check_same(stopped, plan, criteria)
                elif last is not None:
                    if retry_pass.is_same(output.job_record.passes[-1], plan, criteria):
                        return last  # this same command was killed while it published the pass
                    if not (selected := self.select_rows(output, candidates)).num_rows:
                        return last
                with run_status.in_folder(self.reporter.run_status, folder, was_complete=False):
                    self.reporter.log_to(folder / "logs", self.job.launch.keep_logs)
                    log.info("arguments=%s", escape_line(shlex.join(sys.argv[1:]), 4000))
                    if note := retry_pass.same_settings_note(output.job_record.identity, plan):
                        log.info("%s", note)
                    pass_record = stopped or self.begin_pass(output, plan, selected)
                    return self.decode(output, inputs, pass_record, pass_job, plan, model, candidates)

    def select_rows(self, output: Output, candidates: Candidates | None) -> SelectedRows:
        """Return the rows that the command line selects; of a refinement, those that have enough candidates."""
        self.reporter.show_stage("selecting rows")
        check_stop = self.stop.raise_if_requested
        selected = output.select_rows(retry_pass.criteria_of(self.job), check_stop)
        return selected if candidates is None else candidates.select(selected, check_stop)

    def publish_last_pass(self, output: Output) -> RetryResult | None:
        """Publish what a run left that was killed after its pass became part of the job; None if there is no pass.

        Raises:
            MissingError: The job itself is not complete.
        """
        number = passes.next_number(output.job_record) - 1
        output.assemble_outdated()
        if not output.is_complete:
            raise MissingError(
                f"{output.folder} is not complete",
                why="only rows of a finished job can be decoded again",
                fix="Run hymt-batch translate with the settings of the job first.",
            )
        if not number:
            finish(self.settings.job, output, self.reporter)
            return None
        return self.publish(output, number, num_decoded=0)

    def check_rows(self, output: Output) -> None:
        """Check that the rows of a complete job were kept.

        Raises:
            PreflightError: They were not.
        """
        if output.is_bare or not self.settings.job.write.keep_rows:
            reason = ".hymt is missing" if output.is_bare else "it ran with write.keep_rows=false"
            raise PreflightError(
                f"the rows of {output.folder} were not kept",
                why=reason,
                fix="Translate the rows in a job of their own, or the job again with overwrite=true.",
            )

    def begin_pass(self, output: Output, plan: Plan, selected: SelectedRows) -> PassRecord:
        """Write which rows a new pass has; from then on, the same command goes on with them."""
        number = passes.next_number(output.job_record)
        criteria = retry_pass.criteria_of(self.job)
        record = PassRecord(
            number,
            manifest.json_roundtrip(plan.identity),
            manifest.json_roundtrip(plan.environment),
            tuple(sorted(criteria.statuses)),
            tuple(sorted(criteria.flags)),
            tuple(selected.files),
        )
        output.create_pass(record, replaces=self.job.overwrite)
        reasons = " ".join(f"{name}={count}" for name, count in sorted(selected.reasons.items()))
        log.info("pass=%d rows=%d files=%d %s", number, record.num_rows, len(record.files), reasons)
        return record

    def decode(
        self,
        output: Output,
        inputs: Inputs,
        record: PassRecord,
        pass_job: TranslateJob,
        plan: Plan,
        model: PreparedModel,
        candidates: Candidates | None,
    ) -> RetryResult:
        """Decode what is missing of a pass, make it a part of the job, and publish the files that have its rows."""
        of_pass = output.open_pass(record)
        by_id = {input.file_id: input for input in output.job_record.inputs}
        by_id |= {input.file_id: input for input in inputs.files}
        candidates_of = pass_shards.no_candidates if candidates is None else candidates.of_row
        shards = pass_shards.cut_shards(
            record, by_id, inputs.read, plan.part_limits, of_pass.shard_record, candidates_of
        )
        monitor = Monitor(pass_job, self.reporter, record.num_rows)
        self.decode_units(pass_job, plan, model, of_pass, shards, monitor, self.stop, self.open_executor)
        of_pass.end()
        if candidates is not None:
            candidates.check_unchanged()
        output.add_pass(record)
        output.assemble_outdated()
        return self.publish(output, record.number, of_pass.num_rows_committed)

    def publish(self, output: Output, number: int, num_decoded: int) -> RetryResult:
        """Write the manifest, and return what became of the rows of a pass."""
        summary = finish(self.settings.job, output, self.reporter)
        kept = max(0, summary.texts - num_decoded)
        summary = replace(summary, num_rows_decoded=num_decoded, num_rows_kept=kept)
        (listed,) = [item for item in manifest.read(output.fs, output.folder)["passes"] if item["number"] == number]
        code = result_code(self.settings.of_pass, summary, self.reporter)
        if self.job.strict and code is ExitCode.COMPLETE and self.reporter.num_warnings:
            code = ExitCode.WARNINGS
        folder, counts = str(output.folder), (listed["rows"], listed["replaced"])
        return RetryResult(folder, number, *counts, num_decoded, summary, code)


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("retry")
