"""Keep edited files of translated/ in set_aside/ before they are replaced or removed.

A file in translated/ is the job's own if its bytes match a record, the manifest, or the file that is about to replace
it. Any other file may be a user's work. It gets a second, durable name before its own name is removed, so that a kill
or a power loss at any moment leaves at least one of them. The job never reads, verifies or removes set_aside/.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, READ_BYTES, NewFile, hash_file, publish, remove, stat_or_none
from hymt_batch.fs_protocol import Fs

log = logging.getLogger(__name__)

DIGEST_LENGTHS = (
    8,
    16,
    32,
    64,
)  # hex digits of the sha256 in a name; longer ones are used if another file has the shorter name
MAX_NAME_BYTES = 255


def preserved_path(folder: Path, out_rel: str, digits: str) -> Path:
    """Return the path in set_aside/ of a changed file of translated/."""
    path, ending = folder / "set_aside" / out_rel, f".{digits}"
    shortened = os.fsencode(path.name)[: MAX_NAME_BYTES - len(ending)].decode("utf-8", "ignore")
    return path.with_name(shortened + ending)


def preserve_foreign(
    fs: Fs, folder: Path, out_rel: str, own_sha256s: Collection[str | None], make_folder: Callable[[Path], None]
) -> bool:
    """Keep a file of translated/ that is about to be replaced or removed, unless the job wrote it.

    Args:
        fs: The file system.
        folder: The output folder, whose lease the caller holds.
        out_rel: The file's path below translated/.
        own_sha256s: sha256 of each file that the job wrote, or is about to write, at this path.
        make_folder: Creates a folder that survives a power loss.

    Returns:
        Whether there is anything at this path.

    Raises:
        OSError: The file system failed; nothing was lost.
    """
    path = manifest.translated_path(folder, out_rel)
    stat = stat_or_none(fs, path)
    if stat is None and not _is_readable(fs, path):
        return False
    if stat is not None and stat.kind != "file":
        return True
    sha256 = hash_file(fs, path)[1]
    if sha256 in own_sha256s:
        return True
    preserved = _preserve(fs, folder, out_rel, sha256, make_folder)
    log.warning(
        "translated/%s is not what this job wrote. It is kept as %s and written again",
        out_rel,
        preserved.relative_to(folder),
    )
    return True


def _is_readable(fs: Fs, path: Path) -> bool:
    """Return whether a file exists after all: a wrong answer of the file system must not destroy a user's work."""
    with contextlib.suppress(FileNotFoundError):
        fs.read(path, 0, 1)
        return True
    return False


def _preserve(fs: Fs, folder: Path, out_rel: str, sha256: str, make_folder: Callable[[Path], None]) -> Path:
    path = manifest.translated_path(folder, out_rel)
    for digits in DIGEST_LENGTHS:
        target = preserved_path(folder, out_rel, sha256[:digits])
        make_folder(target.parent)
        if link_or_copy(fs, folder, path, target) or has_sha256(fs, target, sha256):
            fs.fsync_dir(target.parent)
            return target
    raise FileExistsError(errno.EEXIST, "other files already use all possible names", str(target))


def link_or_copy(fs: Fs, folder: Path, path: Path, target: Path) -> bool:
    """Hard link a file to `target`, or copy it if the file system has no hard links; False if the name is taken."""
    try:
        fs.link(path, target)
        return True
    except OSError as error:
        source_stat, target_stat = stat_or_none(fs, path), stat_or_none(fs, target)
        if target_stat is not None:
            return source_stat is not None and (source_stat.ino, source_stat.dev) == (target_stat.ino, target_stat.dev)
        if error.errno not in LINK_UNSUPPORTED_ERRNOS:
            raise
    with NewFile(fs, manifest.state_folder(folder) / f".tmp-aside-{uuid.uuid4().hex}") as copy:
        for chunk in _read_chunks(fs, path):
            copy.write(chunk)
        copy.sync_and_close()
    try:
        return publish(fs, copy.path, target)
    finally:
        remove(fs, copy.path)


def _read_chunks(fs: Fs, path: Path) -> Iterator[bytes]:
    offset = 0
    while chunk := fs.read(path, offset, READ_BYTES):
        yield chunk
        offset += len(chunk)


def has_sha256(fs: Fs, path: Path, sha256: str) -> bool:
    """Return whether there is a file with this sha256 at a path."""
    stat = stat_or_none(fs, path)
    return stat is not None and stat.kind == "file" and hash_file(fs, path)[1] == sha256


def recorded_sha256s(fs: Fs, folder: Path) -> dict[str, str]:
    """Return path below translated/ -> sha256, as recorded in the manifest; empty if it cannot be read."""
    with contextlib.suppress(manifest.StateDamagedError, KeyError, TypeError):
        return {
            output["path"].removeprefix("translated/"): output["sha256"]
            for output in manifest.read(fs, folder)["outputs"]
        }
    return {}
