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
from hymt_batch.signals import Stop


def temporary() -> Path:
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


def copy(folder: Path, outputs: Sequence[Path], stop: Stop, wanted: Path, place: Path | None) -> None:
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
    if place is not None:
        stop.keep(place)
    try:
        streams.copy(outputs)
    except HymtError as error:
        home = folder if place is None else kept(folder, wanted)
        files = ", ".join(str(home / path.relative_to(folder)) for path in outputs)
        raise type(error)(f"{error.message} The job is complete, and its translations are kept in {files}") from error
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)


def kept(folder: Path, wanted: Path) -> Path:
    """Move a finished job out of the temporary folder, if output_dir takes it; where it is then."""
    target = wanted / f"stdin-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target, symlinks=True)
    except OSError:
        shutil.rmtree(target, ignore_errors=True)
        return folder
    shutil.rmtree(folder.parent, ignore_errors=True)
    return target
