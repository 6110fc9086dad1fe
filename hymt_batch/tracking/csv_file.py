"""Append a line per completed job to a CSV file, which is created with its header. Several jobs may share it."""

from __future__ import annotations

import csv
import io
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from hymt_batch.tracking.settings import TrackingConfig
from hymt_batch.tracking.tracked_run import TrackedRun

METRICS = (
    "exit_code",
    "rows",
    "errors",
    "flagged",
    "source_tokens",
    "new_tokens",
    "rows_decoded",
    "seconds",
    "rows_per_s",
)
HEADER = ("ended", "name", "folder", "identity_sha256", "program", *METRICS, "metrics", "params")


def record(run: TrackedRun, config: TrackingConfig) -> None:
    """Append the line of a job.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(os.path.expanduser(config.file))
    path.parent.mkdir(parents=True, exist_ok=True)
    _create(path)
    others = {name: value for name, value in run.metrics.items() if name not in METRICS}
    values = [run.metrics.get(name, "") for name in METRICS]
    line = [run.ended, run.name, run.folder, run.identity_sha256, run.program, *values]
    data = _encode([*line, json.dumps(others, sort_keys=True), json.dumps(dict(run.params), sort_keys=True)])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:  # one call: lines of jobs that end at the same time are not mixed on a local file system
        if os.write(descriptor, data) != len(data):
            raise OSError("the line was not written as a whole")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> None:
    """Create the file with its header, if it does not exist; of several processes, one creates it."""
    if path.exists():
        return
    tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    try:
        tmp.write_bytes(_encode(HEADER))
        try:
            os.link(tmp, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


def _encode(line: Sequence[object]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(line)
    return out.getvalue().encode("utf-8", "backslashreplace")
