"""Find out how the inputs of a job changed after it began: by hash, which rows, or why they cannot be read.

Independent of how rows are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat as stat_bits
from collections.abc import Sequence
from pathlib import Path

from hymt_batch.errors import HymtError, InputChangedError, disk_read_error, is_transient
from hymt_batch.formats import registry
from hymt_batch.formats.field_rows import file_row
from hymt_batch.formats.format import Addressing
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Input, ShardRecord

READ_BYTES = 1 << 20


class RowRanges:
    """A set of row indices, added in ascending order and printed as ranges counted from 1: `rows 17, 90-93`."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []  # first row index, one past the last

    def add(self, first: int, end: int | None = None) -> None:
        end = first + 1 if end is None else end
        if self.ranges and first < self.ranges[-1][1]:  # another text of the same row
            first = self.ranges[-1][1]
            if first >= end:
                return
        if self.ranges and self.ranges[-1][1] == first:
            first = self.ranges.pop()[0]
        self.ranges.append((first, end))

    def __str__(self) -> str:
        max_ranges = 20
        names = [str(end) if end == first + 1 else f"{first + 1}-{end}" for first, end in self.ranges[:max_ranges]]
        more = f" and {len(self.ranges) - max_ranges} more ranges" if len(self.ranges) > max_ranges else ""
        is_single = len(self.ranges) == 1 and self.ranges[0][1] == self.ranges[0][0] + 1
        return ("row " if is_single else "rows ") + ", ".join(names) + more


def changed_row(document: Document | None, index: int, last: Document | None) -> int:
    """Return the index of a row that changed.

    Args:
        document: Its document; None if the input ends before it.
        index: Index of the document.
        last: The last document of the input that was read, by which rows with several text fields are recognised: they
            have more documents than rows.
    """
    if document is not None:
        return file_row(document)
    return index if last is None or last.field is None else file_row(last) + 1


def input_changed_error(what: str, fix: str = "") -> InputChangedError:
    fix = fix or "restore the old input, or set on_input_change=redo to translate the changed rows again"
    return InputChangedError(
        f"the input changed since this job began: {what}",
        why="The output would mix two versions of it.",
        fix=f"To continue, {fix}, or on_input_change=fork to start a separate job.",
    )


def input_unreadable_error(input: Input, error: OSError) -> HymtError:
    """Return the error of an input that could be read before and cannot be read now: it changed, or its disk fails."""
    if not is_transient(error):
        return input_changed_error(f"{input.rel} can no longer be read ({error.strerror or error})")
    return disk_read_error(input.rel, error)


def hash_input(input: Input, files: Sequence[tuple[str, int, int]] | None = None) -> JsonDict:
    """Return size and sha256 of an input's bytes on disk; for the folder of a saved dataset, over all its files.

    Args:
        input: The input.
        files: What `stat_files` has just returned for it.
    """
    sha, size = hashlib.sha256(), 0
    try:
        for path, num_bytes, _ in _files_of(input) if files is None else files:
            if path != input.path:
                relative = os.fsencode(os.path.relpath(path, input.path))
                sha.update(relative + b"\0" + str(num_bytes).encode() + b"\0")
            with open(path, "rb", buffering=0) as file:
                while chunk := file.read(min(READ_BYTES, num_bytes + 1)):  # a small file takes a small buffer
                    sha.update(chunk)
                    size += len(chunk)
    except OSError as error:
        raise input_unreadable_error(input, error) from None
    return {"bytes": size, "sha256": sha.hexdigest()}


def stat_files(input: Input) -> list[tuple[str, int, int]]:
    """Return path, size and mtime (ns) of every file of an input. If they change during a pass, the pass is invalid."""
    try:
        return _files_of(input)
    except OSError as error:
        raise input_unreadable_error(input, error) from None


def _files_of(input: Input) -> list[tuple[str, int, int]]:
    """Return path, size and mtime (ns) of every file of an input, which may be a folder."""
    stat = os.stat(input.path)
    if not stat_bits.S_ISDIR(stat.st_mode):
        return [(input.path, stat.st_size, stat.st_mtime_ns)]
    stats = ((path, path.stat()) for path in sorted(p for p in Path(input.path).rglob("*") if p.is_file()))
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def changed_shards(input: Input, shards: Sequence[ShardRecord]) -> RowRanges:
    """Return the rows of the shards whose bytes differ; of an input without byte offsets, the rows of all of them.

    Raises:
        OSError: The input cannot be read.
    """
    rows = RowRanges()
    with open(input.path, "rb") if _is_seekable(input) else contextlib.nullcontext() as file:
        for shard in shards:
            if file:
                file.seek(shard.start)
                if hashlib.sha256(file.read(shard.end - shard.start)).hexdigest() == shard.sha256:
                    continue
            if shard.num_rows:
                rows.add(shard.first_row, shard.first_row + shard.num_rows)
    return rows


def describe_changed_shards(input: Input, shards: Sequence[ShardRecord]) -> str:
    """Return the rows of a changed input whose shards differ, as text; its name alone if that is not known.

    Args:
        input: The input.
        shards: All its shards, as they were decoded.
    """
    try:
        rows = changed_shards(input, shards)
        has_more = bool(shards) and _is_seekable(input) and os.path.getsize(input.path) > shards[-1].end
    except OSError as error:
        return f"{input.rel} can no longer be read ({error.strerror})"
    if rows.ranges:
        return f"{input.rel} {rows}"
    return (
        f"{input.rel} has more rows after row {shards[-1].first_row + shards[-1].num_rows}" if has_more else input.rel
    )


def _is_seekable(input: Input) -> bool:
    is_as_read = not input.compression and not input.encoding
    return is_as_read and registry.of_input(input).addressing is Addressing.BYTE_OFFSET
