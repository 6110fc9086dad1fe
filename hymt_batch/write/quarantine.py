"""Move files of `.hymt` that cannot be used to `.hymt/quarantine`, with the reason beside them.

They are never opened again.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import write_new
from hymt_batch.fs_protocol import Fs

log = logging.getLogger(__name__)


def quarantine(fs: Fs, folder: Path, path: Path, reason: str) -> None:
    """Move a part or a row record of an output folder to its quarantine."""
    name = "-".join(path.relative_to(manifest.state_folder(folder)).parts)
    target = manifest.state_folder(folder) / "quarantine" / f"{name}-{uuid.uuid4().hex[:8]}"
    with contextlib.suppress(FileNotFoundError):  # another process already moved it
        fs.rename(path, target)
        log.warning("quarantine part=%s reason=%r", target.name, reason)
        with contextlib.suppress(OSError):
            write_new(fs, target.with_name(f"{target.name}.reason"), reason.encode() + b"\n")
