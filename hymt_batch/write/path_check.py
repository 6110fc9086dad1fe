"""The names of a job below its output folder, checked before anything is made: nothing of another kind is in the way.

Does not know what is written there. A link counts as something in the way: it could lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.fs import Fs, list_names, stat_or_none
from hymt_batch.records import Input
from hymt_batch.storage_error import describe_type
from hymt_batch.write.published_file import record_path

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Bytes of a name and of a path that systems take; longer paths cannot be opened by those who read the output."""

MAX_STATE_PATH_BYTES = len("/.hymt/f0123456789abcdef/s0000000/.tmp-p00000-") + 32
"""Bytes of the longest name in `.hymt`."""

STATE_FOLDERS = (".hymt", ".hymt/lease", ".hymt/quarantine", ".hymt/attempts", ".hymt/spool")
FOLDERS = (*STATE_FOLDERS, "translated", "errors", "set_aside")
FILES = ("manifest.json", ".hymt/job.json", ".hymt/lease/job.json")


def check_names(inputs: Sequence[Input], folder: Path) -> None:
    """Refuse names that would lead out of the folder, that the store cannot hold, or that two inputs share."""
    taken: dict[str, str] = {}
    above = len(os.fsencode(os.path.abspath(folder)))
    if above + MAX_STATE_PATH_BYTES > MAX_PATH_BYTES:
        raise ConfigError(
            f"the path of the output folder takes {above} bytes, and a path may take {MAX_PATH_BYTES} with the "
            "names below "
            f"it: {folder}. Set output_dir= to a shorter path."
        )
    for input in inputs:
        for rel in (f"translated/{input.out_rel}", f"errors/{input.rel}.errors.jsonl"):
            pieces = rel.split("/")
            if any(piece in ("", ".", "..") for piece in pieces) or "\0" in rel:
                raise ConfigError(f"the input {input.rel!r} would be written outside of the output folder. Rename it.")
            if max(len(os.fsencode(piece)) for piece in pieces) > MAX_NAME_BYTES:
                raise ConfigError(f"the name {pieces[-1]!r} is longer than 255 bytes. Rename the input {input.rel!r}.")
            if above + 1 + len(os.fsencode(rel)) > MAX_PATH_BYTES:
                raise ConfigError(
                    f"the path {folder / rel} is longer than {MAX_PATH_BYTES} bytes. Set output_dir= to a shorter "
                    "path, or "
                    f"rename the input {input.rel!r}."
                )
        other = taken.setdefault(input.out_rel, input.rel)
        if other != input.rel:
            raise ConfigError(f"{other!r} and {input.rel!r} would both be written to {input.out_rel!r}. Rename one.")


def check_state(fs: Fs, folder: Path) -> None:
    """Refuse a folder where something else stands in the place of a job's own files and folders.

    Raises:
        PreflightError: Names it and the way out.
        OSError: The store refuses to tell.
    """
    _raise_if_any(state_obstacles(fs, folder))
    for name in FILES:
        try:
            fs.read(folder / name, 0, 1)
        except PermissionError:
            raise  # a job that may not be read is not a damaged one
        except OSError:
            continue


def check_inputs(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """`check_state` for the files of the inputs."""
    _raise_if_any(input_obstacles(fs, folder, inputs))


def check_writable(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """Refuse a folder in which the files of these inputs could not be made, before anything is decoded.

    Raises:
        PreflightError: This user may not write in one of its folders.
    """
    above = {folder}
    for input in inputs:
        state = manifest.file_state_folder(folder, input.file_id)
        translated, errors = manifest.translated_path(folder, input.out_rel), manifest.errors_path(folder, input.rel)
        above.update((translated.parent, errors.parent, state, *(state / shard for shard in list_names(fs, state))))
    there: dict[Path, bool] = {folder: True}  # whether it is a folder by now
    for path in sorted(above):
        while not there.setdefault(path, (found := stat_or_none(fs, path)) is not None and found.kind == "dir"):
            path = path.parent  # in which it will be made
        if not fs.writable(path):
            raise PreflightError(
                f"this user may not write in {path}. Give this user the right to (chmod, chown), or set output_dir= to "
                "a folder of yours."
            )


def _raise_if_any(obstacles: Iterator[tuple[Path, str]]) -> None:
    for path, what in obstacles:
        raise PreflightError(
            f"{path} {what}; nothing is read, written or removed through it. Move it away or remove it, and run the "
            "same command again; or set name= to another name."
        )


def state_obstacles(fs: Fs, folder: Path) -> Iterator[tuple[Path, str]]:
    """What stands in the place of a job's files and folders: path, and "is a link, and a folder should be there"."""
    ways = _PathChecker(fs, folder)
    for name in FOLDERS:
        ways.check_folder(folder / name)
    for name in FILES:
        ways.check_file(folder / name)
    yield from ways.obstacles


def input_obstacles(fs: Fs, folder: Path, inputs: Iterable[Input]) -> Iterator[tuple[Path, str]]:
    """`in_state` for the files of the inputs."""
    ways = _PathChecker(fs, folder)
    for input in inputs:
        ways.check_file(manifest.translated_path(folder, input.out_rel))
        ways.check_file(manifest.errors_path(folder, input.rel))
        ways.check_file(record_path(folder, input))
        yield from ways.obstacles
        ways.obstacles.clear()


class _PathChecker:
    """The folders below an output folder, each asked for once, and what was found in the place of one or of a file."""

    def __init__(self, fs: Fs, root: Path) -> None:
        self._fs, self._is_folder = fs, {root: True}
        self.obstacles: list[tuple[Path, str]] = []

    def check_folder(self, path: Path) -> bool:
        """Whether a folder is there, and all above it."""
        if path not in self._is_folder:
            self._is_folder[path] = self.check_folder(path.parent) and self._check_type(path, "dir", "a folder")
        return self._is_folder[path]

    def check_file(self, path: Path) -> None:
        if self.check_folder(path.parent):
            self._check_type(path, "file", "a file")

    def _check_type(self, path: Path, expected: str, expected_name: str) -> bool:
        found = stat_or_none(self._fs, path)
        if found is not None and found.kind != expected:
            what = describe_type(path) or {"dir": "a folder", "file": "a file"}.get(
                found.kind, "neither file nor folder"
            )
            self.obstacles.append((path, f"is {what}, and {expected_name} should be there"))
        return found is not None and found.kind == expected
