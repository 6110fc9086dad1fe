"""Store inputs that cannot be read twice: standard input and datasets of the Hugging Face hub.

They are first stored in a staging folder, because the job gets its output folder only after its inputs are known. When
the job holds the lease of the folder, `link_into` links them into `.hymt/spool`. A stored file gets its final name only
when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import re
import select
import shutil
import stat
import sys
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from hymt_batch.errors import ConfigError, InputChangedError, StoppedError
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, OS_FS, publish, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.source import hub as hub_reader
from hymt_batch.source.settings import SourceConfig
from hymt_batch.storage_error import wrap_folder_errors, write_error

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
STDIN_WAIT_S = 2.0  # how long a resumed job waits for the first byte of standard input


class Spool:
    """The stored inputs of one job.

    Args:
        folder: The requested output folder; not written to before `link_into`.
        replace: Standard input replaces the stored input, so the job waits for it without a time limit.
        only_stored: Standard input is not read: it must be stored.
    """

    def __init__(self, folder: Path, *, replace: bool = False, only_stored: bool = False) -> None:
        self.staging_folder = folder.parent / f".spool-{uuid.uuid4().hex}"  # the caller removes it when the job ends
        self._spool_folder, self._replace, self._only_stored = _spool_folder(folder), replace, only_stored
        self._fs = OS_FS.within(folder)  # also used for a fork of the folder
        self._stored_paths: dict[str, Path] = {}  # name below the spool folder -> path of the data in this run

    def store_stdin(self, extension: str, stream: BinaryIO | None = None) -> tuple[Path, str]:
        """Store standard input; without one, use what an earlier run stored.

        Args:
            extension: Extension of the stored file, with its dot.
            stream: Read instead of the process's standard input.

        Returns:
            The file and its relative name.

        Raises:
            ConfigError: There is no standard input.
            PreflightError: The file cannot be stored.
        """
        name = f"stdin{extension}"
        source = getattr(sys.stdin, "buffer", None) if stream is None else stream
        source = None if self._only_stored else source
        stored_path = self._spool_folder / name
        is_stored = _has_kind(self._fs, stored_path, "file")
        if source is None and not is_stored:
            raise ConfigError(
                "source.path=- needs standard input, but this process has none", fix="Set source.path to a file."
            )
        if source is not None and (not is_stored or _has_data(source, None if self._replace else STDIN_WAIT_S)):
            if source.isatty():
                log.info("reading standard input; press Ctrl-D to end it")
            staged = self._staging_path(name)
            if _store_stream(source, staged) or not is_stored:
                self._stored_paths[name] = staged
                return staged, name
        log.info("using the standard input stored by an earlier run: file=%s", stored_path)
        self._stored_paths[name] = stored_path
        return stored_path, name

    def store_hub(self, name: str, config: SourceConfig) -> list[tuple[Path, str]]:
        """Store a dataset of the hub as parquet, one file per split, unless an earlier run stored it.

        Args:
            name: Id of the dataset on the hub.
            config: The settings source.subset, source.split and source.revision.

        Returns:
            The files and their relative names.

        Raises:
            PreflightError: The hub has no such dataset, cannot be reached, or the files cannot be stored.
            StoppedError: A disk fails.
        """
        words = [name.replace("/", "--"), config.subset, config.revision]
        dataset_folder = re.sub(r"[^\w.-]", "_", "--".join(word for word in words if word))
        marker = "all" if config.split is None else "only-" + re.sub(r"[^\w.-]", "_", config.split)
        short, below = name.split("/")[1], f"hub/{dataset_folder}/{marker}"
        stored = self._spool_folder / below
        if not _has_kind(self._fs, stored, "dir"):
            stored = self._staging_path(below)
            with _storage_errors(stored):
                stored.mkdir(exist_ok=True)
            hub_reader.fetch_in_subprocess(name, config.subset, config.split, config.revision, stored)
        self._stored_paths[below] = stored
        files = sorted(stored.glob("*.parquet"))
        if config.split is not None or len(files) == 1:
            return [(file, f"{short}.parquet") for file in files]
        return [(file, f"{short}/{file.name}") for file in files]

    def link_into(self, folder: Path) -> None:
        """Link the stored inputs into the job's folder, whose lease the caller holds.

        Raises:
            InputChangedError: Standard input differs from the stored one.
            StoppedError: The files cannot be stored.
        """
        for name, source in self._stored_paths.items():
            final = _spool_folder(folder) / name
            if source == final:
                continue
            tmp = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
            try:
                _make_folders(self._fs, folder, final.parent)
                _require_kind(self._fs, final, "dir" if source.is_dir() else "file")
                if source.is_dir():
                    _link_folder(source, tmp, final)
                else:
                    self._link_file(source, tmp, final)
                self._fs.fsync_dir(final.parent)
            except OSError as error:
                raise write_error(f".hymt/spool/{name}", error) from error
            finally:
                tmp.unlink(missing_ok=True) if not tmp.is_dir() else shutil.rmtree(tmp, ignore_errors=True)

    def _link_file(self, source: Path, tmp: Path, final: Path) -> None:
        _link_or_copy(source, tmp)
        if publish(OS_FS, tmp, final) or _digest(source) == _digest(final):
            return
        if not self._replace:
            raise InputChangedError(
                f"Standard input has {source.stat().st_size} bytes that differ from the {final.stat().st_size} "
                "bytes with which the job started",
                fix="Pass the same input or none (< /dev/null) to continue, or set on_input_change=redo to "
                "translate what changed, or name=ANOTHER for a new job.",
            )
        os.replace(tmp, final)

    def _staging_path(self, name: str) -> Path:
        path = self.staging_folder / name
        with _storage_errors(self.staging_folder):
            self.staging_folder.parent.mkdir(parents=True, exist_ok=True)
            self.staging_folder.mkdir(0o700, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _spool_folder(folder: Path) -> Path:
    return folder / ".hymt" / "spool"


def _has_kind(fs: Fs, path: Path, kind: str) -> bool:
    """Return whether the path exists, is of this kind, and has no link among its folders."""
    with contextlib.suppress(OSError):
        return fs.stat(path).kind == kind
    return False


def _make_folders(fs: Fs, folder: Path, path: Path) -> None:
    """Create the folders from an output folder down to a path; raise OSError if one of them is a link."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in reversed([parent for parent in (path, *path.parents) if folder in parent.parents]):
        with contextlib.suppress(FileExistsError):
            fs.mkdir(parent, 0o777)
        _require_kind(fs, parent, "dir")


def _require_kind(fs: Fs, path: Path, kind: str) -> None:
    stat = stat_or_none(fs, path)
    if stat is not None and stat.kind != kind:
        raise OSError(errno.ENOTDIR if kind == "dir" else errno.EISDIR, "of another kind", str(path))


def _storage_errors(path: Path) -> AbstractContextManager[None]:
    """Turn an OSError inside the block into the error for a folder that cannot store the input."""
    return wrap_folder_errors(path, "the input of source.path")


def _store_stream(source: BinaryIO, path: Path) -> int:
    """Store a stream durably and return its size in bytes."""
    size = 0
    with _storage_errors(path):
        fd = OS_FS.open_exclusive(path)
    try:
        while block := _read_block(source):
            with _storage_errors(path):
                OS_FS.write_all(fd, block)
            size += len(block)
        with _storage_errors(path):
            os.fsync(fd)
    finally:
        os.close(fd)
    return size


def _read_block(source: BinaryIO) -> bytes:
    """Read the next bytes of standard input, waiting for them even if it is non-blocking; b"" at its end.

    Raises:
        ConfigError: Standard input cannot be read.
        StoppedError: Reading failed before the end.
    """
    try:
        while (block := source.read(BLOCK_BYTES)) is None:
            select.select([source], [], [])
        return block
    except OSError as error:
        why = error.strerror or str(error)
        if isinstance(error, io.UnsupportedOperation) or error.errno in (errno.EBADF, errno.EISDIR, errno.EINVAL):
            raise ConfigError(
                "standard input cannot be read", why=why, fix="Pass a file or a pipe (< FILE)."
            ) from error
        raise StoppedError(
            "standard input ended with an error",
            why=why,
            fix="Nothing was stored; run the same command with the full input.",
        ) from error


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it if the file system has no hard links or the target is on another one."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (*LINK_UNSUPPORTED_ERRNOS, errno.EXDEV):
            raise
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _link_folder(source: Path, tmp: Path, final: Path) -> None:
    if final.is_dir():
        return  # stored in the meantime; the stored data stays unchanged
    tmp.mkdir()
    for file in source.iterdir():
        _link_or_copy(file, tmp / file.name)
    OS_FS.fsync_dir(tmp)
    os.rename(tmp, final)


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _has_data(source: BinaryIO, wait_s: float | None) -> bool:
    """Return whether standard input is a file or pipe that has data, or ends, within `wait_s` seconds."""
    try:
        mode = os.fstat(source.fileno()).st_mode
        if stat.S_ISREG(mode):
            return os.lseek(source.fileno(), 0, os.SEEK_CUR) < os.fstat(source.fileno()).st_size
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            return False  # a terminal, /dev/null, closed
        ready, _, _ = select.select([source], [], [], wait_s)
    except (OSError, ValueError):
        return False
    if not ready:
        log.warning("standard input had no data for wait_s=%g: using what an earlier run stored", wait_s)
    return bool(ready)
