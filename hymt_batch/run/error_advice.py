"""What to do about rows without a translation: for each kind, how many, an example, and what helps.

Independent of how a job ran: it looks at the summary of a finished job and at its error files.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch.fs import OS_FS
from hymt_batch.records import Status, count_error_rows
from hymt_batch.sanitize import escape_line
from hymt_batch.write import error_rows
from hymt_batch.write.summary import Summary

if TYPE_CHECKING:
    from hymt_batch.check.settings import CheckConfig
    from hymt_batch.schema import TranslateJob

MAX_LINES = 100_000  # lines of error files that are searched for an example of each kind

REDO = "run the same command with on_input_change=redo"
OTHER_NAME = "under another name="

ADVICE = {
    Status.EMPTY: f"the model returned no text. check=retry tries such rows again, {OTHER_NAME}",
    Status.TOO_LONG: "the row exceeds a limit, which its message names. Split such rows and "
    f"{REDO}; or raise the limit, {OTHER_NAME}",
    Status.BAD_ENCODING: "the bytes of the row are not valid in the encoding of its file. Correct them and "
    f"{REDO}; if the whole file has another encoding, set source.encoding=, {OTHER_NAME}",
    Status.BAD_ROW: "the row is not valid in its format, lacks the field source.text_field, has a language field that "
    f"is not text, or has a field named like an added one. Correct such rows and {REDO}; or name the right field, "
    f"{OTHER_NAME}",
    Status.BAD_LANGUAGE: "the model does not know the language that the row names; `hymt-batch languages` lists those "
    f"that it knows. Correct the field and {REDO}",
    Status.GENERATION_ERROR: "decoding failed, as the message says. `hymt-batch doctor load=true` checks the model; "
    "overwrite=true starts over",
    Status.NON_FINITE: "the network computed NaN or infinity. Try model.dtype=float32, "
    f"{OTHER_NAME}; `hymt-batch doctor load=true` checks the model",
    Status.FAILED_FILE: f"the file is not of its format, at the line that its message names. Correct it and {REDO}; or "
    "leave it out of source.path",
    Status.CRASH_QUARANTINED: "the process died three times while it decoded this row alone; the log has what was "
    f"printed then. Shorten or remove the row and {REDO}",
}
"""Status of a row without a translation -> what it means, and what helps."""

RETRIED = (Status.EMPTY, Status.GENERATION_ERROR, Status.NON_FINITE, Status.CRASH_QUARANTINED)
"""Statuses of rows that `hymt-batch retry` decodes again by default: they were sent to the model."""

NO_ATTEMPT_HELPED = (
    "the model returned no text in {num_attempts} attempts. check.retry.max_attempts={more} tries such rows more "
    f"often, {OTHER_NAME}; another model= may translate them"
)
"""Advice for empty rows of a job that has tried them again."""


def error_rate(summary: Summary) -> float:
    """Return the share of the selected rows that have no translation."""
    num_selected = summary.texts - summary.counts.get(Status.NOT_SELECTED, 0)
    return count_error_rows(summary.counts) / max(1, num_selected)


def has_too_many_errors(check: CheckConfig, summary: Summary) -> bool:
    """Return whether more rows or files than the settings allow have no translation."""
    too_many_files = len(summary.failed) > check.max_failed_files and check.max_error_rate < 1
    return too_many_files or error_rate(summary) > check.max_error_rate


def describe(job: TranslateJob, summary: Summary) -> str:
    """Return why a finished job ends with exit code 10, and what to do about it, in several lines."""
    rate, limit = error_rate(summary), job.check.max_error_rate
    lines = []
    if rate > limit:
        lines.append(f"{100 * rate:.2f} % of the rows have no translation, more than check.max_error_rate={limit:g}")
    num_failed, max_failed = len(summary.failed), job.check.max_failed_files
    if num_failed > max_failed:
        files = "1 file cannot be read as its" if num_failed == 1 else f"{num_failed:,} files cannot be read as their"
        lines.append(f"{files} format, more than check.max_failed_files={max_failed}")
    examples = _find_examples(summary.errors)
    for status, advice in ADVICE.items():
        if count := summary.counts.get(status, 0):
            example = f", such as {escape_line(examples[status])}" if status in examples else ""
            if status is Status.EMPTY and job.check.retry.max_attempts > 1:
                advice = NO_ATTEMPT_HELPED.format(
                    num_attempts=job.check.retry.max_attempts, more=job.check.retry.max_attempts + 2
                )
            lines.append(f"  {count:,} {status}{example}: {advice}.")
    if job.name is None:
        lines.append("  Add name=NAME to keep the folder with the list of these rows.")
    else:
        name = shlex.quote(str(summary.folder.relative_to(job.output_dir)))
        folder = "" if job.output_dir == "outputs" else f" output_dir={shlex.quote(job.output_dir)}"
        lines.append(f"  Each of these rows is a line in {summary.folder / 'errors'}, with its message.")
        lines.append(f"  The first of them: hymt-batch status name={name}{folder} errors=20")
        if job.write.keep_rows and any(summary.counts.get(status, 0) for status in RETRIED):
            lines.append(
                f"  Rows that were sent to the model are decoded again by: hymt-batch retry name={name}{folder}, "
                "with another model= or decode="
            )
    others = "All other rows are translated. " if rate < 1 else ""
    accepted = [f"check.max_error_rate={min(1.0, math.ceil(1000 * rate) / 1000):g}"] if rate > limit else []
    accepted += [f"check.max_failed_files={num_failed}"] if num_failed > max_failed else []
    lines.append(
        f"  {others}To accept the result, run the same command with {' '.join(accepted)}: nothing is decoded again."
    )
    return "\n".join(lines)


def _find_examples(paths: Sequence[Path]) -> dict[Status, str]:
    """Return the id of the first row of each status, as far as MAX_LINES lines of the error files show it."""
    rows = itertools.chain.from_iterable(error_rows.read_errors_file(OS_FS, path) for path in paths)
    examples: dict[Status, str] = {}
    for row in itertools.islice(rows, MAX_LINES):
        examples.setdefault(Status(row["status"]), row["id"])
    return examples
