"""The protocol of the file operations behind all durable writes. Import `Fs` and `Stat` from `fs.py`.

`fs.py` implements it with real files; tests use a simulated file system that crashes at every operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stat:
    """What `Fs.stat` returns; links are never followed."""

    kind: str  # "file", "dir" or "other" (link, fifo, device)
    size: int
    mtime_ns: int
    ino: int
    dev: int


class Fs(Protocol):
    """File operations. Every method may raise OSError; none follows a link in the last component of a path."""

    def within(self, folder: Path) -> Fs: ...  # a copy that follows no links below an output folder or its forks

    def open_exclusive(self, path: Path) -> int: ...
    def write_all(self, fd: int, data: bytes) -> None: ...
    def fsync(self, fd: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def mkdir(self, path: Path, mode: int) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def fsync_dir(self, path: Path) -> bool: ...  # False: not supported, which is tolerated
    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes: ...
    def stat(self, path: Path) -> Stat: ...
    def listdir(self, path: Path) -> list[str]: ...
    def writable(self, path: Path) -> bool: ...  # whether this user may create files in a folder
    def statvfs(self, path: Path) -> tuple[int, int | None]: ...  # free bytes; free inodes, None if not counted
