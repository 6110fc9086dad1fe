"""Which files that were found in the state folders survive a power loss.

A process may be killed after it gave a file its name and before it synced the folder. Whoever finds the file then syncs
the folder before the file counts. A later file in the same folder may be of yet another process, so each is looked at.
"""

from __future__ import annotations

from pathlib import Path

from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs

MAX_FOLDERS = 64
"""Most folders whose names are remembered; the names of another one are synced again, which costs little."""


class SyncedNames:
    """Names of files that are known to be durable."""

    def __init__(self, fs: Fs) -> None:
        self._fs = fs
        self._names: dict[Path, set[str]] = {}  # by folder; the one that was used last at the end

    def add(self, path: Path) -> None:
        """Remember a file whose folder was synced after it got its name."""
        self._of(path.parent).add(path.name)

    def ensure(self, path: Path) -> None:
        """Sync the folder of a file that was found, unless it is known to be durable.

        Raises:
            OSError: The folder cannot be synced, or is gone.
        """
        names = self._of(path.parent)
        if path.name in names:
            return
        # most folders are looked at once, and a listing pays only for those with several files
        others = list_names(self._fs, path.parent) if names else []
        self._fs.fsync_dir(path.parent)
        names.update(others, [path.name])

    def forget(self, folder: Path) -> None:
        """Drop what is known of a folder."""
        self._names.pop(folder, None)

    def _of(self, folder: Path) -> set[str]:
        names = self._names.pop(folder, None)
        if names is None:
            names = set()
            if len(self._names) >= MAX_FOLDERS:
                del self._names[next(iter(self._names))]
        self._names[folder] = names
        return names
