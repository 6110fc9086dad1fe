"""Attempt markers: they show which part ends its process repeatedly.

A marker is an empty file, created before a part is decoded and removed when the part is committed or the job stops in
an orderly way. It survives the death of the process. Markers are not synced: losing one only allows one more attempt.
Explained in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Part
from hymt_batch.write.part import name_of, shard_name

MAX_ATTEMPTS = 3
"""How often decoding a part may end its process before it is decoded in smaller pieces in a separate process."""

_MARKER_NAME = re.compile(r"(([0-9a-f]{16})-s(\d{7,})-p\d{5,}(?:-r\d{5,})?)\.(\d{1,4})")


class AttemptMarkers:
    """The attempt markers of one output folder."""

    def __init__(self, fs: Fs, folder: Path, is_own: Callable[[str, int], bool] | None = None) -> None:
        """Read the markers of earlier runs.

        Args:
            fs: The file system.
            folder: The output folder.
            is_own: Returns whether a shard (file id, index) is one of this process; None: all are. What another task
                is decoding is no failed attempt.
        """
        self._fs, self._folder = fs, manifest.state_folder(folder) / "attempts"
        self._markers: dict[str, set[int]] = {}  # part key -> attempts, of earlier runs and of this one
        self._own_markers: dict[str, set[int]] = {}
        self._folder_created = False
        for name in list_names(fs, self._folder):
            match = _MARKER_NAME.fullmatch(name)
            if match and (is_own is None or is_own(match[2], int(match[3]))):
                self._markers.setdefault(match[1], set()).add(int(match[4]))

    @property
    def needs_isolation(self) -> bool:
        """True if a part killed its process so often that it must be decoded in a separate process."""
        return any(len(attempts) >= MAX_ATTEMPTS for attempts in self._markers.values())

    def begin(self, part: Part) -> int:
        """Create a marker for a part that is about to be decoded.

        Returns:
            The number of attempts at this part whose markers remain, this one included.
        """
        key = _key(part)
        attempts = self._markers.setdefault(key, set())
        attempt = max(attempts, default=0) + 1
        with contextlib.suppress(OSError):  # if this fails, committing the part fails too and reports the cause
            if not self._folder_created:
                self._folder_created = True
                with contextlib.suppress(FileExistsError):
                    self._fs.mkdir(self._folder, 0o777)
            self._fs.close(self._fs.open_exclusive(self._folder / f"{key}.{attempt}"))
        attempts.add(attempt)
        self._own_markers.setdefault(key, set()).add(attempt)
        return len(attempts)

    def end(self, part: Part) -> None:
        """Remove all markers of a part; call it when the part is committed."""
        key = _key(part)
        self._own_markers.pop(key, None)
        for attempt in self._markers.pop(key, ()):
            self._remove(key, attempt)

    def remove_own(self) -> None:
        """Remove this run's markers; call it on an orderly stop, because no part caused such a stop."""
        for key, attempts in self._own_markers.items():
            for attempt in attempts:
                self._remove(key, attempt)
                self._markers.get(key, set()).discard(attempt)
        self._own_markers.clear()

    def clear(self) -> None:
        """Remove all markers; call it when the job is complete."""
        for key, attempts in self._markers.items():
            for attempt in attempts:
                self._remove(key, attempt)
        self._markers.clear()
        self._own_markers.clear()

    def _remove(self, key: str, attempt: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(self._folder / f"{key}.{attempt}")


def _key(part: Part) -> str:
    return f"{part.shard.input.file_id}-{shard_name(part.shard.index)}-{name_of(part)}"
