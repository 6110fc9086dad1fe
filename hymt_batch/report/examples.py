"""Examples that the lists beside the outputs have: rows without a translation, and flagged rows."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import UNLISTED_STATUSES
from hymt_batch.report.measure import MAX_TEXT_CHARS, Example, Reservoir

MAX_LINES = 20_000
MAX_BYTES = 32 << 20
CHUNK_BYTES = 1 << 20


def find_errors(fs: Fs, folder: Path, rels: Iterable[str]) -> dict[str, Reservoir]:
    """Return examples of the rows in errors/, by status; of long lists the first rows are looked at.

    Args:
        fs: The file system.
        folder: The output folder.
        rels: Relative names of the inputs whose files have such a list.
    """
    found: dict[str, Reservoir] = {}
    paths = (manifest.errors_path(folder, rel) for rel in rels)
    for value in itertools.islice(_lines(fs, paths), MAX_LINES):
        status = str(value.get("status", ""))
        if status and status not in UNLISTED_STATUSES:
            _add(found, status, _example(value))
    return found


def find_flagged(fs: Fs, folder: Path, rels: Iterable[str], flags: Collection[str]) -> dict[str, Reservoir]:
    """Return examples of some flags from review/, as `find_errors` does."""
    found: dict[str, Reservoir] = {}
    if not flags:
        return found
    paths = (manifest.review_path(folder, rel) for rel in rels)
    for value in itertools.islice(_lines(fs, paths), MAX_LINES):
        for flag in set(_example(value).flags) & set(flags):
            _add(found, flag, _example(value))
    return found


def _add(found: dict[str, Reservoir], key: str, example: Example) -> None:
    reservoir = found.setdefault(key, Reservoir())
    if (place := reservoir.place()) is not None:
        reservoir.keep(place, example)


def _example(value: dict[str, Any]) -> Example:
    source, flags = value.get("source", value.get("raw")), value.get("flags")
    return Example(
        str(value.get("id", "")),
        str(value.get("status", "")),
        tuple(map(str, flags)) if isinstance(flags, list) else (),
        source[: MAX_TEXT_CHARS + 1] if isinstance(source, str) else None,
        str(value.get("translation") or "")[: MAX_TEXT_CHARS + 1],
        str(value.get("message") or "")[: MAX_TEXT_CHARS + 1],
    )


def _lines(fs: Fs, paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Yield the objects of some lists; what is not one is left out."""
    left = MAX_BYTES
    for path in paths:
        for line in _read_lines(fs, path, left):
            left -= len(line)
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(value := json.loads(line), dict):
                    yield value
        if left <= 0:
            return


def _read_lines(fs: Fs, path: Path, max_bytes: int) -> Iterator[bytes]:
    offset, rest = 0, b""
    with contextlib.suppress(OSError):
        while offset < max_bytes and (chunk := fs.read(path, offset, CHUNK_BYTES)):
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    if rest and offset < max_bytes:
        yield rest
