"""Open a path below an output folder without following links: each folder is opened relative to the one above.

The output folder itself and the folders above it may be links; a link below could lead anywhere. Opening folder by
folder costs more than most operations, so the folders at the top of an output folder (`.hymt`, `translated`, ...) stay
open. Before each use it is checked that the name still belongs to the open folder. Source: openat(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC
TRAVERSE_FLAGS = FOLDER_FLAGS | getattr(os, "O_PATH", os.O_RDONLY)  # traversing a folder needs no read permission
MAX_OPEN_FOLDERS = 32
"""Folders that stay open in the life of one tree; a folder that somebody replaces again and again must not use up all
descriptors."""


class FolderTree:
    """Opens what is below the output folders of one folder. Several threads may use it."""

    def __init__(self, root: Path | None) -> None:
        """Open nothing yet.

        Args:
            root: The folder that holds output folders; None if links may be followed everywhere.
        """
        self._prefix = None if root is None else _prefix(os.fspath(root))
        self._top: dict[str, tuple[int, tuple[int, int]]] = {}  # "NAME/.hymt" -> descriptor, device and inode
        self._opened: list[int] = []  # also those of folders that were replaced: another thread may be using them
        self._last_split: tuple[str, list[str]] = "", []  # most calls are for the same folder as the one before

    def __del__(self) -> None:
        for fd in self._opened:
            with contextlib.suppress(OSError):
                os.close(fd)

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

    def split(self, path: str) -> tuple[list[str], str]:
        """Return the components of the parent folder of a path, from the root on, and its last component.

        The components are empty if the path is not inside an output folder.
        """
        prefix = self._prefix
        if prefix is None or not path.startswith(prefix):
            return [], path
        parent, _, name = path[len(prefix) :].rpartition("/")
        last_parent, parts = self._last_split
        if parent != last_parent:
            parts = parent.split("/")
            self._last_split = parent, parts
        return (parts, name) if parent else ([], path)

    def open_folders(self, parts: Sequence[str]) -> tuple[int, bool]:
        """Open a folder; return its descriptor and whether the caller must close it.

        Args:
            parts: The folder's components from the root on; the first is the output folder.

        Raises:
            OSError: One cannot be opened; `filename` is its path.
        """
        kept_fd = self._kept(parts) if len(parts) > 1 else None
        is_own = kept_fd is None
        fd = os.open(f"{self._prefix}{parts[0]}", TRAVERSE_FLAGS) if kept_fd is None else kept_fd
        depth = 0
        try:
            for depth in range(1 if is_own else 2, len(parts)):
                inner_fd = os.open(parts[depth], TRAVERSE_FLAGS | os.O_NOFOLLOW, dir_fd=fd)
                if depth == 1 and self._keep(parts, inner_fd):
                    os.close(fd)
                    fd, is_own = inner_fd, False
                    continue
                outer_fd, fd = fd, inner_fd
                if is_own:
                    os.close(outer_fd)
                is_own = True
        except OSError as error:
            error.filename = f"{self._prefix}{'/'.join(parts[: depth + 1])}"
            if is_own:
                os.close(fd)
            raise
        return fd, is_own

    def _kept(self, parts: Sequence[str]) -> int | None:
        """Return the descriptor of a folder that is open already, if the folder still has its name."""
        name = f"{parts[0]}/{parts[1]}"
        kept = self._top.get(name)
        if kept is None:
            return None
        try:
            stat = os.stat(f"{self._prefix}{name}", follow_symlinks=False)
        except OSError:
            return None
        return kept[0] if (stat.st_dev, stat.st_ino) == kept[1] else None

    def _keep(self, parts: Sequence[str], fd: int) -> bool:
        """Keep a folder open from now on; False if there is no room for it."""
        if len(self._opened) >= MAX_OPEN_FOLDERS:
            return False
        stat = os.fstat(fd)
        self._opened.append(fd)
        self._top[f"{parts[0]}/{parts[1]}"] = fd, (stat.st_dev, stat.st_ino)
        return True

    def forget(self, parts: Sequence[str]) -> None:
        """Open a folder anew when it is next needed: a network file system no longer knows what is open."""
        self._top.pop("/".join(parts[:2]), None)

    def full_path(self, parts: Sequence[str], name: str) -> str:
        return f"{self._prefix}{'/'.join(parts)}/{name}"


class OpenParent:
    """The context of `FolderTree.parent`."""

    __slots__ = ("_fd", "_is_own", "_name", "_parts", "_path", "_sibling", "_tree")

    def __init__(self, tree: FolderTree, path: str, sibling: str | None) -> None:
        self._tree, self._path, self._sibling = tree, path, sibling
        self._parts: list[str] = []
        self._fd, self._is_own, self._name = -1, False, path

    def __enter__(self) -> tuple[str, int | None]:
        self._parts, name = self._tree.split(self._path)
        if not self._parts:
            return name, None
        self._name = name
        self._fd, self._is_own = self._tree.open_folders(self._parts)
        return name, self._fd

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._is_own:
            os.close(self._fd)
        if error is not None and self._parts and isinstance(error, OSError):  # it names the last component only
            if error.errno == errno.ESTALE:
                self._tree.forget(self._parts)
            for attribute in ("filename", "filename2"):
                name = getattr(error, attribute)
                if isinstance(name, str) and name in (self._name, self._sibling):
                    setattr(error, attribute, self._tree.full_path(self._parts, name))


def _prefix(root: str) -> str:
    """Return what the text of a path inside a folder begins with; string operations are ten times as fast as paths."""
    return "" if root == "." else root if root.endswith("/") else f"{root}/"
