"""The file operations behind all durable writes, and the few sequences composed of them.

`Fs` is the protocol, `OsFs` the real implementation; tests replace it with a simulated file system that crashes at
every operation. Independent of what is stored. Order of a durable write: new file, write, fsync, close, link or rename,
fsync of the folder.

After a failed fsync the kernel marks the pages as clean, so that a second fsync on the same file would succeed without
the data being on disk (Rebello et al., USENIX ATC 2020): a failed write is always repeated from memory, in a new file.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import logging
import os
import stat as stat_bits
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hymt_batch.fs_protocol import Fs, Stat
from hymt_batch.nofollow import FolderTree, OpenParent
from hymt_batch.storage_error import write_error

log = logging.getLogger(__name__)
T = TypeVar("T")

_KINDS = {stat_bits.S_IFREG: "file", stat_bits.S_IFDIR: "dir"}
READ_BYTES, BUFFER_BYTES = 8 << 20, 1 << 20
RETRY_DELAYS_S = (0.05, 0.25)  # before the second and the third try of a write
RETRYABLE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENOENT})
LINK_UNSUPPORTED_ERRNOS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
DIR_FSYNC_UNSUPPORTED_ERRNOS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES})


class OsFs:
    """The operating system's files; `within` returns a copy that follows no links below one output folder."""

    _tree = FolderTree(None)

    def within(self, folder: Path) -> OsFs:
        bound_fs = copy.copy(self)
        bound_fs._tree = FolderTree(folder.parent)
        return bound_fs

    def _open_parent(self, path: Path) -> OpenParent:
        return self._tree.parent(path)

    def open_exclusive(self, path: Path) -> int:
        with self._open_parent(path) as (name, dir_fd):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(name, flags, 0o666, dir_fd=dir_fd)

    write_some = staticmethod(os.write)

    def write_all(self, fd: int, data: bytes) -> None:
        remaining = memoryview(data)
        while remaining:  # a write may be partial: full disk, signal, network file system
            remaining = remaining[self.write_some(fd, remaining[:READ_BYTES]) :]

    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)  # NFS reports a full disk here

    def link(self, source: Path, target: Path) -> None:
        self._between(os.link, source, target, follow_symlinks=False)

    def rename(self, source: Path, target: Path) -> None:
        self._tree.forget(source)  # it may be a folder
        self._between(os.rename, source, target)

    def _between(self, operation: Callable[..., None], source: Path, target: Path, **options: bool) -> None:
        """Call an operation on two paths; a folder that both are in is opened once."""
        if _same_folder(source, target):
            with self._tree.parent(source, target.name) as (name, dir_fd):
                new_name = os.fspath(target) if dir_fd is None else target.name
                operation(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, **options)
        else:
            with self._open_parent(source) as (name, dir_fd), self._open_parent(target) as (new_name, new_dir_fd):
                operation(name, new_name, src_dir_fd=dir_fd, dst_dir_fd=new_dir_fd, **options)

    def unlink(self, path: Path) -> None:
        with self._open_parent(path) as (name, dir_fd):
            os.unlink(name, dir_fd=dir_fd)

    def mkdir(self, path: Path, mode: int) -> None:
        with self._open_parent(path) as (name, dir_fd):
            os.mkdir(name, mode, dir_fd=dir_fd)

    def rmdir(self, path: Path) -> None:
        self._tree.forget(path)
        with self._open_parent(path) as (name, dir_fd):
            os.rmdir(name, dir_fd=dir_fd)

    def fsync_dir(self, path: Path) -> bool:
        try:
            with self._tree.folder(path) as fd:
                os.fsync(fd)
        except OSError as error:
            if error.errno in DIR_FSYNC_UNSUPPORTED_ERRNOS:
                return False
            raise
        return True

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        # O_NONBLOCK: a FIFO in place of our file must not block the job
        with self._open_parent(path) as (name, dir_fd):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
        try:
            stat_result = os.fstat(fd)
            if not stat_bits.S_ISREG(stat_result.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            remaining = max(0, stat_result.st_size - start)
            if size is not None:
                remaining = min(remaining, size)
            chunks = []
            while remaining > 0:
                chunk = os.pread(fd, min(remaining, READ_BYTES), start)
                if not chunk:
                    break
                chunks.append(chunk)
                start += len(chunk)
                remaining -= len(chunk)
            return b"".join(chunks)
        finally:
            os.close(fd)

    def stat(self, path: Path) -> Stat:
        with self._open_parent(path) as (name, dir_fd):
            found = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        kind = _KINDS.get(stat_bits.S_IFMT(found.st_mode), "other")
        return Stat(kind, found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)

    def listdir(self, path: Path) -> list[str]:
        with self._tree.folder(path) as fd:
            return sorted(os.listdir(fd))

    def writable(self, path: Path) -> bool:
        with self._tree.folder(path) as fd:
            return os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=os.access in os.supports_effective_ids)

    def statvfs(self, path: Path) -> tuple[int, int | None]:
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize, stats.f_favail if stats.f_files else None


def _same_folder(path: Path, other: Path) -> bool:
    return os.fspath(path).rpartition("/")[0] == os.fspath(other).rpartition("/")[0]


OS_FS = OsFs()


def stat_or_none(fs: Fs, path: Path) -> Stat | None:
    try:
        return fs.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_names(fs: Fs, path: Path) -> list[str]:
    """Return the names in a folder; empty if it does not exist."""
    try:
        return fs.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_tree(fs: Fs, path: Path) -> None:
    """Remove a folder and all that is in it; a folder that gets a new file meanwhile stays.

    Raises:
        OSError: Something in it cannot be removed.
    """
    for name in list_names(fs, path):
        stat = stat_or_none(fs, path / name)
        if stat is not None and stat.kind == "dir":
            remove_tree(fs, path / name)
        else:
            remove(fs, path / name)
    with contextlib.suppress(OSError):
        fs.rmdir(path)


def has_content(fs: Fs, path: Path, data: bytes) -> bool:
    """Return whether a file holds exactly these bytes; a longer file is read only one byte past the expected size."""
    return fs.read(path, 0, len(data) + 1) == data


def remove(fs: Fs, path: Path) -> None:
    """Remove a file, if there is one. A network file system may not find a file that is there: it looks twice."""
    try:
        fs.unlink(path)
    except FileNotFoundError:
        if stat_or_none(fs, path) is not None:
            with contextlib.suppress(FileNotFoundError):
                fs.unlink(path)


def sync_if_any(fs: Fs, folder: Path) -> None:
    """Sync a folder, if there is one. A network file system may not find a folder that is there: it looks twice."""
    try:
        fs.fsync_dir(folder)
    except FileNotFoundError:
        if stat_or_none(fs, folder) is not None:
            fs.fsync_dir(folder)


def hash_file(fs: Fs, path: Path) -> tuple[int, str]:
    """Return size in bytes and sha256 of a file, in bounded memory."""
    sha, size = hashlib.sha256(), 0
    while chunk := fs.read(path, size, READ_BYTES):
        sha.update(chunk)
        size += len(chunk)
    return size, sha.hexdigest()


def with_retries(what: str, operation: Callable[[], T]) -> T:
    """Call `operation`, which must start from a new file, up to three times.

    Raises:
        HymtError: The error that `write_error` returns, after three failures, or at once if retrying cannot help.
    """
    for pause in (*RETRY_DELAYS_S, None):
        try:
            return operation()
        except OSError as error:
            if pause is None or error.errno not in RETRYABLE_ERRNOS:
                raise write_error(what, error) from error
            log.warning("storage what=%s error=%s again_in_s=%.2f", what, errno.errorcode.get(error.errno or 0), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def write_new(fs: Fs, path: Path, data: bytes) -> None:
    """Write and sync a new file; on an error, remove it and raise the error."""
    with NewFile(fs, path) as file:
        view = memoryview(data)
        for start in range(0, len(data), BUFFER_BYTES):  # in pieces: a manifest may have 50 MB
            file.write(view[start : start + BUFFER_BYTES])
        file.sync_and_close()


def write_atomic(fs: Fs, path: Path, data: bytes, *, sync_folder: bool = True) -> None:
    """Replace a file atomically: after a crash it holds either the old bytes or the new ones.

    Args:
        fs: The file system.
        path: The file.
        data: Its new bytes.
        sync_folder: Make the new bytes survive a power loss; False if the caller syncs the folder later.
    """

    def attempt() -> None:
        tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
        write_new(fs, tmp, data)
        replace(fs, tmp, path)
        if sync_folder:
            fs.fsync_dir(path.parent)

    with_retries(path.name, attempt)


def create(fs: Fs, path: Path, data: bytes) -> bool:
    """Create a file durably; False if it exists already, with these or other bytes."""

    def attempt() -> bool:
        tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
        write_new(fs, tmp, data)
        is_ours = publish(fs, tmp, path)
        fs.fsync_dir(path.parent)
        remove(fs, tmp)
        return is_ours

    return with_retries(path.name, attempt)


def read_twice(read: Callable[[], T | None]) -> T | None:
    """Return what `read` finds. A network file system may not find a file that is there, so it looks a second time."""
    found = read()
    return read() if found is None else found


def replace(fs: Fs, tmp: Path, final: Path) -> None:
    """Rename `tmp` over `final`. A network file system may report failure for a rename that happened: check first."""
    tmp_stat = fs.stat(tmp)
    try:
        fs.rename(tmp, final)
    except OSError:
        final_stat = stat_or_none(fs, final)
        if stat_or_none(fs, tmp) is None and final_stat is not None and final_stat.ino == tmp_stat.ino:
            return
        with contextlib.suppress(OSError):
            fs.unlink(tmp)
        raise


def publish(fs: Fs, tmp: Path, final: Path) -> bool:
    """Give a synced file its final name; False if the name is taken: then the caller must check the existing file."""
    try:
        fs.link(tmp, final)
        return True
    except OSError as error:
        tmp_stat, final_stat = stat_or_none(fs, tmp), stat_or_none(fs, final)
        if tmp_stat is not None and final_stat is not None:
            return (
                tmp_stat.ino == final_stat.ino and tmp_stat.dev == final_stat.dev
            )  # the call failed, but the link exists
        if final_stat is None and tmp_stat is not None and error.errno in LINK_UNSUPPORTED_ERRNOS:
            replace(fs, tmp, final)  # may replace a file, but equal identities write equal bytes
            return True
        if tmp_stat is not None and isinstance(error, FileExistsError):
            return False  # another process removed it since: it has published the shard
        if tmp_stat is None:
            raise FileNotFoundError(errno.ENOENT, "another process removed it", str(tmp)) from error
        raise


class NewFile:
    """A file that is written once, with its size and sha256; `__exit__` removes it unless it was synced and closed."""

    def __init__(self, fs: Fs, path: Path) -> None:
        self.path, self.size = path, 0
        self._fs, self._sha, self._buffer, self._synced = fs, hashlib.sha256(), bytearray(), False
        self._fd: int | None = fs.open_exclusive(path)

    def write(self, data: bytes | memoryview) -> int:
        self._sha.update(data)
        self._buffer += data
        self.size += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()
        return len(data)

    def _flush(self) -> int:
        if self._fd is None:
            raise ValueError(f"{self.path} is closed")
        data, self._buffer = bytes(self._buffer), bytearray()
        if data:
            self._fs.write_all(self._fd, data)
        return self._fd

    def sync_and_close(self) -> str:
        """Flush, sync and close the file; return the sha256 of its contents."""
        fd = self._flush()
        self._fd = None  # never sync this descriptor again, even after an error
        try:
            self._fs.fsync(fd)
        except BaseException:
            self._close_quietly(fd)
            raise
        self._fs.close(fd)
        self._synced = True
        return self._sha.hexdigest()

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, failure: object, *_: object) -> None:
        if self._synced and failure is None:
            return  # the caller renames it
        fd, self._fd = self._fd, None
        if fd is not None:
            self._close_quietly(fd)
        with contextlib.suppress(OSError):
            self._fs.unlink(self.path)

    def _close_quietly(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.close(fd)
