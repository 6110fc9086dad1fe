"""Jobs that translate standard input to standard output: their temporary folder, and which results are kept.

Works with finished files and the standard streams; independent of how a job runs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hymt_batch import streams
from hymt_batch.errors import HymtError, PreflightError
from hymt_batch.signals import StopRequest


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
        kept = f"The job is complete, and its translations are kept in {files}."
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
