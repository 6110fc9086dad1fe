"""Which points a sweep has: a small file beside their folders, so that `status` also tells of those that never began.

A hint: written when a sweep begins, never read by a job. Best effort: a failure to write it is ignored.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import OS_FS, list_names, replace, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs

NAME = ".sweep.json"
MAX_BYTES = 1 << 24


def save(folder: Path, labels: Sequence[str], fs: Fs = OS_FS) -> None:
    """Write the folder names of the points of a sweep, in order; they replace those of an earlier sweep."""
    with contextlib.suppress(OSError, ValueError):
        os.makedirs(folder, exist_ok=True)
        tmp = folder / f".tmp-sweep.json-{uuid.uuid4().hex}"
        write_new(fs, tmp, manifest.seal({"points": list(labels)}))
        replace(fs, tmp, folder / NAME)


def find(fs: Fs, folder: Path) -> list[Path]:
    """Return the folders of the points of a sweep: those that it has, then the others in which a job is."""
    labels: list[str] = []
    with contextlib.suppress(manifest.StateDamagedError, KeyError, TypeError):
        labels = [str(label) for label in manifest.load(fs, folder / NAME, MAX_BYTES)["points"]]
    labels = [label for label in labels if label not in ("", ".", "..") and "/" not in label]
    begun = [name for name in list_names(fs, folder) if stat_or_none(fs, manifest.state_folder(folder / name))]
    return [folder / name for name in dict.fromkeys([*labels, *begun])]
