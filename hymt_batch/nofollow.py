"""Open a path below an output folder without following links: each folder is opened relative to the one above.

The output folder itself and the folders above it may be links; a link below could lead anywhere. Opening folder by
folder costs more than most operations, and those on one file follow each other, so a folder stays open for two
milliseconds. What replaces it in this time is noticed by the next operation, as if it came a moment later. A folder
that this process renames or removes, or in which something is not found, is opened anew at once. Source: openat(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC
TRAVERSE_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", os.O_RDONLY)  # traversing a folder needs no read permission
MAX_OPEN_FOLDERS = 8
"""Folders that a tree keeps open: those of the lease, of one file's state and of its output, and the ones above."""
MIN_DESCRIPTORS = 256
"""A process that may open fewer files keeps no folder open."""
FRESH_S = 0.002
"""Seconds for which an open folder is used again."""


class OpenFolder:
    """A folder that is open until nobody uses it any more."""

    __slots__ = ("fd", "opened_at")

    def __init__(self, fd: int) -> None:
        self.fd, self.opened_at = fd, time.monotonic()

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class FolderTree:
    """Opens what is below the output folders of one folder. Several threads may use it."""

    def __init__(self, root: Path | None) -> None:
        """Open nothing yet.

        Args:
            root: The folder that holds output folders; None if links may be followed everywhere.
        """
        self._prefix = None if root is None else _prefix(os.fspath(root))
        self._folders: dict[str, OpenFolder] = {}  # path from the root on -> the folder, if it was opened just now
        self._max_open = MAX_OPEN_FOLDERS if resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= MIN_DESCRIPTORS else 0

    def parent(self, path: Path, sibling: str | None = None) -> OpenParent:
        """Return a context that opens the parent folder of a path, for calls that take `dir_fd`.

        Its value is the last component and the descriptor of the open parent. If `path` is not inside an output folder,
        it is the whole path and None.

        Args:
            path: Any file or folder; its last component is not opened.
            sibling: Another name in the same folder, which the calls use too.

        Raises:
            NotADirectoryError: A link or a file is where a folder should be; `filename` is its path.
        """
        return OpenParent(self, os.fspath(path), sibling)

    @contextlib.contextmanager
    def folder(self, path: Path) -> Iterator[int]:
        """Open a folder for listing or syncing; errors as for `parent`."""
        with self.parent(path) as (name, dir_fd):
            fd = os.open(name, FOLDER_FLAGS | (0 if dir_fd is None else os.O_NOFOLLOW), dir_fd=dir_fd)
            try:
                yield fd
            except OSError as error:
                if error.filename is None or isinstance(error.filename, int):  # a descriptor, from os.listdir
                    error.filename = str(path)
                raise
            finally:
                os.close(fd)

    def split(self, path: str) -> tuple[str, str]:
        """Return the parent folder of a path, from the root on, and its last component.

        The parent is empty if the path is not inside an output folder.
        """
        prefix = self._prefix
        if prefix is None or not path.startswith(prefix):
            return "", path
        parent, _, name = path[len(prefix) :].rpartition("/")
        return (parent, name) if parent else ("", path)

    def open_folder(self, path: str) -> OpenFolder:
        """Open a folder, unless it was opened just now.

        Args:
            path: Its path from the root on; the first component is the output folder.

        Raises:
            OSError: It cannot be opened, or one above; `filename` is the path of that one.
        """
        folder = self._folders.get(path)
        if folder is not None and time.monotonic() - folder.opened_at < FRESH_S:
            return folder
        above, _, name = path.rpartition("/")
        try:
            if above:
                outer = self.open_folder(above)
                folder = OpenFolder(os.open(name, TRAVERSE_FLAGS | os.O_NOFOLLOW, dir_fd=outer.fd))
            else:
                folder = OpenFolder(os.open(f"{self._prefix}{path}", TRAVERSE_FLAGS))
        except OSError as error:
            self._folders.clear()
            if error.filename == name:
                error.filename = f"{self._prefix}{path}"
            raise
        if path not in self._folders and len(self._folders) >= self._max_open:
            self._folders.clear()
        if self._max_open:
            self._folders[path] = folder
        return folder

    def forget(self, path: Path) -> None:
        """Open a folder, and those below it, anew when they are next needed: it is about to be renamed or removed."""
        prefix, full = self._prefix, os.fspath(path)
        if prefix is None or not full.startswith(prefix):
            return
        name = full[len(prefix) :]
        for open_path in list(self._folders):
            if open_path.startswith(name) and open_path[len(name) : len(name) + 1] in ("", "/"):
                self._folders.pop(open_path, None)

    def forget_open(self, path: str) -> None:
        """Open a folder anew when it is next needed: it may be gone, or a network file system may not know it.

        `path` is its path from the root on.
        """
        self._folders.pop(path, None)

    def full_path(self, parent: str, name: str) -> str:
        return f"{self._prefix}{parent}/{name}"


class OpenParent:
    """The context of `FolderTree.parent`."""

    __slots__ = ("_folder", "_name", "_parent", "_path", "_sibling", "_tree")

    def __init__(self, tree: FolderTree, path: str, sibling: str | None) -> None:
        self._tree, self._path, self._sibling = tree, path, sibling
        self._parent, self._name = "", path
        self._folder: OpenFolder | None = None  # keeps it open while another thread opens it anew

    def __enter__(self) -> tuple[str, int | None]:
        self._parent, self._name = self._tree.split(self._path)
        if not self._parent:
            return self._name, None
        self._folder = self._tree.open_folder(self._parent)
        return self._name, self._folder.fd

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._folder = None
        if error is not None and self._parent and isinstance(error, OSError):  # it names the last component only
            if error.errno in (errno.ESTALE, errno.ENOENT):
                self._tree.forget_open(self._parent)
            for attribute in ("filename", "filename2"):
                name = getattr(error, attribute)
                if isinstance(name, str) and name in (self._name, self._sibling):
                    setattr(error, attribute, self._tree.full_path(self._parent, name))


def _prefix(root: str) -> str:
    """Return what the text of a path inside a folder begins with; string operations are ten times as fast as paths."""
    return "" if root == "." else root if root.endswith("/") else f"{root}/"
