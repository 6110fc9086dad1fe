"""The end of a job: its manifest, its exit code, and the last words to the log and for `status`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hymt_batch.errors import ExitCode
from hymt_batch.records import count_error_rows
from hymt_batch.report import job_report
from hymt_batch.run import error_advice, track
from hymt_batch.run.reporter import Reporter
from hymt_batch.signals import StopRequest
from hymt_batch.write import run_progress
from hymt_batch.write.output import Output
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.summary import Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob

log = logging.getLogger(__name__)


def finish(job: TranslateJob, output: Output, reporter: Reporter, *, was_complete: bool = False) -> Summary:
    """Write the manifest, and tell log, `status` and tracker; a folder that was complete is not touched."""
    if job.launch.report and not output.is_finished:  # before the manifest, which is written last
        job_report.try_write(output.fs, output.folder, output.file_records())
    summary = output.finalize()
    recorded = run_progress.read(output.fs, output.folder)
    progress = RunProgress(
        job.check.max_error_rate,
        job.check.max_failed_files,
        summary.texts,
        share=1.0,
        seconds_left=0.0,
        timeline=recorded.timeline if recorded else (),
    )
    output.save_progress(progress, only_new_limit=was_complete)
    log.info(
        "complete: files=%d rows=%d errors=%d decoded_rows=%d seconds=%.0f",
        summary.files,
        summary.rows,
        count_error_rows(summary.counts) + len(summary.failed),
        summary.num_rows_decoded,
        summary.seconds,
    )
    if not was_complete:
        track.track(job, summary, result_code(job, summary, reporter))
    if reporter.run_status is not None:
        reporter.run_status.complete(summary, result_code(job, summary, reporter))
    return summary


def result_code(job: TranslateJob, summary: Summary, reporter: Reporter) -> ExitCode:
    """Return the exit code of a complete job."""
    if error_advice.has_too_many_errors(job.check, summary):
        return ExitCode.TOO_MANY_ERRORS
    return ExitCode.WARNINGS if job.strict and reporter.num_warnings else ExitCode.COMPLETE


def close_folder(output: Output, reporter: Reporter, stop: StopRequest) -> None:
    """Leave the folder, with the reason, because the process is about to end at once."""
    if reporter.run_status is not None:
        reporter.run_status.stop(stop.exit_reason)
    output.close(why=stop.exit_reason)
