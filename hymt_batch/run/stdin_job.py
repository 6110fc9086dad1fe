"""Jobs that translate standard input to standard output: their temporary folder, what is printed, and what is kept.

Everything but the translations goes to stderr. Independent of how a job runs: the caller passes that function.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch import signals, streams
from hymt_batch.errors import HymtError, PreflightError
from hymt_batch.run.reporter import Reporter, next_command, render_summary
from hymt_batch.sanitize import escape_line
from hymt_batch.signals import StopRequest
from hymt_batch.write.summary import Summary

if TYPE_CHECKING:
    from hymt_batch.schema import TranslateJob


def run(job: TranslateJob, reporter: Reporter, translate: Callable[[TranslateJob, Reporter], Summary]) -> Summary:
    """Run a job whose source is standard input, and write its translations to standard output.

    A job without a name works in a temporary folder, and keeps nothing unless standard output cannot be written.

    Raises:
        HymtError: The job failed, or standard output cannot be written.
    """
    streams.require_stdout()
    stop, output_dir, temporary_folder = signals.install(), Path(job.output_dir), None
    with contextlib.ExitStack() as stack:
        if job.name is None:
            temporary_folder = stack.enter_context(stop.remove_on_exit(create_temporary_folder()))
            launch = replace(job.launch, report=False)  # nobody would see it
            job = replace(job, name="stdin", output_dir=str(temporary_folder), launch=launch)
        summary = translate(job, reporter)
        text = render_summary(summary, reporter.sample_pairs)
        if temporary_folder is not None:
            text = render_temporary_result(text, summary)
        else:
            text = f"{text}\n\n{next_command(job, summary)}"
        reporter.print_result(text, to_stderr=True)
        write_to_stdout(summary.folder, summary.outputs, stop, output_dir, temporary_folder)
    return summary


def render_temporary_result(text: str, summary: Summary) -> str:
    """Return the summary of a job whose folder will be removed; it shows the first errors instead of their paths."""
    errors = []
    for path in summary.errors:
        with path.open(encoding="utf-8") as file:
            errors += [f"  {escape_line(line.rstrip(), 300)}" for line in islice(file, 3)]
    errors += ["  add name=NAME to keep the errors and to be able to continue"]
    text = text.replace(str(summary.folder / "translated"), "standard output")
    return text.replace(f"  listed in {summary.folder / 'errors'}", "\n".join(errors))


def create_temporary_folder() -> Path:
    """Create a temporary folder for a job without a name.

    Raises:
        PreflightError: No temporary folder can be created.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="hymt-batch-"))
    except OSError as error:
        why = error.strerror or str(error)
        raise PreflightError(
            "source.path=- without a name needs a temporary folder, and none can be created",
            why=why,
            fix="Set TMPDIR to a writable folder, or add name=NAME to keep the job in output_dir.",
        ) from None


def write_to_stdout(
    folder: Path, outputs: Sequence[Path], stop: StopRequest, output_dir: Path, temporary_folder: Path | None
) -> None:
    """Copy the translations of a finished job to standard output.

    Args:
        folder: Folder of the finished job.
        outputs: Paths of its translations.
        stop: The stop request of the process; from now on it keeps the temporary folder.
        output_dir: Where the translations are kept if standard output cannot be written.
        temporary_folder: The temporary folder of a job without a name; None if the job has a name.

    Raises:
        HymtError: Standard output cannot be written; the message names the files with the translations.
    """
    if temporary_folder is not None:
        stop.keep_folder(temporary_folder)
    try:
        streams.copy_to_stdout(outputs)
    except HymtError as error:
        final_folder = folder if temporary_folder is None else move_to_output_dir(folder, output_dir)
        files = ", ".join(str(final_folder / path.relative_to(folder)) for path in outputs)
        kept = f"The job is complete, and its translations are kept in {files}"
        raise error.replace(fix=f"{error.fix} {kept}") from error
    if temporary_folder is not None:
        shutil.rmtree(temporary_folder, ignore_errors=True)


def move_to_output_dir(folder: Path, output_dir: Path) -> Path:
    """Move a finished job from the temporary folder to output_dir.

    Returns:
        The new folder, or `folder` if output_dir cannot be written.
    """
    target = output_dir / f"stdin-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target, symlinks=True)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        return folder
    shutil.rmtree(folder.parent, ignore_errors=True)
    return target
