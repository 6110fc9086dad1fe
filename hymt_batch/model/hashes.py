"""Sha256 of the files of a model, read once and remembered while the file stays what it was.

A file is taken for unchanged while device, inode, size, and the times of content and of status are: nobody but the
kernel sets the last. Where the weights are pinned, every file is read anew. The cache is a help alone: whatever is
wrong with it, the files are read.
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
"""Files below are always read: that takes no longer than asking."""


def cache_file() -> Path:
    """Where hashes are remembered: HYMT_BATCH_CACHE, else the user's cache folder; nowhere without a home."""
    root = os.environ.get("HYMT_BATCH_CACHE")
    if root is None:
        above = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        root = os.devnull if above.startswith("~") else os.path.join(above, "hymt_batch")
    return Path(root) / "sha256.json"


def compute(
    folder: Path, names: Sequence[str], *, ignore_cache: bool = False, cache: Path | None = None
) -> dict[str, str]:
    """Sha256 of files.

    Args:
        folder: Where they are.
        names: Their names.
        anew: Read every file, whatever is remembered.
        cache: Where hashes are remembered; None for the user's cache folder.

    Returns:
        Name -> hexadecimal digest, in the order of the names.
    """
    cache = cache or cache_file()
    known = {} if ignore_cache else _load_cache(cache)
    keys = {name: _cache_key(folder / name) for name in names}
    found = {name: known[key] for name, key in keys.items() if key and key in known}
    unknown = [name for name in names if name not in found]
    with ThreadPoolExecutor(4) as pool:
        found.update(zip(unknown, pool.map(lambda name: _sha256(folder / name), unknown), strict=True))
    fresh = {key: found[name] for name in unknown if (key := keys[name]) and key == _cache_key(folder / name)}
    if fresh:
        _save_cache(cache, {**_load_cache(cache), **fresh})
    return {name: found[name] for name in names}


def _cache_key(path: Path) -> str | None:
    """What a file is known by; None where it is small."""
    at = path.stat()
    if at.st_size < SMALL_BYTES:
        return None
    return f"{at.st_dev}:{at.st_ino}:{at.st_size}:{at.st_mtime_ns}:{at.st_ctime_ns}"


def _load_cache(cache: Path) -> dict[str, str]:
    try:
        value = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(k): v for k, v in value.items() if isinstance(v, str) and len(v) == 64}


def _save_cache(cache: Path, digests: dict[str, str]) -> None:
    """Replace the cache in one step; a full or read-only disk costs nothing but the memory of it."""
    newest = dict(list(digests.items())[-MAX_ENTRIES:])
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False, encoding="utf-8") as file:
            json.dump(newest, file)
        os.replace(file.name, cache)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
