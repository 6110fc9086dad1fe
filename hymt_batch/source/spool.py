"""Store what cannot be read twice: standard input, and data sets of the hub.

Both are stored aside first, because whose folder it is gets settled only after the inputs are known. Once the job holds
its folder's lease, `settle` links them into `.hymt/spool`. A stored file has its name there only when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import select
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hymt_batch.errors import ConfigError, InputChangedError, PreflightError, disk_failed, may_pass
from hymt_batch.fs import NO_LINK, OS, publish, stopped
from hymt_batch.source import hub as hub_reader
from hymt_batch.source.settings import SourceConfig

log = logging.getLogger(__name__)

BLOCK = 1 << 20
STAYS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EEXIST)  # of a store, until somebody makes room or leaves way
WAIT_S = 2.0  # how long a resumed job waits for the first byte of a standard input that may be nobody's


class Spool:
    """The stored inputs of one job.

    Args:
        folder: The output folder that was asked for; only read before `settle`.
        replace: Standard input shall take the place of what is stored, and so is waited for.
    """

    def __init__(self, folder: Path, *, replace: bool = False) -> None:
        self.aside = folder.parent / f".spool-{uuid.uuid4().hex}"  # the caller removes it when the job ends
        self._home, self._replace = _home(folder), replace
        self._found: dict[str, Path] = {}  # name below the home -> where it lies for this run

    def stdin(self, extension: str, stream: BinaryIO | None = None) -> tuple[Path, str]:
        """Store standard input, or find it stored by an earlier run where none is given.

        Returns:
            The file and its relative name.

        Raises:
            ConfigError: There is no standard input.
            PreflightError: The store refuses.
        """
        name = f"stdin{extension}"
        source = getattr(sys.stdin, "buffer", None) if stream is None else stream
        kept = self._home / name
        has_kept = kept.is_file()
        if source is None and not has_kept:
            raise ConfigError(
                "source.path=- needs a standard input, and this process has none. Set source.path to a file."
            )
        if source is not None and (not has_kept or _gives(source, None if self._replace else WAIT_S)):
            if source.isatty():
                log.info("reading standard input; end it with Ctrl-D")
            given = self._aside(name)
            if _store(source, given) or not has_kept:
                self._found[name] = given
                return given, name
        log.info("standard input is read from %s, as stored when the job began", kept)
        self._found[name] = kept
        return kept, name

    def hub(self, name: str, config: SourceConfig) -> list[tuple[Path, str]]:
        """Store a data set of the hub as parquet, one file a split, or find it stored.

        Returns:
            Files and their relative names.

        Raises:
            PreflightError: The hub has no such data set, or cannot be reached; or the store refuses.
        StoppedError: A disk fails.
        """
        words = [name.replace("/", "--"), config.subset, config.revision]
        place = re.sub(r"[^\w.-]", "_", "--".join(word for word in words if word))
        marker = "all" if config.split is None else "only-" + re.sub(r"[^\w.-]", "_", config.split)
        short, below = name.split("/")[1], f"hub/{place}/{marker}"
        stored = self._home / below
        if not stored.is_dir():
            stored = self._aside(below)
            with _storing(stored):
                stored.mkdir(exist_ok=True)
            hub_reader.fetch_apart(name, config.subset, config.split, config.revision, stored)
        self._found[below] = stored
        files = sorted(stored.glob("*.parquet"))
        if config.split is not None or len(files) == 1:
            return [(file, f"{short}.parquet") for file in files]
        return [(file, f"{short}/{file.name}") for file in files]

    def settle(self, folder: Path) -> None:
        """Link what is stored into the job's folder, whose lease the caller holds.

        Raises:
            InputChangedError: Standard input gives other bytes than at the job's beginning.
            StoppedError: The store refuses.
        """
        for name, source in self._found.items():
            final = _home(folder) / name
            if source == final:
                continue
            tmp = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
            try:
                final.parent.mkdir(parents=True, exist_ok=True)
                if source.is_dir():
                    _settle_folder(source, tmp, final)
                else:
                    self._settle_file(source, tmp, final)
                OS.fsync_dir(final.parent)
            except OSError as error:
                raise stopped(f".hymt/spool/{name}", error) from error
            finally:
                tmp.unlink(missing_ok=True) if not tmp.is_dir() else shutil.rmtree(tmp, ignore_errors=True)

    def _settle_file(self, source: Path, tmp: Path, final: Path) -> None:
        _link(source, tmp)
        if publish(OS, tmp, final) or _digest(source) == _digest(final):
            return
        if not self._replace:
            raise InputChangedError(
                f"Standard input gives {source.stat().st_size} bytes that differ from the {final.stat().st_size} with"
                " which the job began. Give the same input or none (< /dev/null) to continue, or set"
                " on_input_change=redo to translate what changed, or name=ANOTHER for a new job."
            )
        os.replace(tmp, final)

    def _aside(self, name: str) -> Path:
        path = self.aside / name
        with _storing(self.aside):
            self.aside.parent.mkdir(parents=True, exist_ok=True)
            self.aside.mkdir(0o700, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _home(folder: Path) -> Path:
    return folder / ".hymt" / "spool"


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if may_pass(error) and error.errno not in STAYS:
            raise stopped("what source.path gives", error) from error
        why = error.strerror or str(error)
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            why = f"{error.filename} is not a folder"
        raise PreflightError(
            f"{path.parent} cannot hold what source.path gives: {why}. Set output_dir= to a folder that can be written"
            " and has room."
        ) from error


def _store(source: BinaryIO, path: Path) -> int:
    """Store a stream durably; its size in bytes."""
    size = 0
    with _storing(path):
        fd = OS.open_exclusive(path)
    try:
        while block := _read(source):
            with _storing(path):
                OS.write_all(fd, block)
            size += len(block)
        with _storing(path):
            os.fsync(fd)
    finally:
        os.close(fd)
    return size


def _read(source: BinaryIO) -> bytes:
    """The next block of standard input; what goes wrong here is not the store's.

    Raises:
        StoppedError: What gives it failed in a way that may pass.
        PreflightError: It cannot be read, such as a folder.
    """
    try:
        return source.read(BLOCK)
    except OSError as error:
        if may_pass(error):
            raise disk_failed("standard input", error) from error
        if error.errno is None:
            raise  # not the system's
        raise PreflightError(f"Standard input cannot be read: {error.strerror}. Pipe a file in.") from error


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the store has no links or is another one."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (*NO_LINK, errno.EXDEV):
            raise
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _settle_folder(source: Path, tmp: Path, final: Path) -> None:
    if final.is_dir():
        return  # stored meanwhile; what is stored stands
    tmp.mkdir()
    for file in source.iterdir():
        _link(file, tmp / file.name)
    OS.fsync_dir(tmp)
    os.rename(tmp, final)


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _gives(source: BinaryIO, wait_s: float | None) -> bool:
    """Is there a pipe or file on standard input that gives a byte, or its end, in time?"""
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
        log.warning("standard input gave nothing for %g s: what an earlier run stored is used", wait_s)
    return bool(ready)
