"""How much space a job needs, and whether its file system has it. Runs before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hymt_batch.errors import PreflightError
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Input
from hymt_batch.state_layout import file_states, shard_entries

SPACE_FACTOR = 2.2  # output bytes per input byte: parts and assembled files exist at the same time
MIN_FREE_BYTES, MIN_FREE_INODES = 1 << 20, 64  # required for a job of any size


def required_space(
    fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str, states: Iterable[Path] | None = None
) -> tuple[int, int]:
    """Return the free bytes and inodes that a job needs to start; arguments as for `check_space`."""
    if min_free != "auto":
        return int(min_free), 0
    size = sum(input_bytes(i) * (4 if i.compression else 1) for i in inputs)
    committed = _committed_bytes(fs, file_states(fs, folder) if states is None else states, inputs)
    bytes_needed = max(0, int(size * SPACE_FACTOR) - committed) + MIN_FREE_BYTES
    return bytes_needed, 4 * len(inputs) + size // (64 << 10) + MIN_FREE_INODES


def check_space(
    fs: Fs, folder: Path, inputs: Sequence[Input], min_free: int | str, states: Iterable[Path] | None = None
) -> None:
    """Check that the output fits on the file system.

    Args:
        fs: The file system.
        folder: The output folder; it exists.
        inputs: The files still to be translated.
        min_free: The setting write.min_free: bytes, or "auto" to estimate them from the inputs.
        states: The state folders of all files; None to list them, if they are needed.

    Raises:
        PreflightError: Too few bytes or inodes are free.
    """
    bytes_free, inodes_free = fs.statvfs(folder)
    bytes_needed, inodes_needed = required_space(fs, folder, inputs, min_free, states)
    if bytes_free < bytes_needed:
        raise PreflightError(
            f"the file system under {folder} has {_mib(bytes_free)} MiB free, and this job needs about "
            f"{_mib(bytes_needed)} MiB",
            fix="Free some space, or set output_dir= to another file system, or write.min_free=0 to start anyway.",
        )
    if inodes_free is not None and inodes_free < inodes_needed:
        raise PreflightError(
            f"the file system under {folder} has {inodes_free} inodes free, and this job needs about {inodes_needed}",
            fix="Remove some files, or set output_dir= to another file system, or write.min_free=0 to start anyway.",
        )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f}"


def input_bytes(input: Input) -> int:
    """Return the size of an input on the disk; 0 if it cannot be read."""
    if input.size is not None:
        return input.size
    root = Path(input.path)
    try:
        return sum(p.stat().st_size for p in root.rglob("*")) if root.is_dir() else root.stat().st_size
    except OSError:
        return 0  # the source stage reports it with a better message


def _committed_bytes(fs: Fs, states: Iterable[Path], inputs: Sequence[Input]) -> int:
    """Return the size of all parts and row records that already exist."""
    num_bytes, wanted = 0, frozenset(f"f{input.file_id}" for input in inputs)
    for file_state in states:
        for entry in shard_entries(fs, file_state) if file_state.name in wanted else ():
            for path in (entry, *(entry / part for part in list_names(fs, entry))):
                stat = stat_or_none(fs, path)
                num_bytes += stat.size if stat and stat.kind == "file" else 0
    return num_bytes
