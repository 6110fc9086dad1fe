"""Attempt markers: a part that kills its process again and again is known by the marks it left before.

A mark is an empty file made before a part is decoded, and removed when the part is committed or the job is stopped in
an orderly way. It survives what kills a process. Losing one costs nothing but one more try: nothing is synced.

Source: reference/reliability.md 2.8, poison.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, list_names
from hymt_batch.records import Part, Shard
from hymt_batch.write.part import part_name, shard_name

MAX_ATTEMPTS = 3
"""Times that a part may take its process down before it is taken to pieces."""

_MARKER_NAME = re.compile(r"([0-9a-f]{16}-s\d{7,}-p\d{5,})\.(\d{1,4})")


class AttemptMarkers:
    """The marks of one output folder."""

    def __init__(self, fs: Fs, folder: Path) -> None:
        self._fs, self._folder = fs, manifest.state_folder(folder) / "attempts"
        self._markers: dict[str, set[int]] = {}  # of earlier runs, and of this one
        self._own_markers: dict[str, set[int]] = {}
        self._folder_created = False  # the folder
        for name in list_names(fs, self._folder):
            if found := _MARKER_NAME.fullmatch(name):
                self._markers.setdefault(found[1], set()).add(int(found[2]))

    @property
    def needs_isolation(self) -> bool:
        """Whether a part took its process down so often that it must be decoded in a process of its own."""
        return any(len(numbers) >= MAX_ATTEMPTS for numbers in self._markers.values())

    def begin(self, shard: Shard, part: Part) -> int:
        """Mark that a part is about to be decoded.

        Returns:
            The number of tries, this one included, that were not given back.
        """
        key = _key(shard, part)
        numbers = self._markers.setdefault(key, set())
        number = max(numbers, default=0) + 1
        with contextlib.suppress(OSError):  # a store that takes no mark takes no part either, and says so then
            if not self._folder_created:
                self._folder_created = True
                with contextlib.suppress(FileExistsError):
                    self._fs.mkdir(self._folder, 0o777)
            self._fs.close(self._fs.open_exclusive(self._folder / f"{key}.{number}"))
        numbers.add(number)
        self._own_markers.setdefault(key, set()).add(number)
        return len(numbers)

    def end(self, shard: Shard, part: Part) -> None:
        """The part is committed: its marks mean nothing any more."""
        key = _key(shard, part)
        self._own_markers.pop(key, None)
        for number in self._markers.pop(key, ()):
            self._remove(key, number)

    def remove_own(self) -> None:
        """The job is stopped in an orderly way: what was under way is not to blame."""
        for key, numbers in self._own_markers.items():
            for number in numbers:
                self._remove(key, number)
                self._markers.get(key, set()).discard(number)
        self._own_markers.clear()

    def clear(self) -> None:
        """The job is complete."""
        for key, numbers in self._markers.items():
            for number in numbers:
                self._remove(key, number)
        self._markers.clear()
        self._own_markers.clear()

    def _remove(self, key: str, number: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(self._folder / f"{key}.{number}")


def _key(shard: Shard, part: Part) -> str:
    return f"{shard.input.file_id}-{shard_name(shard.index)}-{part_name(part.index)}"
