"""The names of a job below its output folder, checked before anything is made: nothing of another kind is in the way.

Does not know what is written there. A link counts as something in the way: it could lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.fs import Fs, exists, names
from hymt_batch.records import Input
from hymt_batch.store_error import kind
from hymt_batch.write.final import record_path

MAX_NAME, MAX_PATH = 255, 4095
"""Bytes of a name and of a path that systems take; longer paths cannot be opened by those who read the output."""

LONGEST = len("/.hymt/f0123456789abcdef/s0000000/.tmp-p00000-") + 32
"""Bytes of the longest name in `.hymt`."""

STATE_FOLDERS = (".hymt", ".hymt/lease", ".hymt/quarantine", ".hymt/attempts", ".hymt/spool")
FOLDERS = (*STATE_FOLDERS, "translated", "errors", "set_aside")
FILES = ("manifest.json", ".hymt/job.json", ".hymt/lease/job.json")


def check_names(inputs: Sequence[Input], folder: Path) -> None:
    """Refuse names that would lead out of the folder, that the store cannot hold, or that two inputs share."""
    taken: dict[str, str] = {}
    above = len(os.fsencode(os.path.abspath(folder)))
    if above + LONGEST > MAX_PATH:
        raise ConfigError(
            f"the path of the output folder takes {above} bytes, and a path may take {MAX_PATH} with the names below "
            f"it: {folder}. Set output_dir= to a shorter path."
        )
    for input in inputs:
        for rel in (f"translated/{input.out_rel}", f"errors/{input.rel}.errors.jsonl"):
            pieces = rel.split("/")
            if any(piece in ("", ".", "..") for piece in pieces) or "\0" in rel:
                raise ConfigError(f"the input {input.rel!r} would be written outside of the output folder. Rename it.")
            if max(len(os.fsencode(piece)) for piece in pieces) > MAX_NAME:
                raise ConfigError(f"the name {pieces[-1]!r} is longer than 255 bytes. Rename the input {input.rel!r}.")
            if above + 1 + len(os.fsencode(rel)) > MAX_PATH:
                raise ConfigError(
                    f"the path {folder / rel} is longer than {MAX_PATH} bytes. Set output_dir= to a shorter path, or "
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
    _refuse(in_state(fs, folder))
    for name in FILES:
        try:
            fs.read(folder / name, 0, 1)
        except PermissionError:
            raise  # a job that may not be read is not a damaged one
        except OSError:
            continue


def check_inputs(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """`check_state` for the files of the inputs."""
    _refuse(in_inputs(fs, folder, inputs))


def check_writable(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """Refuse a folder in which the files of these inputs could not be made, before anything is decoded.

    Raises:
        PreflightError: This user may not write in one of its folders.
    """
    above = {folder}
    for input in inputs:
        state = manifest.file_state(folder, input.file_id)
        translated, errors = manifest.translated(folder, input.out_rel), manifest.errors_file(folder, input.rel)
        above.update((translated.parent, errors.parent, state, *(state / shard for shard in names(fs, state))))
    there: dict[Path, bool] = {folder: True}  # whether it is a folder by now
    for path in sorted(above):
        while not there.setdefault(path, (found := exists(fs, path)) is not None and found.kind == "dir"):
            path = path.parent  # in which it will be made
        if not fs.writable(path):
            raise PreflightError(
                f"this user may not write in {path}. Give this user the right to (chmod, chown), or set output_dir= to "
                "a folder of yours."
            )


def _refuse(found: Iterator[tuple[Path, str]]) -> None:
    for path, what in found:
        raise PreflightError(
            f"{path} {what}; nothing is read, written or removed through it. Move it away or remove it, and run the "
            "same command again; or set name= to another name."
        )


def in_state(fs: Fs, folder: Path) -> Iterator[tuple[Path, str]]:
    """What stands in the place of a job's files and folders: path, and "is a link, and a folder should be there"."""
    ways = _Ways(fs, folder)
    for name in FOLDERS:
        ways.leads(folder / name)
    for name in FILES:
        ways.file(folder / name)
    yield from ways.obstacles


def in_inputs(fs: Fs, folder: Path, inputs: Iterable[Input]) -> Iterator[tuple[Path, str]]:
    """`in_state` for the files of the inputs."""
    ways = _Ways(fs, folder)
    for input in inputs:
        ways.file(manifest.translated(folder, input.out_rel))
        ways.file(manifest.errors_file(folder, input.rel))
        ways.file(record_path(folder, input))
        yield from ways.obstacles
        ways.obstacles.clear()


class _Ways:
    """The folders below an output folder, each asked for once, and what was found in the place of one or of a file."""

    def __init__(self, fs: Fs, root: Path) -> None:
        self._fs, self._leads = fs, {root: True}
        self.obstacles: list[tuple[Path, str]] = []

    def leads(self, path: Path) -> bool:
        """Whether a folder is there, and all above it."""
        if path not in self._leads:
            self._leads[path] = self.leads(path.parent) and self._is(path, "dir", "a folder")
        return self._leads[path]

    def file(self, path: Path) -> None:
        if self.leads(path.parent):
            self._is(path, "file", "a file")

    def _is(self, path: Path, wanted: str, name: str) -> bool:
        found = exists(self._fs, path)
        if found is not None and found.kind != wanted:
            what = kind(path) or {"dir": "a folder", "file": "a file"}.get(found.kind, "neither file nor folder")
            self.obstacles.append((path, f"is {what}, and {name} should be there"))
        return found is not None and found.kind == wanted
