"""The names of a job below its output folder, checked before anything is made: nothing of another kind is in the way.

Does not know what is written there. A link counts as something in the way: it could lead anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.fs import Fs, exists
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
    seen: dict[Path, bool] = {}
    for name in FOLDERS:
        _folder(fs, folder, folder / name, seen)
    for name in FILES:
        _file(fs, folder, folder / name, seen)
        try:
            fs.read(folder / name, 0, 1)
        except PermissionError:
            raise  # a job that may not be read is not a damaged one
        except OSError:
            continue


def check_inputs(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """`check_state` for the files of the inputs."""
    seen: dict[Path, bool] = {}
    for input in inputs:
        _file(fs, folder, manifest.translated(folder, input.out_rel), seen)
        _file(fs, folder, manifest.errors_file(folder, input.rel), seen)
        _file(fs, folder, record_path(folder, input), seen)


def _folder(fs: Fs, root: Path, path: Path, seen: dict[Path, bool]) -> bool:
    """Whether a folder below the root is there, and the ones above it; `seen` holds those that were asked for."""
    if path == root:
        return True
    if path not in seen:
        found = exists(fs, path) if _folder(fs, root, path.parent, seen) else None
        if found is not None and found.kind != "dir":
            raise _in_the_way(path, "a folder", found.kind)
        seen[path] = found is not None
    return seen[path]


def _file(fs: Fs, root: Path, path: Path, seen: dict[Path, bool]) -> None:
    if _folder(fs, root, path.parent, seen):
        found = exists(fs, path)
        if found is not None and found.kind != "file":
            raise _in_the_way(path, "a file", found.kind)


def _in_the_way(path: Path, wanted: str, found: str) -> PreflightError:
    what = kind(path) or {"dir": "a folder", "file": "a file"}.get(found, "neither file nor folder")
    return PreflightError(
        f"{path} is {what}, and {wanted} should be there; nothing is read, written or removed through it. Move it away "
        "or remove it, and run the same command again; or set name= to another name."
    )
