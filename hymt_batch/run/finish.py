"""The end of a complete job: its manifest, and the last words to the log and for `status`."""

from __future__ import annotations

import logging

from hymt_batch.check.settings import CheckConfig
from hymt_batch.records import count_error_rows
from hymt_batch.write.output import Output
from hymt_batch.write.run_progress import RunProgress
from hymt_batch.write.summary import Summary

log = logging.getLogger(__name__)


def finish(check: CheckConfig, output: Output, *, was_complete: bool = False) -> Summary:
    """Write the manifest, and the last words to the log and for `status`; a folder that was complete is not touched."""
    summary = output.finalize()
    progress = RunProgress(check.max_error_rate, check.max_failed_files, summary.texts, share=1.0, seconds_left=0.0)
    output.save_progress(progress, only_new_limit=was_complete)
    log.info(
        "complete: files=%d rows=%d errors=%d decoded_rows=%d seconds=%.0f",
        summary.files,
        summary.rows,
        count_error_rows(summary.counts) + len(summary.failed),
        summary.num_rows_decoded,
        summary.seconds,
    )
    return summary
