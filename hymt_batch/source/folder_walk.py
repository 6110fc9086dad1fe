"""Walk an input folder: its files and the datasets saved below it. Knows no setting but how links are treated."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hymt_batch.errors import ConfigError
from hymt_batch.source.job_folders import JobFolders
from hymt_batch.source.saved_splits import is_dataset


def walk(root: str, follow_symlinks: bool, job_folders: JobFolders) -> Iterator[tuple[str, bool]]:
    """Yield the files and saved datasets below a folder, except hidden ones and outputs of jobs.

    Each comes as its path below the folder, and whether it is a folder itself, that is, a dataset.
    """
    real = os.path.realpath(root)
    waiting: list[tuple[str, str, tuple[str, ...]]] = [("", real, ())]
    while waiting:  # no recursion: folders may be nested deeper than Python's recursion limit
        below, here, above = waiting.pop()
        folder = os.path.join(root, below)
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        if job_folders.leaves_out_folder(folder, here, [entry.name for entry in entries]):
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            rel = os.path.join(below, entry.name)
            if entry.is_file(follow_symlinks=False):
                yield rel, False
                continue
            target = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(here, entry.name)
            leaves_root = entry.is_symlink() and not f"{target}/".startswith(os.path.join(real, ""))
            if leaves_root and not follow_symlinks:
                raise ConfigError(
                    f"{entry.path!r} is a link to {target!r}, outside the folder",
                    fix="Set source.follow_symlinks=true to read it, or remove the link.",
                )
            if entry.is_symlink() and job_folders.leaves_out(entry.path):
                continue
            if not entry.is_dir() or is_dataset(entry.path):
                yield rel, entry.is_dir()
            elif not entry.is_symlink():
                waiting.append((rel, target, (*above, here) if follow_symlinks else ()))
            elif follow_symlinks and target not in (here, *above):
                waiting.append((rel, target, (*above, here)))
