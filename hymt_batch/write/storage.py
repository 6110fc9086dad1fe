"""Check that the file system of an output folder supports the commit protocol; create folders and publish parts.

All checks run before a model is loaded. Independent of jobs and parts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import PreflightError
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, publish, remove, replace, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import state_folder
from hymt_batch.storage_error import output_folder_error

log = logging.getLogger(__name__)

PROBE_PREFIX = "probe-"

NOT_EXCLUSIVE = "creates a file that already exists (O_EXCL has no effect)"
NOT_REPLACING = "does not replace a file on rename"
TWO_DEVICES = "is split over two devices: .hymt and translated are not on the same one"


@dataclass(frozen=True, slots=True)
class StorageFeatures:
    """Features of a file system: the first two are required, the last two are optional."""

    exclusive_create: bool  # O_EXCL rejects a name that exists
    rename_replaces: bool  # after a rename over a file, a read returns the new contents
    hard_links: bool
    dir_fsync: bool


class DurableFolders:
    """Creates folders that survive a power loss: each new folder is synced in its parent, once per process."""

    def __init__(self, fs: Fs, root: Path) -> None:
        self._fs, self._root = fs, root
        self._created: dict[Path, bool] = {}  # folder that exists -> whether this process made it

    def ensure(self, path: Path) -> None:
        """Create a folder below the root, or the root itself.

        Raises:
            OSError: It cannot be created; ENOTDIR if the name belongs to something other than a folder, ENOENT if
                another process just removed it.
        """
        if path not in self._created:
            self.ensure_all([path])

    def ensure_all(self, paths: Iterable[Path]) -> None:
        """Create folders as `ensure` does, and sync each folder above them once."""
        paths = list(paths)
        above = dict.fromkeys(path.parent for path in paths if path != self._root)
        if new := [path for path in above if path not in self._created]:
            self.ensure_all(new)  # groups of files are below one folder, which is synced once
        created: dict[Path, bool] = {}
        for path in paths:
            if path not in self._created and path not in created and (is_new := self._create(path)) is not None:
                created[path] = is_new
        for parent in dict.fromkeys(path.parent for path in created):
            self._fs.fsync_dir(parent)
        self._created.update(created)

    def knows(self, path: Path) -> bool:
        """True if the folder was ensured, until it is forgotten."""
        return path in self._created

    def made(self, path: Path) -> bool:
        """True if the folder was ensured and did not exist before."""
        return self._created.get(path, False)

    def _create(self, path: Path) -> bool | None:
        """Create a folder without syncing it; return whether it is new, None for the root of the file system."""
        is_below_root = path != self._root
        if is_below_root or stat_or_none(self._fs, path.parent) is None:
            if path.parent == path:
                return None
            self.ensure_parent(path)
        try:
            self._fs.mkdir(path, 0o700 if path.name == ".hymt" else 0o777)
        except FileExistsError:
            stat = stat_or_none(self._fs, path)
            if is_below_root and stat is None:  # another process finished its shard in the meantime
                raise FileNotFoundError(errno.ENOENT, "it was removed", str(path)) from None
            if is_below_root and stat is not None and stat.kind != "dir":  # a link could lead anywhere
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path)) from None
            return False
        return True

    def ensure_parent(self, path: Path) -> None:
        if path == self._root:
            DurableFolders(self._fs, path.parent).ensure(path.parent)
        else:
            self.ensure(path.parent)

    def forget_folder(self, path: Path) -> None:
        """Forget a folder in which nothing more will be created, to save memory."""
        self._created.pop(path, None)

    def forget_all(self) -> None:
        """Forget all folders, after one of them disappeared."""
        self._created.clear()


def publish_part(
    fs: Fs,
    folders: DurableFolders,
    path: Path,
    data: bytes,
    check_lease: Callable[[], None],
    has_existing: Callable[[], bool],
    *,
    replaces: bool = False,
) -> bool:
    """Try once to publish a part, of rows or of segments, durably; the first writer wins.

    Args:
        fs: The file system.
        folders: Creates the folder of its shard.
        path: Its final path.
        data: Its bytes.
        check_lease: Raises if this process must not write any more.
        has_existing: Returns whether the file that has the name already is the same part; frees the name if not.
        replaces: `has_existing` leaves a part of other rows in its place: the input changed, and this part replaces it.

    Returns:
        False if another process published it first.
    """
    tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
    try:
        folders.ensure(path.parent)
        write_new(fs, tmp, data)
        check_lease()
        while not (is_ours := publish(fs, tmp, path)):
            if has_existing():
                break
            if replaces:
                replace(fs, tmp, path)
                is_ours = True
                break
        fs.fsync_dir(path.parent)
        return is_ours
    except FileNotFoundError:
        folders.forget_all()
        raise
    finally:
        if stat_or_none(fs, tmp):
            remove(fs, tmp)


def probe_features(fs: Fs, folder: Path) -> StorageFeatures:
    """Try in a folder every operation that the protocol uses, and remove the probe files. Raises OSError."""
    first, second = (folder / f"{PROBE_PREFIX}{uuid.uuid4().hex}" for _ in range(2))
    try:
        write_new(fs, first, b"first")
        exclusive = True
        with contextlib.suppress(FileExistsError):
            fs.close(fs.open_exclusive(first))
            exclusive = False
        hard_links = True
        try:
            fs.link(first, second)
        except OSError as error:
            if error.errno not in LINK_UNSUPPORTED_ERRNOS:
                raise
            hard_links = False
            write_new(fs, second, b"second")
        fs.rename(first, second)
        remove(fs, first)  # two links to one file: POSIX leaves both names
        write_new(fs, first, b"third")
        fs.rename(first, second)
        rename_replaces = fs.read(second) == b"third"
        return StorageFeatures(exclusive, rename_replaces, hard_links, fs.fsync_dir(folder))
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                fs.unlink(path)


MAX_PROBES = 5  # other runs may remove our probe files this often


def _probe_with_retries(fs: Fs, folder: Path) -> StorageFeatures:
    """Do what `probe_features` does, with retries, because another run may remove our probe files as leftovers."""
    for _ in range(MAX_PROBES):
        with contextlib.suppress(FileNotFoundError):
            features = probe_features(fs, folder)
            if features.exclusive_create and features.rename_replaces:
                return features
    return probe_features(fs, folder)


def num_devices(fs: Fs, folder: Path) -> int:
    """Count the devices that hold the state and the translations, if these exist; rename cannot cross devices."""
    return len({stat.dev for name in (".hymt", "translated") if (stat := stat_or_none(fs, folder / name))})


def check_storage(fs: Fs, folder: Path) -> StorageFeatures:
    """Try, in `.hymt`, every operation that the protocol uses.

    Raises:
        PreflightError: The file system lacks exclusive create, atomic replace or read-your-own-writes, or it failed.
    """
    try:
        features = _probe_with_retries(fs, state_folder(folder))
        if not features.exclusive_create:
            raise _unsupported_error(folder, NOT_EXCLUSIVE)
        if not features.rename_replaces:
            raise _unsupported_error(folder, NOT_REPLACING)
        if num_devices(fs, folder) > 1:
            raise _unsupported_error(folder, TWO_DEVICES)
    except OSError as error:
        raise output_folder_error(folder, error, is_prepared=True) from error
    if not features.dir_fsync:
        log.warning("storage dir_fsync=no: a power loss may cost more than one part, but never yields wrong output")
    return features


def _unsupported_error(folder: Path, what: str) -> PreflightError:
    return PreflightError(
        f"the file system under {folder} {what}",
        why="a stopped job could not be resumed safely there",
        fix="Set output_dir= to a local or a POSIX network file system.",
    )
