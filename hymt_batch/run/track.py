"""Hand a completed job to the tracker of its settings: what was asked for, where it ran, and what came out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hymt_batch import manifest
from hymt_batch.errors import ExitCode
from hymt_batch.fs import OS_FS
from hymt_batch.records import count_error_rows
from hymt_batch.tracking import tracker
from hymt_batch.tracking.settings import TrackerName
from hymt_batch.tracking.tracked_run import TrackedRun
from hymt_batch.write.summary import Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


def track(job: TranslateJob, summary: Summary, code: ExitCode) -> None:
    """Record a job that this run completed, if its settings name a tracker; the caller owns the folder.

    Args:
        job: All settings.
        summary: What came out.
        code: The exit code of this run.
    """
    if job.tracking.tracker is TrackerName.none:
        return
    stored = manifest.read_job(OS_FS, summary.folder)
    recorded = {**stored.identity, "output": stored.output_settings, "environment": stored.environment}
    seconds, decoded = summary.seconds, summary.num_rows_decoded
    metrics: dict[str, float] = {
        "exit_code": int(code),
        "rows": summary.texts,
        "errors": count_error_rows(summary.counts),
        "flagged": sum(summary.flags.values()),
        "source_tokens": summary.num_source_tokens,
        "new_tokens": summary.num_new_tokens,
        "rows_decoded": decoded,
        "seconds": round(seconds, 3),
    }
    if seconds > 0 and decoded:
        metrics["rows_per_s"] = round(decoded / seconds, 3)
    metrics |= {f"flag.{name}": count for name, count in summary.flags.items()}
    metrics |= {f"status.{name}": count for name, count in summary.counts.items()}
    run = TrackedRun(
        name=str(job.name),
        folder=os.path.abspath(summary.folder),
        identity_sha256=stored.identity_sha256,
        ended=datetime.now(UTC).isoformat(timespec="seconds"),
        params=dict(_flatten(recorded)),
        metrics=metrics,
        program=f"hymt-batch {version('hymt-batch')}",
    )
    tracker.record(run, job.tracking)


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flatten(item, f"{key}.{name}" if key else str(name))
    else:
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        yield key, json.dumps(value, ensure_ascii=False) if is_list or not isinstance(value, str) else value
