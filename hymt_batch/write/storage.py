"""The store under an output folder: can it do what the protocol needs, has it room, and folders that last.

Everything here fails before a model is loaded. Does not know jobs or parts.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.errors import PreflightError
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, Fs, list_names, remove, stat_or_none, write_new
from hymt_batch.manifest import state_folder
from hymt_batch.records import Input
from hymt_batch.storage_error import output_folder_error, write_error

log = logging.getLogger(__name__)

PROBE_PREFIX = "probe-"
SPACE_FACTOR = 2.2  # parts, then the assembled file beside them; reference/reliability.md 2.8
MIN_FREE_BYTES, MIN_FREE_INODES = 1 << 20, 64  # free, for a job of any size

NOT_EXCLUSIVE = "creates a file that exists already (O_EXCL has no effect)"
NOT_REPLACING = "does not replace a file by rename"
TWO_DEVICES = "is two: .hymt and translated lie on different devices"


@dataclass(frozen=True, slots=True)
class StorageFeatures:
    """What a store can do: the first two are necessary, the others make it better."""

    exclusive_create: bool  # a name that is taken cannot be created again
    rename_replaces: bool  # a file is replaced by rename, and read back at once
    hard_links: bool
    dir_fsync: bool


@contextlib.contextmanager
def wrap_os_errors(what: str) -> Iterator[None]:
    """Whatever the store refuses inside stops the job, with everything committed kept."""
    try:
        yield
    except OSError as error:
        raise write_error(what, error) from error


class DurableFolders:
    """Makes folders so that they outlive a power loss: each new entry is synced in its parent, once a process."""

    def __init__(self, fs: Fs, root: Path) -> None:
        self._fs, self._root, self._created = fs, root, set[Path]()

    def ensure(self, path: Path) -> None:
        """Make a folder below the root, or the root itself. Raises OSError; ENOTDIR for anything but a folder."""
        if path in self._created:
            return
        below = path != self._root
        if below or stat_or_none(self._fs, path.parent) is None:
            if path.parent == path:
                return
            self.ensure_parent(path)
        try:
            self._fs.mkdir(path, 0o700 if path.name == ".hymt" else 0o777)
        except FileExistsError:
            found = stat_or_none(self._fs, path)
            if below and (found is None or found.kind != "dir"):  # a link could lead anywhere
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(path)) from None
        self._fs.fsync_dir(path.parent)
        self._created.add(path)

    def ensure_parent(self, path: Path) -> None:
        if path == self._root:
            DurableFolders(self._fs, path.parent).ensure(path.parent)
        else:
            self.ensure(path.parent)

    def forget_folder(self, path: Path) -> None:
        """Nothing more is made in a folder: it need not be remembered."""
        self._created.discard(path)

    def forget_all(self) -> None:
        """After a folder vanished: believe nothing."""
        self._created.clear()


def probe_features(fs: Fs, folder: Path) -> StorageFeatures:
    """Try in a folder all that the protocol does later; nothing of it stays. Raises OSError."""
    first, second = (folder / f"{PROBE_PREFIX}{uuid.uuid4().hex}" for _ in range(2))
    try:
        write_new(fs, first, b"first")
        exclusive = True
        with contextlib.suppress(FileExistsError):
            fs.close(fs.open_exclusive(first))
            exclusive = False
        links = True
        try:
            fs.link(first, second)
        except OSError as error:
            if error.errno not in LINK_UNSUPPORTED_ERRNOS:
                raise
            links = False
            write_new(fs, second, b"second")
        fs.rename(first, second)
        remove(fs, first)  # two links to one file: POSIX leaves both names
        write_new(fs, first, b"third")
        fs.rename(first, second)
        replaces = fs.read(second) == b"third"
        return StorageFeatures(exclusive, replaces, links, fs.fsync_dir(folder))
    finally:
        for path in (first, second):
            with contextlib.suppress(OSError):
                fs.unlink(path)


MAX_PROBES = 5  # times that others may sweep away what is tried out, before it counts


def _probe_with_retries(fs: Fs, folder: Path) -> StorageFeatures:
    """`try_out`, again where it fails: a runner beside us that thinks us dead sweeps our files away."""
    for _ in range(MAX_PROBES):
        with contextlib.suppress(FileNotFoundError):
            store = probe_features(fs, folder)
            if store.exclusive_create and store.rename_replaces:
                return store
    return probe_features(fs, folder)


def num_devices(fs: Fs, folder: Path) -> int:
    """Devices over which the state and the translations lie, as far as they exist; no rename crosses two."""
    return len({found.dev for name in (".hymt", "translated") if (found := stat_or_none(fs, folder / name))})


def check_storage(fs: Fs, folder: Path) -> StorageFeatures:
    """Try, in `.hymt`, all that the protocol does later.

    Raises:
        PreflightError: The store lacks exclusive creation, rename over a file, or read-your-own-writes; or it refuses.
    """
    try:
        store = _probe_with_retries(fs, state_folder(folder))
        if not store.exclusive_create:
            raise _unsupported_error(folder, NOT_EXCLUSIVE)
        if not store.rename_replaces:
            raise _unsupported_error(folder, NOT_REPLACING)
        if num_devices(fs, folder) > 1:
            raise _unsupported_error(folder, TWO_DEVICES)
    except OSError as error:
        raise output_folder_error(folder, error) from error
    if not store.dir_fsync:
        log.warning("store dir_fsync=no: a power loss may cost more than one part; nothing wrong can come of it")
    return store


def _unsupported_error(folder: Path, what: str) -> PreflightError:
    return PreflightError(
        f"the store under {folder} {what}; a stopped job could not be continued safely there. "
        "Set output_dir= to a local or a POSIX network file system."
    )


def required_space(fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str) -> tuple[int, int]:
    """Free bytes and inodes without which a job does not start; arguments as of `check_space`."""
    if min_free != "auto":
        return int(min_free), 0
    size = sum(_input_bytes(i) * (4 if i.compression else 1) for i in inputs)
    need = max(0, int(size * SPACE_FACTOR) - _committed_bytes(fs, folder, inputs)) + MIN_FREE_BYTES
    return need, 4 * len(inputs) + size // (64 << 10) + MIN_FREE_INODES


def check_space(fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str) -> None:
    """Refuse to start where the output will not fit.

    Args:
        fs: The store.
        folder: The output folder, which exists.
        inputs: The files still to be translated.
        min_free: write.min_free: bytes, or "auto" to estimate from the inputs.

    Raises:
        PreflightError: Need and have, in bytes or inodes.
    """
    free, inodes = fs.statvfs(folder)
    need, need_inodes = required_space(fs, folder, inputs, min_free)
    if free < need:
        raise PreflightError(
            f"the store under {folder} has {_mib(free)} MiB free, and this job needs about {_mib(need)} MiB. "
            "Free some, or set output_dir= to another store, or write.min_free=0 to start all the same."
        )
    if inodes is not None and inodes < need_inodes:
        raise PreflightError(
            f"the store under {folder} has {inodes} inodes free, and this job needs about {need_inodes}. "
            "Remove some files, or set output_dir= to another store, or write.min_free=0 to start all the same."
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f}"


def _input_bytes(input: Input) -> int:
    root = Path(input.path)
    try:
        return sum(p.stat().st_size for p in root.rglob("*")) if root.is_dir() else root.stat().st_size
    except OSError:
        return 0  # the source says so, better


def _committed_bytes(fs: Fs, folder: Path, inputs: Sequence[Input]) -> int:
    """Bytes of parts that are there already."""
    held = 0
    for input in inputs:
        home = state_folder(folder) / f"f{input.file_id}"
        for shard in list_names(fs, home):
            for part in list_names(fs, home / shard):
                found = stat_or_none(fs, home / shard / part)
                held += found.size if found else 0
    return held
