"""Check that the file system of an output folder supports the commit protocol and has enough space; create folders.

All checks run before a model is loaded. Independent of jobs and parts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import PreflightError
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, list_names, publish, remove, replace, stat_or_none, write_new
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import state_folder
from hymt_batch.records import Input
from hymt_batch.state_layout import file_states, shard_entries
from hymt_batch.storage_error import output_folder_error

log = logging.getLogger(__name__)

PROBE_PREFIX = "probe-"
SPACE_FACTOR = 2.2  # output bytes per input byte: parts and assembled files exist at the same time
MIN_FREE_BYTES, MIN_FREE_INODES = 1 << 20, 64  # required for a job of any size

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


def required_space(
    fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str, states: Iterable[Path] | None = None
) -> tuple[int, int]:
    """Return the free bytes and inodes that a job needs to start; arguments as for `check_space`."""
    if min_free != "auto":
        return int(min_free), 0
    size = sum(input_bytes(i) * (4 if i.compression else 1) for i in inputs)
    bytes_needed = (
        max(
            0,
            int(size * SPACE_FACTOR)
            - _committed_bytes(fs, file_states(fs, folder) if states is None else states, inputs),
        )
        + MIN_FREE_BYTES
    )
    return bytes_needed, 4 * len(inputs) + size // (64 << 10) + MIN_FREE_INODES


def check_space(
    fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str, states: Iterable[Path] | None = None
) -> None:
    """Check that the output fits on the file system.

    Args:
        fs: The file system.
        folder: The output folder; it exists.
        inputs: The files still to be translated.
        min_free: The setting write.min_free: bytes, or "auto" to estimate them from the inputs.
        states: The state folders of all files; None to list them, if they are needed.

    Raises:
        PreflightError: Too few bytes or inodes are free.
    """
    bytes_free, inodes_free = fs.statvfs(folder)
    bytes_needed, inodes_needed = required_space(fs, folder, inputs, min_free, states)
    if bytes_free < bytes_needed:
        raise PreflightError(
            f"the file system under {folder} has {_mib(bytes_free)} MiB free, and this job needs about "
            f"{_mib(bytes_needed)} MiB",
            fix="Free some space, or set output_dir= to another file system, or write.min_free=0 to start anyway.",
        )
    if inodes_free is not None and inodes_free < inodes_needed:
        raise PreflightError(
            f"the file system under {folder} has {inodes_free} inodes free, and this job needs about {inodes_needed}",
            fix="Remove some files, or set output_dir= to another file system, or write.min_free=0 to start anyway.",
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f}"


def input_bytes(input: Input) -> int:
    """Return the size of an input on the disk; 0 if it cannot be read."""
    if input.size is not None:
        return input.size
    root = Path(input.path)
    try:
        return sum(p.stat().st_size for p in root.rglob("*")) if root.is_dir() else root.stat().st_size
    except OSError:
        return 0  # the source stage reports it with a better message


def _committed_bytes(fs: Fs, states: Iterable[Path], inputs: Sequence[Input]) -> int:
    """Return the size of all parts and row records that already exist."""
    num_bytes, wanted = 0, frozenset(f"f{input.file_id}" for input in inputs)
    for file_state in states:
        for entry in shard_entries(fs, file_state) if file_state.name in wanted else ():
            for path in (entry, *(entry / part for part in list_names(fs, entry))):
                stat = stat_or_none(fs, path)
                num_bytes += stat.size if stat and stat.kind == "file" else 0
    return num_bytes
