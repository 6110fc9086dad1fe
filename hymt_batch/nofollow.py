"""Reach a path below an output folder without following a link: folder by folder, each opened in the one above.

The output folder itself, and what is above it, may be a link; below, one could lead anywhere. Source: openat(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC
TRAVERSE_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", os.O_RDONLY)  # to pass through: a folder need not be readable


@contextlib.contextmanager
def open_parent(path: Path, trusted_root: Path | None) -> Iterator[tuple[str, int | None]]:
    """A path as a name in an open folder; where it is not deep below `above`, as it stands, and None.

    Args:
        path: Of any file or folder; its last component is not opened.
        above: The folder that holds output folders, or None: no path lies below one.

    Raises:
        NotADirectoryError: A link or a file stands where a folder should be; its `filename` is that place.
    """
    below = (
        path.relative_to(trusted_root).parts if trusted_root is not None and path.is_relative_to(trusted_root) else ()
    )
    if trusted_root is None or len(below) < 2:
        yield os.fspath(path), None
        return
    fd = os.open(trusted_root / below[0], TRAVERSE_FLAGS)
    try:
        for depth, name in enumerate(below[1:-1], 2):
            with _full_path_in_errors(trusted_root.joinpath(*below[:depth]), name):
                inner = os.open(name, TRAVERSE_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            outer, fd = fd, inner
            os.close(outer)
        with _full_path_in_errors(path, below[-1]):
            yield below[-1], fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def open_folder(path: Path, trusted_root: Path | None) -> Iterator[int]:
    """A folder, open to be listed or synced; arguments as of `reached`."""
    with open_parent(path, trusted_root) as (name, at):
        fd = os.open(name, FOLDER_FLAGS | (0 if at is None else os.O_NOFOLLOW), dir_fd=at)
        try:
            yield fd
        except OSError as error:
            if error.filename is None or isinstance(error.filename, int):  # os.listdir names the descriptor
                error.filename = str(path)
            raise
        finally:
            os.close(fd)


@contextlib.contextmanager
def _full_path_in_errors(path: Path, name: str) -> Iterator[None]:
    """Errors about a name in an open folder tell the whole path."""
    try:
        yield
    except OSError as error:
        if error.filename2 == name:
            error.filename2 = str(path)
        elif error.filename == name:
            error.filename = str(path)
        raise
