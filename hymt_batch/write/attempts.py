"""Attempt markers: they show which part ends its process repeatedly.

A marker is an empty file, created before a part is decoded and removed when the part is committed or the job stops in
an orderly way. It survives the death of the process. Markers are not synced: losing one only allows one more attempt.
Explained in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Part
from hymt_batch.state_layout import (
    ATTEMPT_GROUP,
    FLAT,
    StateLayout,
    attempts_folder,
    list_grouped,
    remove_groups,
)
from hymt_batch.write.part import name_of, shard_name

MAX_ATTEMPTS = 3
"""How often decoding a part may end its process before it is decoded in smaller pieces in a separate process."""

_MARKER_NAME = re.compile(r"(([0-9a-f]{16})-s(\d{7,})-p\d{5,}(?:-r\d{5,})?)\.(\d{1,4})")


class AttemptMarkers:
    """The attempt markers of one output folder."""

    def __init__(
        self, fs: Fs, folder: Path, layout: StateLayout, own: Collection[tuple[str, int]] | None = None
    ) -> None:
        """Read the markers of earlier runs.

        Args:
            fs: The file system.
            folder: The output folder.
            layout: That of the job.
            own: The shards (file id, index) of this process; None: all are. What another task is decoding is no failed
                attempt.
        """
        self._fs, self._folder, self._layout = fs, folder, layout
        self._markers: dict[str, set[int]] = {}  # part key -> attempts, of earlier runs and of this one
        self._own_markers: dict[str, set[int]] = {}
        self._folders_created = set[Path]()
        for name in self._names(own):
            match = _MARKER_NAME.fullmatch(name)
            if match and (own is None or (match[2], int(match[3])) in own):
                self._markers.setdefault(match[1], set()).add(int(match[4]))

    def _names(self, own: Collection[tuple[str, int]] | None) -> Iterator[str]:
        """Yield the names of the markers that there are; a task looks only into the groups of its shards."""
        if own is None:
            yield from (path.name for path in list_grouped(self._fs, attempts_folder(self._folder), ATTEMPT_GROUP))
        else:
            for path in dict.fromkeys(self._layout.attempt_folder(self._folder, *shard) for shard in own):
                yield from list_names(self._fs, path)

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
            path = self._path(key, attempt)
            self._make_folder(path.parent)
            self._fs.close(self._fs.open_exclusive(path))
        attempts.add(attempt)
        self._own_markers.setdefault(key, set()).add(attempt)
        return len(attempts)

    def _make_folder(self, path: Path) -> None:
        if path in self._folders_created:
            return
        self._folders_created.add(path)
        if path != (root := attempts_folder(self._folder)):
            self._make_folder(root)
        with contextlib.suppress(FileExistsError):
            self._fs.mkdir(path, 0o777)

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
        if self._layout != FLAT:
            remove_groups(self._fs, attempts_folder(self._folder), ATTEMPT_GROUP)

    def _path(self, key: str, attempt: int) -> Path:
        match = _MARKER_NAME.fullmatch(name := f"{key}.{attempt}")
        if match is None:
            return attempts_folder(self._folder) / name
        return self._layout.attempt_folder(self._folder, match[2], int(match[3])) / name

    def _remove(self, key: str, attempt: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(self._path(key, attempt))


def _key(part: Part) -> str:
    return f"{part.shard.input.file_id}-{shard_name(part.shard.index)}-{name_of(part)}"
