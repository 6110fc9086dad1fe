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
from hymt_batch.fs import Fs, names
from hymt_batch.records import Part, Shard
from hymt_batch.write.part import part_name, shard_name

MAX_ATTEMPTS = 3
"""Times that a part may take its process down before it is taken to pieces."""

_NAME = re.compile(r"([0-9a-f]{16}-s\d{7,}-p\d{5,})\.(\d{1,4})")


class Attempts:
    """The marks of one output folder."""

    def __init__(self, fs: Fs, folder: Path) -> None:
        self._fs, self._home = fs, manifest.state(folder) / "attempts"
        self._left: dict[str, set[int]] = {}  # of earlier runs, and of this one
        self._mine: dict[str, set[int]] = {}
        self._made = False  # the folder
        for name in names(fs, self._home):
            if found := _NAME.fullmatch(name):
                self._left.setdefault(found[1], set()).add(int(found[2]))

    @property
    def worn(self) -> bool:
        """Whether a part took its process down so often that it must be decoded in a process of its own."""
        return any(len(numbers) >= MAX_ATTEMPTS for numbers in self._left.values())

    def begin(self, shard: Shard, part: Part) -> int:
        """Mark that a part is about to be decoded.

        Returns:
            The number of tries, this one included, that were not given back.
        """
        key = _key(shard, part)
        numbers = self._left.setdefault(key, set())
        number = max(numbers, default=0) + 1
        with contextlib.suppress(OSError):  # a store that takes no mark takes no part either, and says so then
            if not self._made:
                self._made = True
                with contextlib.suppress(FileExistsError):
                    self._fs.mkdir(self._home, 0o777)
            self._fs.close(self._fs.open_exclusive(self._home / f"{key}.{number}"))
        numbers.add(number)
        self._mine.setdefault(key, set()).add(number)
        return len(numbers)

    def end(self, shard: Shard, part: Part) -> None:
        """The part is committed: its marks mean nothing any more."""
        key = _key(shard, part)
        self._mine.pop(key, None)
        for number in self._left.pop(key, ()):
            self._remove(key, number)

    def give_back(self) -> None:
        """The job is stopped in an orderly way: what was under way is not to blame."""
        for key, numbers in self._mine.items():
            for number in numbers:
                self._remove(key, number)
                self._left.get(key, set()).discard(number)
        self._mine.clear()

    def clear(self) -> None:
        """The job is complete."""
        for key, numbers in self._left.items():
            for number in numbers:
                self._remove(key, number)
        self._left.clear()
        self._mine.clear()

    def _remove(self, key: str, number: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.unlink(self._home / f"{key}.{number}")


def _key(shard: Shard, part: Part) -> str:
    return f"{shard.input.file_id}-{shard_name(shard.index)}-{part_name(part.index)}"
