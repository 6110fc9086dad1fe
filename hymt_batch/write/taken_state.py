"""Take a state folder away in one step, although this process may have lost the lease without knowing it.

A process that is suspended between its check of the lease and a rename goes on with the rename, and by then the folder
may be one on which another process works. So a folder is first renamed to a name of its own, and looked at there: if it
is not the expected one, it is given back. What a killed process took is given back by the next run that opens the job.

Folders that are taken: the state of a file, its closed generation (see `closed_rows`), and a pass (see `passes`). Each
has a record, by which it is recognised.
"""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from pathlib import Path

from hymt_batch import fs as files
from hymt_batch import manifest
from hymt_batch.errors import StoppedError
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.state_layout import FILE_GROUP, list_grouped

log = logging.getLogger(__name__)

TAKEN_NAME = re.compile(r"([fcp][0-9a-f]+)-[0-9a-f]{32}")


def record_path(path: Path) -> Path:
    """Return the path of the record in the state folder of a file, of a closed generation or of a pass."""
    return path / ("pass.json" if path.name.startswith("p") else "file.json")


def record_bytes(fs: Fs, path: Path) -> bytes:
    """Return the bytes of the record in a state folder; empty if there is none."""
    try:
        return fs.read(record_path(path))
    except (FileNotFoundError, NotADirectoryError):
        return b""


def take(fs: Fs, path: Path, expected: bytes) -> Path | None:
    """Rename a state folder to a name of its own, if its record is the expected one.

    Args:
        fs: The file system.
        path: The folder.
        expected: The bytes of its record, as they were read before the lease was checked.

    Returns:
        Its new path, durable once the folder above is synced; None if there is no such folder, or if it is another one,
        which is back in its place.

    Raises:
        OSError: The file system failed. The folder is in its place, or the next run gives it back.
    """
    taken = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    if not rename(fs, path, taken):
        return None
    try:
        if record_bytes(fs, taken) == expected:
            return taken
    except OSError:
        give_back(fs, taken)
        raise
    give_back(fs, taken)
    return None


def rename(fs: Fs, source: Path, target: Path) -> bool:
    """Rename a folder; False if there is none. A network file system may report failure for a rename that happened."""
    try:
        fs.rename(source, target)
    except OSError:
        if stat_or_none(fs, source) is not None:
            raise
        return stat_or_none(fs, target) is not None
    return True


def remove(fs: Fs, taken: Path) -> None:
    """Remove a taken folder, its record first: without it, the rest counts for nothing."""
    files.remove(fs, record_path(taken))
    files.remove_tree(fs, taken)


def give_back(fs: Fs, taken: Path) -> None:
    """Put a taken folder back. If there is another one in its place by now, that one gets what it does not have."""
    match = TAKEN_NAME.fullmatch(taken.name)
    assert match, taken
    path, kind = taken.with_name(match[1]), taken.name[0]
    if kind == "c" and not record_bytes(fs, taken):  # half removed
        return remove(fs, taken)
    log.warning("state folder=%s given back", path.name)
    try:
        rename(fs, taken, path)
    except OSError:
        if stat_or_none(fs, path) is None:
            raise
        _join(fs, taken, path)


def _join(fs: Fs, taken: Path, path: Path) -> None:
    """Give what is needed of a taken folder to the one that is in its place by now."""
    kind, is_finished = taken.name[0], bool(record_bytes(fs, path))
    if kind == "f" and record_bytes(fs, taken) and not is_finished:  # the version before, which was being closed
        closed = path.with_name(f"c{path.name[1:]}")
        remove(fs, closed)  # an older one
        fs.rename(taken, closed)
        return
    if not is_finished and kind in "fp":  # both are of the same version
        _add_missing(fs, taken, path)
    remove(fs, taken)


def give_back_all(fs: Fs, folder: Path) -> None:
    """Put the folders back that killed processes took. Call it under the lease, before anything else is read."""
    root = manifest.state_folder(folder)
    found = [*list_grouped(fs, root, FILE_GROUP), *(root / "passes" / name for name in list_names(fs, root / "passes"))]
    taken = [path for path in found if TAKEN_NAME.fullmatch(path.name)]
    for path in taken:
        give_back(fs, path)
    for parent in dict.fromkeys(path.parent for path in taken):
        fs.fsync_dir(parent)


def _add_missing(fs: Fs, source: Path, target: Path) -> None:
    """Link the files of a folder into another one, durably. Files that it has stay: equal names hold equal rows."""
    for name in list_names(fs, source):
        stat = stat_or_none(fs, source / name)
        if stat is not None and stat.kind == "dir":
            with contextlib.suppress(FileExistsError):
                fs.mkdir(target / name, 0o777)
            _add_missing(fs, source / name, target / name)
        elif stat is not None and not name.startswith(".tmp-"):
            files.publish(fs, source / name, target / name)
    fs.fsync_dir(target)


def taken_over_error(what: str) -> StoppedError:
    """Return the error of a run that finds state changed by another one, although its lease seems to be its own."""
    return StoppedError(
        f"another run changed {what} at the same time",
        fix="Everything committed is kept; run the same command again to continue.",
    )
