"""Sha256 of a model's files, computed once and cached as long as the files do not change.

A file counts as unchanged as long as its device, inode, size, mtime and ctime are the same; only the kernel can set the
ctime. If the weights are pinned (model.sha256), every file is read again. The cache is optional: if it is missing or
damaged, the files are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MAX_ENTRIES = 2000
SMALL_BYTES = 1 << 20
"""Smaller files are not cached: reading them is as fast as looking them up."""


def cache_file() -> Path:
    """Return the path of the hash cache: in HYMT_BATCH_CACHE, else in the user's cache folder.

    Without a home folder, the path is below /dev/null, so that nothing is cached.
    """
    root = os.environ.get("HYMT_BATCH_CACHE")
    if root is None:
        user_cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        root = os.devnull if user_cache.startswith("~") else os.path.join(user_cache, "hymt_batch")
    return Path(root) / "sha256.json"


def compute(
    folder: Path, names: Sequence[str], *, ignore_cache: bool = False, cache: Path | None = None
) -> dict[str, str]:
    """Return the sha256 of files.

    Args:
        folder: The folder of the files.
        names: Names of the files.
        ignore_cache: Read every file, even if its hash is cached.
        cache: Path of the hash cache; None for the user's cache folder.

    Returns:
        Name -> hexadecimal digest, in the order of the names.
    """
    cache = cache or cache_file()
    known = {} if ignore_cache else _load_cache(cache)
    keys = {name: _cache_key(folder / name) for name in names}
    digests = {name: known[key] for name, key in keys.items() if key and key in known}
    uncached = [name for name in names if name not in digests]
    with ThreadPoolExecutor(4) as pool:
        digests.update(zip(uncached, pool.map(lambda name: _sha256(folder / name), uncached), strict=True))
    new_entries = {key: digests[name] for name in uncached if (key := keys[name]) and key == _cache_key(folder / name)}
    if new_entries:
        _save_cache(cache, {**_load_cache(cache), **new_entries})
    return {name: digests[name] for name in names}


def _cache_key(path: Path) -> str | None:
    """Return the cache key of a file; None if the file is too small to be cached."""
    status = path.stat()
    if status.st_size < SMALL_BYTES:
        return None
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _load_cache(cache: Path) -> dict[str, str]:
    try:
        value = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(k): v for k, v in value.items() if isinstance(v, str) and len(v) == 64}


def _save_cache(cache: Path, digests: dict[str, str]) -> None:
    """Replace the cache atomically; if the disk is full or read-only, the cache is just not updated."""
    newest = dict(list(digests.items())[-MAX_ENTRIES:])
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False, encoding="utf-8") as file:
            json.dump(newest, file)
        os.replace(file.name, cache)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
