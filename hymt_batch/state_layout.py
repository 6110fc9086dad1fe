"""Where the state of a job lies in `.hymt`: its files, shards, claims and attempt marks. The one place that says so.

A folder with very many names is slow to list, above all on a shared file system. So a job that may have many files or
shards has groups: folders between `.hymt` and the folders of its files, and between the folder of a file and what is
stored of its shards. The layout is chosen when the job is created, and `job.json` keeps it: whatever becomes of its
inputs, what is stored is found where it was put. Explained in docs/architecture.md.

Paths are built by a layout; the functions that list find what is there, with and without groups.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs

MAX_NAMES = 1000
"""Most names of one kind in a folder without groups, and shards or claims in a group."""

FILES_IN_GROUP = 4
"""Files in a group on average, as a multiple of MAX_NAMES: fewer groups, each of which is synced for each unit."""

MAX_FILE_DIGITS = 3
"""Most hex digits in the name of a group of files: 4,096 groups hold 16 million files at 4,000 each."""

FILE_STATE = re.compile(r"f.+|c[0-9a-f]{16}(-[0-9a-f]{32})?")
"""Name of the state folder of a file, or of its closed generation; see `closed_rows` and `taken_state`."""

FILE_GROUP = re.compile(r"g[0-9a-f]{1,3}")
SHARD = re.compile(r"s(\d{7,})")
SHARD_GROUP = re.compile(r"s\d{7,}-\d{7,}")
ATTEMPT_GROUP = re.compile(r"g[0-9a-f]{1,3}|(g[0-9a-f]{1,3}-)?s\d{7,}-\d{7,}")
CLAIM_GROUP = re.compile(r"u\d{7,}-\d{7,}")


@dataclass(frozen=True, slots=True)
class StateLayout:
    """How the state of one job is divided into groups."""

    file_digits: int = 0  # hex digits of the id of a file that name its group; 0: no groups
    group_size: int = 0  # consecutive shards, or claims, in a group; those below are in none. 0: no groups

    def file_state(self, folder: Path, file_id: str) -> Path:
        """Return the state folder of a file in an output folder."""
        return _state_folder(folder, file_id, self.file_digits)

    def closed_state(self, folder: Path, file_id: str) -> Path:
        """Return where the state of a published file is while a new version of it is made; see `closed_rows`."""
        return self.file_state(folder, file_id).with_name(f"c{file_id}")

    def shard_parent(self, file_state: Path, shard_index: int) -> Path:
        """Return the folder of the record of a shard and of the folder of its parts, in the state folder of a file."""
        return file_state / self._range("s", shard_index) if self._is_grouped(shard_index) else file_state

    def claim_folder(self, folder: Path, unit: int) -> Path:
        """Return the folder of the claim on a unit."""
        root = claims_folder(folder)
        return root / self._range("u", unit) if self._is_grouped(unit) else root

    def attempt_folder(self, folder: Path, file_id: str, shard_index: int) -> Path:
        """Return the folder of the attempt marks of the parts of a shard."""
        names = [f"g{file_id[: self.file_digits]}"] if self.file_digits else []
        names += [self._range("s", shard_index)] if self._is_grouped(shard_index) else []
        return attempts_folder(folder) / "-".join(names) if names else attempts_folder(folder)

    def _is_grouped(self, index: int) -> bool:
        return 0 < self.group_size <= index

    def _range(self, prefix: str, index: int) -> str:
        """Return the name of the group of a shard or claim: its first and its last one."""
        first = index // self.group_size * self.group_size
        return f"{prefix}{first:07}-{first + self.group_size - 1:07}"

    @property
    def of_pass(self) -> StateLayout:
        """The layout of a pass of the job, which has one virtual file."""
        return replace(self, file_digits=0)


FLAT = StateLayout()
"""The layout of small jobs, and of all jobs of earlier versions."""


@functools.lru_cache(maxsize=64)  # the same few folders are needed again and again
def _state_folder(folder: Path, file_id: str, digits: int) -> Path:
    if not digits:
        return folder.joinpath(".hymt", f"f{file_id}")  # one call is faster than a join for each name
    return folder.joinpath(".hymt", f"g{file_id[:digits]}", f"f{file_id}")


def choose(num_files: int, max_shards: int) -> StateLayout:
    """Return the layout of a new job.

    Args:
        num_files: Its files.
        max_shards: The most shards that all of them may have.
    """
    if max(num_files, max_shards) <= MAX_NAMES:
        return FLAT
    digits = 0
    if num_files > MAX_NAMES:
        in_group = FILES_IN_GROUP * MAX_NAMES
        digits = next((n for n in range(1, MAX_FILE_DIGITS) if num_files <= 16**n * in_group), MAX_FILE_DIGITS)
    return StateLayout(digits, MAX_NAMES)


def claims_folder(folder: Path) -> Path:
    return folder / ".hymt" / "claims"


def attempts_folder(folder: Path) -> Path:
    return folder / ".hymt" / "attempts"


def file_states(fs: Fs, folder: Path, is_folder: Callable[[Path], bool] = lambda path: True) -> list[Path]:
    """Return the state folders of all files, those of closed generations and those that were taken away too.

    A large job has many; so list them once for all that needs them. Groups that `is_folder` refuses are left out.
    """
    paths = list_grouped(fs, folder / ".hymt", FILE_GROUP, is_folder)
    return [path for path in paths if FILE_STATE.fullmatch(path.name)]


def list_grouped(
    fs: Fs, root: Path, group: re.Pattern[str], is_folder: Callable[[Path], bool] = lambda path: True
) -> Iterator[Path]:
    """Yield what is in a folder and in the groups in it, without these groups themselves."""
    names = list_names(fs, root)
    yield from (root / name for name in names if not group.fullmatch(name))
    for parent in (root / name for name in names if group.fullmatch(name)):
        if is_folder(parent):
            yield from (parent / name for name in list_names(fs, parent))


def remove_groups(fs: Fs, root: Path, group: re.Pattern[str]) -> None:
    """Remove the groups in a folder that are empty."""
    for name in list_names(fs, root):
        if group.fullmatch(name):
            with contextlib.suppress(OSError):  # not empty, or removed by another process
                fs.rmdir(root / name)


def shard_entries(fs: Fs, file_state: Path) -> Iterator[Path]:
    """Yield what is stored of a file: its record, and the records and folders of its shards."""
    return list_grouped(fs, file_state, SHARD_GROUP)


def shard_parents(fs: Fs, file_state: Path) -> list[Path]:
    """Return the state folder of a file and the groups of shards in it."""
    return [file_state, *(file_state / name for name in list_names(fs, file_state) if SHARD_GROUP.fullmatch(name))]


def state_names(fs: Fs, folder: Path) -> Iterator[str]:
    """Yield the names in `.hymt` and in the groups of files in it, which exist.

    Raises:
        OSError: One of these folders is not found: a network file system may say so, and it is not the same as empty.
    """
    names = fs.listdir(root := folder / ".hymt")
    yield from names
    for name in filter(FILE_GROUP.fullmatch, names):
        yield from fs.listdir(root / name)


def find(fs: Fs, folder: Path, otherwise: StateLayout) -> StateLayout:
    """Return the layout that the files in a folder show, for a job whose `job.json` is lost.

    Args:
        fs: The file system.
        folder: The output folder.
        otherwise: The layout that a new job would get. What nothing shows may be as it has it.
    """
    passes = (folder / ".hymt/passes" / name for name in list_names(fs, folder / ".hymt/passes"))
    states, digits, group_size = file_states(fs, folder), otherwise.file_digits, otherwise.group_size
    if states:
        group = states[0].parent.name
        digits = len(group) - 1 if FILE_GROUP.fullmatch(group) else 0
    for state in chain(states, chain.from_iterable(file_states(fs, path) for path in passes)):
        for entry in shard_entries(fs, state):
            if SHARD_GROUP.fullmatch(entry.parent.name):
                first, last = entry.parent.name[1:].split("-")
                return StateLayout(digits, int(last) - int(first) + 1)
            if (shard := SHARD.match(entry.name)) and int(shard[1]) >= group_size:
                group_size = 0
    return StateLayout(digits, group_size)
