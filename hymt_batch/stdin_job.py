"""Standard input translated to standard output: the temporary folder of such a job, and what is kept of it.

Knows finished files and the standard streams; not how a job is run.
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
    """A new folder for a job without a name.

    Raises:
        PreflightError: No place takes one.
    """
    try:
        return Path(tempfile.mkdtemp(prefix="hymt-batch-"))
    except OSError as error:
        why = error.strerror or str(error)
        raise PreflightError(
            f"source.path=- without a name needs a temporary folder, and none can be made: {why}. Set TMPDIR to a "
            "folder that can be written, or add name=NAME to keep the job in output_dir."
        ) from None


def write_to_stdout(
    folder: Path, outputs: Sequence[Path], stop: StopRequest, output_dir: Path, temporary_folder: Path | None
) -> None:
    """Copy the translations of standard input to standard output.

    Args:
        folder: Of the finished job.
        outputs: Its translations.
        stop: Who removes the temporary folder.
        wanted: output_dir, where what standard output does not take is kept.
        place: The temporary folder of a job without a name, or None.

    Raises:
        HymtError: Standard output takes no more; the message names where the translations are.
    """
    if temporary_folder is not None:
        stop.keep_folder(temporary_folder)
    try:
        streams.copy_to_stdout(outputs)
    except HymtError as error:
        home = folder if temporary_folder is None else move_to_output_dir(folder, output_dir)
        files = ", ".join(str(home / path.relative_to(folder)) for path in outputs)
        raise type(error)(f"{error.message} The job is complete, and its translations are kept in {files}") from error
    if temporary_folder is not None:
        shutil.rmtree(temporary_folder, ignore_errors=True)


def move_to_output_dir(folder: Path, output_dir: Path) -> Path:
    """Move a finished job out of the temporary folder, if output_dir takes it; where it is then."""
    target = output_dir / f"stdin-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target, symlinks=True)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        return folder
    shutil.rmtree(folder.parent, ignore_errors=True)
    return target
