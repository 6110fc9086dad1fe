"""The dozen file operations that everything durable goes through, and the few sequences made of them.

`Fs` is the port, `Os` the real one; tests put a simulated store under it that crashes at every operation. Does not know
what is stored. Order of a durable write: new file, write, fsync, close, link or rename, fsync of the folder.

Source: reference/reliability.md 2.5 and 2.8; a failed fsync marks pages clean, so that a second fsync on the same file
would claim what is not so (ATC'20): a failed write is always done again from memory, in a new file.
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
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from hymt_batch.fs_protocol import Fs, Stat
from hymt_batch.nofollow import open_folder, open_parent
from hymt_batch.storage_error import write_error

log = logging.getLogger(__name__)
T = TypeVar("T")

__all__ = ["Fs", "Stat"]

READ_BYTES, BUFFER_BYTES = 8 << 20, 1 << 20
RETRY_DELAYS_S = (0.05, 0.25)  # before the second and the third try of a write
RETRYABLE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ENOENT})
LINK_UNSUPPORTED_ERRNOS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
DIR_FSYNC_UNSUPPORTED_ERRNOS = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES})


class OsFs:
    """The operating system's files; `within` makes those of one output folder, below which no link is followed."""

    _trusted_root: Path | None = None  # the folder that holds the output folder

    def within(self, folder: Path) -> OsFs:
        other = copy.copy(self)
        other._trusted_root = folder.parent
        return other

    def _open_parent(self, path: Path) -> AbstractContextManager[tuple[str, int | None]]:
        return open_parent(path, self._trusted_root)

    def open_exclusive(self, path: Path) -> int:
        with self._open_parent(path) as (name, at):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            return os.open(name, flags, 0o666, dir_fd=at)

    write_some = staticmethod(os.write)

    def write_all(self, fd: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # a write may be short: full disk, signal, network file system
            rest = rest[self.write_some(fd, rest[:READ_BYTES]) :]

    fsync = staticmethod(os.fsync)
    close = staticmethod(os.close)  # NFS reports a full disk here

    def link(self, source: Path, target: Path) -> None:
        with self._open_parent(source) as (old, old_at), self._open_parent(target) as (new, new_at):
            os.link(old, new, src_dir_fd=old_at, dst_dir_fd=new_at, follow_symlinks=False)

    def rename(self, source: Path, target: Path) -> None:
        with self._open_parent(source) as (old, old_at), self._open_parent(target) as (new, new_at):
            os.rename(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    def unlink(self, path: Path) -> None:
        with self._open_parent(path) as (name, at):
            os.unlink(name, dir_fd=at)

    def mkdir(self, path: Path, mode: int) -> None:
        with self._open_parent(path) as (name, at):
            os.mkdir(name, mode, dir_fd=at)

    def rmdir(self, path: Path) -> None:
        with self._open_parent(path) as (name, at):
            os.rmdir(name, dir_fd=at)

    def fsync_dir(self, path: Path) -> bool:
        try:
            with open_folder(path, self._trusted_root) as fd:
                os.fsync(fd)
        except OSError as error:
            if error.errno in DIR_FSYNC_UNSUPPORTED_ERRNOS:
                return False
            raise
        return True

    def read(self, path: Path, start: int = 0, size: int | None = None) -> bytes:
        # O_NONBLOCK: a fifo put in our place must not hang the job
        with self._open_parent(path) as (name, at):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
        try:
            found = os.fstat(fd)
            if not stat_bits.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            left = max(0, found.st_size - start) if size is None else size
            pieces = []
            while left > 0:
                piece = os.pread(fd, min(left, READ_BYTES), start)
                if not piece:
                    break
                pieces.append(piece)
                start += len(piece)
                left -= len(piece)
            return b"".join(pieces)
        finally:
            os.close(fd)

    def stat(self, path: Path) -> Stat:
        with self._open_parent(path) as (name, at):
            s = os.stat(name, dir_fd=at, follow_symlinks=False)
        kind = "file" if stat_bits.S_ISREG(s.st_mode) else "dir" if stat_bits.S_ISDIR(s.st_mode) else "other"
        return Stat(kind, s.st_size, s.st_mtime_ns, s.st_ino, s.st_dev, s.st_nlink)

    def listdir(self, path: Path) -> list[str]:
        with open_folder(path, self._trusted_root) as fd:
            return sorted(os.listdir(fd))

    def writable(self, path: Path) -> bool:
        with open_folder(path, self._trusted_root) as fd:
            return os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=os.access in os.supports_effective_ids)

    def statvfs(self, path: Path) -> tuple[int, int | None]:
        s = os.statvfs(path)
        return s.f_bavail * s.f_frsize, s.f_favail if s.f_files else None


OS_FS = OsFs()


def stat_or_none(fs: Fs, path: Path) -> Stat | None:
    try:
        return fs.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_names(fs: Fs, path: Path) -> list[str]:
    """Names in a folder; none where it does not exist."""
    try:
        return fs.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return []


def has_content(fs: Fs, path: Path, data: bytes) -> bool:
    """Whether a file holds these bytes; what is longer is not read."""
    return fs.read(path, 0, len(data) + 1) == data


def remove(fs: Fs, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(path)


def hash_file(fs: Fs, path: Path) -> tuple[int, str]:
    """Size and sha256 of a file, in bounded memory."""
    sha, at = hashlib.sha256(), 0
    while piece := fs.read(path, at, READ_BYTES):
        sha.update(piece)
        at += len(piece)
    return at, sha.hexdigest()


def with_retries(what: str, operation: Callable[[], T]) -> T:
    """Call `make`, which starts from a new file, at most three times; then, or at once for what stays, StoppedError."""
    for pause in (*RETRY_DELAYS_S, None):
        try:
            return operation()
        except OSError as error:
            if pause is None or error.errno not in RETRYABLE_ERRNOS:
                raise write_error(what, error) from error
            log.warning("store what=%s error=%s again_in_s=%.2f", what, errno.errorcode.get(error.errno or 0), pause)
            time.sleep(pause)
    raise AssertionError("unreachable")


def write_new(fs: Fs, path: Path, data: bytes) -> None:
    """Write and sync a new file; on any error it is gone and the error raised."""
    with NewFile(fs, path) as file:
        file.write(data)
        file.sync_and_close()


def write_atomic(fs: Fs, path: Path, data: bytes) -> None:
    """Replace a file as a whole: after a crash it holds the old bytes or the new ones."""

    def once() -> None:
        tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
        write_new(fs, tmp, data)
        replace(fs, tmp, path)
        fs.fsync_dir(path.parent)

    with_retries(path.name, once)


def replace(fs: Fs, tmp: Path, final: Path) -> None:
    """Rename over; a network file system may report failure for a rename that happened, so look before failing."""
    wrote = fs.stat(tmp)
    try:
        fs.rename(tmp, final)
    except OSError:
        found = stat_or_none(fs, final)
        if stat_or_none(fs, tmp) is None and found is not None and found.ino == wrote.ino:
            return
        with contextlib.suppress(OSError):
            fs.unlink(tmp)
        raise


def publish(fs: Fs, tmp: Path, final: Path) -> bool:
    """Give a synced file its final name, unless it is taken: then False, and what is there is the caller's to judge."""
    try:
        fs.link(tmp, final)
        return True
    except OSError as error:
        ours, found = stat_or_none(fs, tmp), stat_or_none(fs, final)
        if ours is not None and found is not None:
            return ours.ino == found.ino and ours.dev == found.dev  # reported as failed, but it happened
        if found is None and ours is not None and error.errno in LINK_UNSUPPORTED_ERRNOS:
            replace(fs, tmp, final)  # no exclusivity here; equal identities make equal bytes
            return True
        raise


class NewFile:
    """A file that is written once, with its size and sha256; gone on the way out unless it was settled."""

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
        """Write out, sync, close; the sha256 of the whole."""
        fd = self._flush()
        self._fd = None  # whatever happens now, this descriptor is not synced again
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
            return  # the caller gave it its name, or will
        fd, self._fd = self._fd, None
        if fd is not None:
            self._close_quietly(fd)
        with contextlib.suppress(OSError):
            self._fs.unlink(self.path)

    def _close_quietly(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._fs.close(fd)
