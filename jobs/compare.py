"""Compare jobs, or the points of a sweep: speed, flags, errors, scores, changed rows: `hymt-batch compare name=SWEEP`.

Reads the folders of the jobs alone, takes no lease and changes nothing. Imports no heavy library.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch import sanitize, streams
from hymt_batch.errors import ConfigError, ExitCode
from hymt_batch.evaluate import comparison
from hymt_batch.evaluate.comparison import Point
from hymt_batch.fs import OS_FS, write_atomic
from hymt_batch.records import plural
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import job_folders

if TYPE_CHECKING:
    from hymt_batch.schema import CompareJob

MAX_VALUE_CHARS = 40  # of a setting in the text; CSV and JSON have all of it
UNKNOWN = "-"


def find_folders(job: CompareJob) -> dict[str, Path]:
    """Return the folders to compare, by the names under which they are shown.

    Raises:
        UsageError: There is no such job.
    """
    output_dir = Path(os.path.expanduser(job.output_dir))
    if job.name is not None:
        return {folder.name: folder for folder in job_folders.find(OS_FS, output_dir / job.name)}
    folders: dict[str, Path] = {}
    for name in job.names:
        found = job_folders.find(OS_FS, output_dir / name)
        folders |= {name if len(found) == 1 else f"{name}/{folder.name}": folder for folder in found}
    return folders


def table(points: Sequence[Point]) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the lines of a table of complete jobs; None is a value that is not known."""
    settings = list(dict.fromkeys(key for point in points for key in point.settings))
    flags = sorted({flag for point in points for flag in point.flags})
    scores = list(dict.fromkeys(name for point in points for name in point.scores))
    header = ["job", *settings, "rows", "rows/s", "errors", *(f"flag {flag}" for flag in flags), *scores, "changed"]
    lines = []
    for point in points:
        values = [point.settings.get(key) for key in settings]
        numbers = [point.flags.get(flag, 0) for flag in flags] + [point.scores.get(name) for name in scores]
        lines.append([point.name, *values, point.rows, point.rows_per_s, point.errors, *numbers, point.changed])
    return header, lines


def render(points: Sequence[Point]) -> str:
    """Return the comparison as text: a table of the complete jobs, then the others with their reasons."""
    complete = [point for point in points if point.is_complete]
    header, lines = table(complete)
    # names are never cut: points of a sweep often differ at their ends alone
    cells = [header, *([line[0], *map(_shown, line[1:])] for line in lines)] if complete else []
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))] if cells else []
    text = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]  # fmt: skip
    others = [point for point in points if not point.is_complete]
    if others:
        text.append(f"not compared: {plural(len(others), 'job')}")
        text += [f"  {point.name}: {point.state}{f', {point.why}' if point.why else ''}" for point in others]
    for point in complete:
        text += [f"note: {point.name}: {note}" for note in point.notes]
        if point.scores_are_stale:
            text.append(f"note: {point.name}: its scores are of an earlier output; evaluate it again")
    if complete and not any(point.scores for point in complete):
        text.append("note: no scores; `hymt-batch evaluate` with references computes them")
    return "\n".join(text)


def _shown(value: Any) -> str:
    if value is None:
        return UNKNOWN
    text = f"{value:.2f}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[: MAX_VALUE_CHARS - 1] + "…"


def to_csv(points: Sequence[Point]) -> bytes:
    """Return the comparison as CSV: a line per job, also of those that are not complete, with state and reason."""
    complete = [point for point in points if point.is_complete]
    header, lines = table(complete)
    by_name = {line[0]: line[1:] for line in lines}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["job", "state", "why", *header[1:]])
    for point in points:
        values = by_name.get(point.name, [None] * (len(header) - 1))
        cells = [value if isinstance(value, str | int | float | None) else json.dumps(value) for value in values]
        writer.writerow([point.name, point.state, point.why, *cells])
    return out.getvalue().encode("utf-8", "backslashreplace")


def run(job: CompareJob) -> ExitCode:
    """Print the comparison, and write it to a file if that is asked for.

    Returns:
        COMPLETE; MISSING if a job is not complete.

    Raises:
        UsageError: There is no such job, no such baseline among them, or no folder for the file.
        StoppedError, PreflightError: The file cannot be written.
    """
    folders = find_folders(job)
    if job.baseline is not None and job.baseline not in folders:
        raise ConfigError(
            f"baseline={job.baseline} is not among the jobs that are compared",
            why=f"They are {', '.join(list(folders)[:20])}.",
            fix="Set baseline= to one of them.",
        )
    out = Path(os.path.expanduser(job.out)) if job.out is not None else None
    if out is not None and not out.parent.is_dir():
        raise ConfigError(
            f"out={job.out}: the folder {out.parent} does not exist", fix="Create it, or set another out=."
        )
    points = comparison.compare(folders, job.baseline)
    if out is not None:
        with wrap_os_errors(str(out)):
            write_atomic(OS_FS, out, to_csv(points))
    if job.format.value == "json":
        text = json.dumps([asdict(point) for point in points], sort_keys=True)
    else:
        text = render(points)
    streams.print_result(sanitize.sanitize_text(text))
    return ExitCode.COMPLETE if all(point.is_complete for point in points) else ExitCode.MISSING


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("compare")
