"""Check the paths that a job needs in its output folder, before anything is created there.

A path must be free or already have the right type. A link counts as an obstacle, because it could lead anywhere.
Independent of what is written to the paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Input
from hymt_batch.state_layout import file_states, shard_parents
from hymt_batch.storage_error import describe_type
from hymt_batch.write.cleanup import shard_folders

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Maximum bytes of a name and of a path on common systems; programs that read the output cannot open a longer path."""

MAX_STATE_PATH_BYTES = len("/.hymt/g012/f0123456789abcdef/s0001000-0001999/s0001000/.tmp-p00000-") + 32
"""Maximum number of bytes that a path in `.hymt` adds to the path of the output folder."""

STATE_FOLDERS = (".hymt", ".hymt/lease", ".hymt/quarantine", ".hymt/attempts", ".hymt/spool", ".hymt/passes")
FOLDERS = (*STATE_FOLDERS, "translated", "errors", "review", "set_aside", "retired")
FILES = ("manifest.json", ".hymt/job.json", ".hymt/lease/job.json")


def check_names(inputs: Sequence[Input], folder: Path) -> None:
    """Check the output paths of all inputs.

    Raises:
        ConfigError: A path would lead out of the folder, is too long, or is shared by two inputs.
    """
    taken: dict[str, str] = {}
    folder_bytes = len(os.fsencode(os.path.abspath(folder)))
    if folder_bytes + MAX_STATE_PATH_BYTES > MAX_PATH_BYTES:
        raise ConfigError(
            f"the path of the output folder has {folder_bytes} bytes, and with the names below it a path must not "
            f"exceed {MAX_PATH_BYTES} bytes: {folder}",
            fix="Set output_dir= to a shorter path.",
        )
    for input in inputs:
        # a path in review/ is as long as that in errors/
        for rel in (f"translated/{input.out_rel}", f"errors/{input.rel}.errors.jsonl"):
            pieces = rel.split("/")
            if any(piece in ("", ".", "..") for piece in pieces) or "\0" in rel:
                raise ConfigError(
                    f"the input {input.rel!r} would be written outside the output folder", fix="Rename it."
                )
            if max(len(os.fsencode(piece)) for piece in pieces) > MAX_NAME_BYTES:
                raise ConfigError(
                    f"the name {pieces[-1]!r} is longer than 255 bytes", fix=f"Rename the input {input.rel!r}."
                )
            if folder_bytes + 1 + len(os.fsencode(rel)) > MAX_PATH_BYTES:
                raise ConfigError(
                    f"the path {folder / rel} is longer than {MAX_PATH_BYTES} bytes",
                    fix=f"Set output_dir= to a shorter path, or rename the input {input.rel!r}.",
                )
        other_rel = taken.setdefault(input.out_rel, input.rel)
        if other_rel != input.rel:
            raise ConfigError(
                f"{other_rel!r} and {input.rel!r} would both be written to {input.out_rel!r}", fix="Rename one."
            )


def check_state(fs: Fs, folder: Path) -> None:
    """Check that nothing blocks the paths of a job's own files and folders.

    Raises:
        PreflightError: Something does; the message names it and the fix.
        OSError: The file system failed.
    """
    _raise_if_any(state_obstacles(fs, folder))
    for name in FILES:
        try:
            fs.read(folder / name, 0, 1)
        except PermissionError:
            raise  # a missing read permission does not mean that the job is damaged
        except OSError:
            continue


def check_inputs(fs: Fs, folder: Path, inputs: Iterable[Input]) -> None:
    """Like `check_state`, for the output files and records of the inputs."""
    _raise_if_any(input_obstacles(fs, folder, inputs))


def check_writable(fs: Fs, folder: Path, inputs: Iterable[Input], states: Iterable[Path]) -> None:
    """Check, before anything is decoded, that the files of these inputs can be created.

    `states` has the state folders of all files.

    Raises:
        PreflightError: This user may not write in one of the folders.
    """
    root = manifest.state_folder(folder)
    inputs = list(inputs)
    folders, wanted = {folder, root}, frozenset(f"f{input.file_id}" for input in inputs)
    folders |= manifest.published_folders(folder, inputs)
    for state in states:
        if state.name in wanted:  # others will be created in the one above
            folders |= {state.parent, *shard_parents(fs, state), *shard_folders(fs, state)}
    is_folder: dict[Path, bool] = {folder: True}  # path -> whether it exists and is a folder
    checked = set[Path]()
    for path in sorted(folders):
        while not is_folder.setdefault(path, (stat := stat_or_none(fs, path)) is not None and stat.kind == "dir"):
            path = path.parent  # the folder it will be created in
        if path in checked:
            continue
        checked.add(path)
        if not fs.writable(path):
            raise PreflightError(
                f"you have no permission to write in {path}",
                fix="Give your user permission (chmod, chown), or set output_dir= to one of your own folders.",
            )


def _raise_if_any(obstacles: Iterator[tuple[Path, str]]) -> None:
    for path, problem in obstacles:
        raise PreflightError(
            f"{path} {problem}",
            why="nothing is read, written or removed through it",
            fix="Move it away or remove it, and run the same command again, or set name= to another name.",
        )


def state_obstacles(fs: Fs, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what blocks the job's own files and folders: path, and "is a link, but a folder should be there"."""
    checker = _PathChecker(fs, folder)
    for name in FOLDERS:
        checker.check_folder(folder / name)
    for name in FILES:
        checker.check_file(folder / name)
    yield from checker.obstacles


def input_obstacles(fs: Fs, folder: Path, inputs: Iterable[Input]) -> Iterator[tuple[Path, str]]:
    """Like `state_obstacles`, for the output files and records of the inputs."""
    checker = _PathChecker(fs, folder)
    states = {path.name: path for path in file_states(fs, folder, checker.check_folder)}
    roots = {name: checker.has_names(folder / name) for name in ("translated", "errors", "review")}
    for input in inputs:
        if roots["translated"]:
            checker.check_file(manifest.translated_path(folder, input.out_rel))
        for key, path in manifest.list_paths(folder, input.rel).items() if roots["errors"] or roots["review"] else ():
            if roots[key]:
                checker.check_file(path)
        if (state := states.get(f"f{input.file_id}")) is not None:
            checker.check_file(state / "file.json")
        yield from checker.obstacles
        checker.obstacles.clear()


class _PathChecker:
    """Collects the obstacles below an output folder; looks at each folder only once."""

    def __init__(self, fs: Fs, root: Path) -> None:
        self._fs, self._is_folder = fs, {root: True}
        self.obstacles: list[tuple[Path, str]] = []

    def check_folder(self, path: Path) -> bool:
        """Return whether a folder and all folders above it exist; record an obstacle if one of them is not a folder."""
        if path not in self._is_folder:
            self._is_folder[path] = self.check_folder(path.parent) and self._check_type(path, "dir", "a folder")
        return self._is_folder[path]

    def has_names(self, path: Path) -> bool:
        """Return whether there is anything in a folder that could be in the way."""
        return self.check_folder(path) and bool(list_names(self._fs, path))

    def check_file(self, path: Path) -> None:
        if self.check_folder(path.parent):
            self._check_type(path, "file", "a file")

    def _check_type(self, path: Path, expected: str, expected_name: str) -> bool:
        stat = stat_or_none(self._fs, path)
        if stat is not None and stat.kind != expected:
            actual_name = describe_type(path) or {"dir": "a folder", "file": "a file"}.get(
                stat.kind, "neither a file nor a folder"
            )
            self.obstacles.append((path, f"is {actual_name}, but {expected_name} should be there"))
        return stat is not None and stat.kind == expected
