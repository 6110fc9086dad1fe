"""Reach a path below an output folder without following a link: folder by folder, each opened in the one above.

The output folder itself, and what is above it, may be a link; below, one could lead anywhere. Source: openat(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = os.O_DIRECTORY | os.O_CLOEXEC
WAY = FOLDER | getattr(os, "O_PATH", os.O_RDONLY)  # to pass through: a folder need not be readable


@contextlib.contextmanager
def reached(path: Path, above: Path | None) -> Iterator[tuple[str, int | None]]:
    """A path as a name in an open folder; where it is not deep below `above`, as it stands, and None.

    Args:
        path: Of any file or folder; its last component is not opened.
        above: The folder that holds output folders, or None: no path lies below one.

    Raises:
        NotADirectoryError: A link or a file stands where a folder should be; its `filename` is that place.
    """
    below = path.relative_to(above).parts if above is not None and path.is_relative_to(above) else ()
    if above is None or len(below) < 2:
        yield os.fspath(path), None
        return
    fd = os.open(above / below[0], WAY)
    try:
        for depth, name in enumerate(below[1:-1], 2):
            with _named(above.joinpath(*below[:depth]), name):
                inner = os.open(name, WAY | os.O_NOFOLLOW, dir_fd=fd)
            outer, fd = fd, inner
            os.close(outer)
        with _named(path, below[-1]):
            yield below[-1], fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_folder(path: Path, above: Path | None) -> Iterator[int]:
    """A folder, open to be listed or synced; arguments as of `reached`."""
    with reached(path, above) as (name, at):
        fd = os.open(name, FOLDER | (0 if at is None else os.O_NOFOLLOW), dir_fd=at)
        try:
            yield fd
        except OSError as error:
            if error.filename is None or isinstance(error.filename, int):  # os.listdir names the descriptor
                error.filename = str(path)
            raise
        finally:
            os.close(fd)


@contextlib.contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Errors about a name in an open folder tell the whole path."""
    try:
        yield
    except OSError as error:
        if error.filename2 == name:
            error.filename2 = str(path)
        elif error.filename == name:
            error.filename = str(path)
        raise
