"""Find the inputs of a job: files, folders, globs, saved datasets, standard input, datasets of the Hugging Face hub.

Only folders are read. A name that exists is used literally before it is tried as a pattern, because `data_files` of
the package datasets gives no rows and no error for a file named a[1].txt.
"""

from __future__ import annotations

import difflib
import errno
import glob
import json
import logging
import os
import re
import stat
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from hymt_batch.errors import ConfigError, HymtError, disk_read_error, is_transient
from hymt_batch.formats import registry
from hymt_batch.formats.format import Format
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.records import COMPRESSIONS, Input
from hymt_batch.source import hub, ignored_settings, input_names
from hymt_batch.source.folder_walk import SPLITS_FILE, is_dataset, walk
from hymt_batch.source.settings import SourceConfig, SourceFormat
from hymt_batch.source.spool import Spool

log = logging.getLogger(__name__)

STDIN = "-"
DEMO_PREFIX = "demo:"
CORPUS_FOLDER = Path(__file__).parent.parent / "demo" / "corpus"
_WILDCARD = re.compile(r"[*?\[]")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_inputs(config: SourceConfig, spool: Spool | None = None, out_format: str = "input") -> list[Input]:
    """Resolve source.path to inputs: the sources in the given order, the files of each source sorted by name.

    Args:
        config: The settings.
        spool: Stores standard input and hub datasets.
        out_format: The setting write.format, which decides the extension of the outputs.

    Raises:
        ConfigError: A path does not exist, has nothing to translate or cannot be used; two inputs have the same output.
        PreflightError: The hub has no such dataset, or cannot be reached.
        StoppedError: The disk of a source fails.
    """
    finder = _Finder(config, out_format)
    for path in config.paths:
        try:
            finder.add_source(path, spool)
        except OSError as error:
            raise unusable_path_error(error.filename if isinstance(error.filename, str) else path, error) from error
    ignored_settings.warn(config, finder.inputs, finder.unknown_files, finder.used_settings)
    input_names.refuse_collisions(finder.inputs)
    return [_with_settings(input, config) for input in finder.inputs]


def _with_settings(input: Input, config: SourceConfig) -> Input:
    """Return an input with the settings by which its bytes are read; a table has no encoding."""
    has_encoding = config.encoding != UTF8 and "encoding" in registry.of_input(input).source_settings
    return replace(input, encoding=config.encoding if has_encoding else "", max_window=config.max_window_bytes)


class _Finder:
    def __init__(self, config: SourceConfig, out_format: str) -> None:
        self.config, self.out_format = config, out_format
        self.format = None if config.format is SourceFormat.auto else registry.get(config.format.value)
        self.inputs: list[Input] = []
        self.unknown_files: list[str] = []  # files in folders that have an unknown extension
        self.used_settings: set[str] = set()  # optional settings that a source has used

    def add_source(self, path: str, spool: Spool | None) -> None:
        num_before = len(self.inputs)
        num_unknown = len(self.unknown_files)
        expanded = os.path.expanduser(path)
        if path == STDIN:
            self._add_spooled(path, spool)
        elif os.path.lexists(path) or os.path.lexists(expanded):
            self._add_path(path if os.path.lexists(path) else expanded)
        elif path.startswith(DEMO_PREFIX):
            self._add_demo(path)
        elif _WILDCARD.search(path):
            self._add_glob(expanded)
        elif is_hub_id(path):
            self._add_spooled(path, spool)
        else:
            raise missing_path_error(path)
        if len(self.inputs) == num_before:
            skipped = self.unknown_files[num_unknown:]
            why, fix = "", f"Set source.path to files ({_known_extensions()})."
            if skipped:
                why = f"Its files, such as {skipped[:3]}, have unknown extensions."
                fix = f"Set source.format={registry.DEFAULT.name}."
            condition = f" that matches source.pattern={self.config.pattern}" if self.config.pattern else ""
            raise ConfigError(f"source.path={path} has no file to translate{condition}", why=why, fix=fix)

    def _add_path(self, path: str) -> None:
        if os.path.isdir(path):
            self._add_folder(path)
        else:
            self._add_file(os.path.basename(path), path, explicit=True)

    def _add_file(self, rel: str, path: str, *, explicit: bool) -> None:
        known, _ = input_names.parse_extension(path)
        mode = os.stat(path).st_mode
        format = self.format or known
        if format is None and not explicit:
            self.unknown_files.append(rel)
            return
        if not stat.S_ISREG(mode):
            raise ConfigError(
                f"{path!r} is not a regular file",
                why="so it cannot be read twice",
                fix="Pipe it in with source.path=-, or copy it to a file.",
            )
        unsupported = input_names.UNSUPPORTED_EXTENSIONS.get(os.path.splitext(path)[1].lower())
        if format is None and unsupported:
            kind, fix = unsupported
            raise ConfigError(f"{path!r} is {kind}", fix=fix)
        self.inputs.append(input_names.make_input(rel, path, format or registry.DEFAULT, self.out_format))

    def _add_folder(self, path: str) -> None:
        name = os.path.basename(os.path.realpath(path))
        if is_dataset(path):
            self._add_dataset(name, path)
        else:
            if self.config.pattern:
                self.used_settings.add("pattern")
            for rel in sorted(walk(path, self.config.follow_symlinks)):
                full = os.path.join(path, rel)
                if os.path.isdir(full):
                    self._add_dataset(rel, full)
                elif not self.config.patterns or any(_matches(rel, pattern) for pattern in self.config.patterns):
                    self._add_file(rel, full, explicit=bool(self.config.patterns))

    def _add_dataset(self, rel: str, path: str) -> None:
        if format := registry.of_folder(path):
            self._add_saved_split(rel, path, format)
        else:
            self._add_splits(rel, path)

    def _add_splits(self, rel: str, path: str) -> None:
        try:
            splits = [str(split) for split in json.loads(Path(path, SPLITS_FILE).read_text(encoding="utf-8"))["splits"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}/{SPLITS_FILE} cannot be read ({error})", fix="Save the dataset again."
            ) from error
        if self.config.split is not None:
            self.used_settings.add("split")
            if self.config.split not in splits:
                raise ConfigError(
                    f"{path} has no split {self.config.split!r}",
                    why=f"Its splits are {splits}.",
                    fix="Set source.split to one.",
                )
            splits = [self.config.split]
        for split in sorted(splits):
            folder = os.path.join(path, split)
            if not (format := registry.of_folder(folder)):
                raise ConfigError(f"{folder} is missing or is not a saved split", fix="Save the dataset again.")
            self._add_saved_split(f"{rel}/{split}", folder, format)

    def _add_saved_split(self, rel: str, path: str, format: Format) -> None:
        self.inputs.append(input_names.make_input(f"{rel}{format.extension}", path, format, self.out_format))

    def _add_glob(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))
        parts = pattern.split("/")
        first_wildcard = next(index for index, part in enumerate(parts) if _WILDCARD.search(part))
        root = "/".join(parts[:first_wildcard]) or ("/" if pattern.startswith("/") else ".")
        for path in matches:
            rel = os.path.relpath(path, root)
            if not os.path.isdir(path):
                self._add_file(rel, path, explicit=True)
            elif is_dataset(path):
                self._add_dataset(rel, path)
        if matches and not self.inputs and all(os.path.isdir(path) for path in matches):
            raise ConfigError(
                f"source.path={pattern} matches only folders, such as {matches[0]!r}",
                fix="Set source.path to a folder, or match its files with /**/*.txt.",
            )
        if not matches:
            raise missing_path_error(pattern)

    def _add_demo(self, path: str) -> None:
        name = path.removeprefix(DEMO_PREFIX)
        corpora = {file.stem: file for file in sorted(CORPUS_FOLDER.glob("*.txt"))}
        if name not in corpora:
            raise ConfigError(
                f"source.path={path} is not an embedded corpus",
                why=f"The corpora are {[DEMO_PREFIX + known for known in corpora]}.",
                fix="Set source.path to one of them, or to a file.",
            )
        self._add_file(f"{name}.txt", str(corpora[name]), explicit=True)

    def _add_spooled(self, path: str, spool: Spool | None) -> None:
        if spool is None:
            raise ConfigError(
                f"source.path={path} must be stored before it is read, and only the job translate stores inputs",
                fix="Set source.path to a file.",
            )
        if path == STDIN:
            stored = [spool.store_stdin((self.format or registry.DEFAULT).extension)]
        else:
            self.used_settings |= {"subset", "split", "revision"}
            stored = spool.store_hub(path, self.config)
        for file, rel in stored:
            format = registry.get(hub.STORED_FORMAT) if path != STDIN else self.format or registry.DEFAULT
            self.inputs.append(input_names.make_input(rel, str(file), format, self.out_format))


def _known_extensions() -> str:
    formats = [format.extension for format in registry.FORMATS if format.input_extensions]
    return ", ".join([*formats, f"also {next(iter(COMPRESSIONS))}", *list(COMPRESSIONS)[1:]])


def unusable_path_error(path: str, error: OSError) -> HymtError:
    """Return a one-line error for a source that cannot be listed or read."""
    if is_transient(error):
        return disk_read_error(repr(path), error)
    shown = path if len(path) <= 200 else f"{path[:150]}...{path[-40:]}"
    if isinstance(error, PermissionError):
        return ConfigError(
            f"{shown!r} cannot be listed ({error.strerror})", fix="Make it readable, or leave it out of source.path."
        )
    fix = {
        errno.ENAMETOOLONG: "Its path is longer than the system allows: move its files up, or rename its folders.",
        errno.ELOOP: "It is a link that points to itself: remove it.",
    }.get(error.errno or 0, "Fix or remove it.")
    return ConfigError(f"{shown!r} cannot be used", why=error.strerror or str(error), fix=fix)


def missing_path_error(path: str) -> ConfigError:
    """Return the error for a path that matches nothing, with the closest names that exist."""
    names = path.split(",")
    if len(names) > 1 and all(name and os.path.exists(os.path.expanduser(name)) for name in names):
        return ConfigError(
            f"source.path={path} does not exist, but its parts do",
            fix=f"For one job with these inputs, set source.path=[{path}]; for one job each, add -m.",
        )
    if _WILDCARD.search(path):
        fix = "Quote it so that the shell does not expand it, or fix the pattern."
        return ConfigError(f"source.path={path} matches no file", fix=fix)
    parent, name = os.path.split(path.rstrip("/"))
    while parent and not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    try:
        entries = sorted(entry for entry in os.listdir(parent or ".") if not entry.startswith("."))
    except OSError:
        entries = []
    similar = difflib.get_close_matches(name, entries, n=3, cutoff=0.5) or entries[:3]
    hint = ", ".join(repr(os.path.join(parent, entry)) for entry in similar)
    why = f"Similar names: {hint}." if similar else f"{parent or '.'} is empty."
    return ConfigError(f"source.path={path} does not exist", why=why, fix="Set source.path to a file or folder.")


def _matches(rel: str, pattern: str) -> bool:
    return fnmatchcase(rel if "/" in pattern else os.path.basename(rel), pattern)


def is_hub_id(path: str) -> bool:
    """Return whether a path can be the id of a hub dataset, rather than a mistyped path."""
    return (
        bool(_HUB_ID.fullmatch(path))
        and input_names.parse_extension(path)[0] is None
        and not os.path.isdir(path.split("/")[0])
    )
