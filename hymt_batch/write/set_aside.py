"""What somebody put into translated/, kept in set_aside/ before it is replaced or removed.

A file of translated/ is the job's own where its bytes are what a record or the manifest says, or what is about to
replace it. Anything else may be somebody's work. It gets a second name that lasts before its own name goes, so that
a kill or a power loss at any moment leaves one of them. Nothing reads, verifies or removes set_aside/.
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
from hymt_batch.fs import LINK_UNSUPPORTED_ERRNOS, READ_BYTES, Fs, NewFile, hash_file, publish, remove, stat_or_none

log = logging.getLogger(__name__)

DIGEST_LENGTHS = (8, 16, 32, 64)  # of the sha256 in a name; more where another file has the shorter one
MAX_NAME_BYTES = 255  # bytes


def preserved_path(folder: Path, out_rel: str, digits: str) -> Path:
    """Where a changed file of translated/ is kept."""
    path, ending = folder / "set_aside" / out_rel, f".{digits}"
    short = os.fsencode(path.name)[: MAX_NAME_BYTES - len(ending)].decode("utf-8", "ignore")
    return path.with_name(short + ending)


def preserve_foreign(
    fs: Fs, folder: Path, out_rel: str, own_sha256s: Collection[str | None], make_folder: Callable[[Path], None]
) -> None:
    """Keep a file of translated/ that is about to be replaced or removed, unless the job made it.

    Args:
        fs: The store.
        folder: The output folder, whose lease the caller holds.
        out_rel: The file below translated/.
        ours: sha256 of what the job made, or is about to put there.
        make_folder: Makes a folder that lasts.

    Raises:
        OSError: The store refuses; nothing was lost.
    """
    path = manifest.translated_path(folder, out_rel)
    found = stat_or_none(fs, path)
    if found is None and not _is_readable(fs, path):
        return
    if found is not None and found.kind != "file":
        return
    sha256 = hash_file(fs, path)[1]
    if sha256 in own_sha256s:
        return
    kept = _preserve(fs, folder, out_rel, sha256, make_folder)
    log.warning(
        "translated/%s is not what this job made. It is kept as %s, and made again", out_rel, kept.relative_to(folder)
    )


def _is_readable(fs: Fs, path: Path) -> bool:
    """Whether a file is there after all: a store that failed once to find it must not cost somebody's work."""
    with contextlib.suppress(FileNotFoundError):
        fs.read(path, 0, 1)
        return True
    return False


def _preserve(fs: Fs, folder: Path, out_rel: str, sha256: str, make_folder: Callable[[Path], None]) -> Path:
    path = manifest.translated_path(folder, out_rel)
    for digits in DIGEST_LENGTHS:
        target = preserved_path(folder, out_rel, sha256[:digits])
        make_folder(target.parent)
        if _link_or_copy(fs, folder, path, target) or _has_sha256(fs, target, sha256):
            fs.fsync_dir(target.parent)
            return target
    raise FileExistsError(errno.EEXIST, "another file has every name", str(target))


def _link_or_copy(fs: Fs, folder: Path, path: Path, target: Path) -> bool:
    """Give a file a second name, or a copy where the store has no links; False where the name is taken."""
    try:
        fs.link(path, target)
        return True
    except OSError as error:
        ours, there = stat_or_none(fs, path), stat_or_none(fs, target)
        if there is not None:
            return ours is not None and (ours.ino, ours.dev) == (there.ino, there.dev)
        if error.errno not in LINK_UNSUPPORTED_ERRNOS:
            raise
    with NewFile(fs, manifest.state_folder(folder) / f".tmp-aside-{uuid.uuid4().hex}") as copy:
        for piece in _read_chunks(fs, path):
            copy.write(piece)
        copy.sync_and_close()
    try:
        return publish(fs, copy.path, target)
    finally:
        remove(fs, copy.path)


def _read_chunks(fs: Fs, path: Path) -> Iterator[bytes]:
    at = 0
    while piece := fs.read(path, at, READ_BYTES):
        yield piece
        at += len(piece)


def _has_sha256(fs: Fs, path: Path, sha256: str) -> bool:
    found = stat_or_none(fs, path)
    return found is not None and found.kind == "file" and hash_file(fs, path)[1] == sha256


def recorded_sha256s(fs: Fs, folder: Path) -> dict[str, str]:
    """Files of translated/ and their sha256 as the manifest has them; none where it cannot be read."""
    with contextlib.suppress(manifest.StateDamagedError, KeyError, TypeError):
        return {one["path"].removeprefix("translated/"): one["sha256"] for one in manifest.read(fs, folder)["outputs"]}
    return {}
