"""Open a path below an output folder without following links: each folder is opened relative to the one above.

The output folder itself and the folders above it may be links; a link below could lead anywhere. Source: openat(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC
TRAVERSE_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", os.O_RDONLY)  # traversing a folder needs no read permission


@contextlib.contextmanager
def open_parent(path: Path, trusted_root: Path | None) -> Iterator[tuple[str, int | None]]:
    """Open the parent folder of a path, for calls that take `dir_fd`.

    Args:
        path: Any file or folder; its last component is not opened.
        trusted_root: The folder that holds output folders, or None if links may be followed everywhere.

    Yields:
        The last component and the descriptor of the open parent. If `path` is not inside an output folder, the whole
        path and None.

    Raises:
        NotADirectoryError: A link or a file is where a folder should be; `filename` is its path.
    """
    text = os.fspath(path)
    prefix = "" if trusted_root is None else _prefix(os.fspath(trusted_root))
    parts = text[len(prefix) :].split("/") if trusted_root is not None and text.startswith(prefix) else []
    if len(parts) < 2:
        yield text, None
        return
    fd, depth = os.open(prefix + parts[0], TRAVERSE_FLAGS), 1
    try:
        for depth in range(1, len(parts) - 1):
            inner_fd = os.open(parts[depth], TRAVERSE_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
            outer_fd, fd = fd, inner_fd
            os.close(outer_fd)
        depth = len(parts) - 1
        yield parts[-1], fd
    except OSError as error:  # it names the last component only
        full_path = prefix + "/".join(parts[: depth + 1])
        if error.filename2 == parts[depth]:
            error.filename2 = full_path
        elif error.filename == parts[depth]:
            error.filename = full_path
        raise
    finally:
        os.close(fd)


def _prefix(root: str) -> str:
    """Return what the text of a path inside a folder begins with; string operations are ten times as fast as paths."""
    return "" if root == "." else root if root.endswith("/") else f"{root}/"


@contextlib.contextmanager
def open_folder(path: Path, trusted_root: Path | None) -> Iterator[int]:
    """Open a folder for listing or syncing; arguments as for `open_parent`."""
    with open_parent(path, trusted_root) as (name, dir_fd):
        fd = os.open(name, FOLDER_FLAGS | (0 if dir_fd is None else os.O_NOFOLLOW), dir_fd=dir_fd)
        try:
            yield fd
        except OSError as error:
            if error.filename is None or isinstance(error.filename, int):  # a descriptor, from os.listdir
                error.filename = str(path)
            raise
        finally:
            os.close(fd)
