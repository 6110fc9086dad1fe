"""Keep outputs that an update removes or replaces in retired/DATE/, and remove them there when they are old.

DATE is the day (UTC) on which an update took the file away. The job never reads, verifies or changes what is in
retired/. A file gets its name there, durably, before its own name is removed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import hash_file, list_names, remove_tree, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.write.set_aside import has_sha256, link_or_copy

log = logging.getLogger(__name__)

DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def today() -> date:
    return datetime.now(UTC).date()


def keep(fs: Fs, folder: Path, out_rel: str, make_folder: Callable[[Path], None], new_sha256: str = "") -> None:
    """Give a file of translated/ a second, durable name in retired/; does nothing if there is no such file.

    Args:
        fs: The file system.
        folder: The output folder, whose lease the caller holds.
        out_rel: The file's path below translated/.
        make_folder: Creates a folder that survives a power loss.
        new_sha256: sha256 of the file that is about to take its place. If a run was killed after it published that file
            and before it recorded it, the file is there already: it is no earlier version.

    Raises:
        OSError: The file system failed; nothing was lost.
    """
    path = manifest.translated_path(folder, out_rel)
    stat = stat_or_none(fs, path)
    if stat is None or stat.kind != "file":
        return
    sha256 = hash_file(fs, path)[1]
    if sha256 == new_sha256:
        return
    target = folder / "retired" / today().isoformat() / out_rel
    # another version of the file may have been retired on the same day
    for name in (target.name, *(f"{target.name}.{sha256[:digits]}" for digits in (8, 64))):
        target = target.with_name(name)
        make_folder(target.parent)
        if link_or_copy(fs, folder, path, target) or has_sha256(fs, target, sha256):
            fs.fsync_dir(target.parent)
            return
    raise FileExistsError(f"other files already use all possible names: {target}")


def remove_old(fs: Fs, folder: Path, keep_days: int | None) -> None:
    """Remove what was retired more than `keep_days` days ago; None keeps everything. A failure is only logged."""
    if keep_days is None:
        return
    first_kept = (today() - timedelta(days=keep_days)).isoformat()
    try:
        for name in list_names(fs, folder / "retired"):
            if DATE.fullmatch(name) and name < first_kept:
                remove_tree(fs, folder / "retired" / name)
    except OSError as error:
        log.warning("old outputs in %s were not removed: %s", folder / "retired", error.strerror)
