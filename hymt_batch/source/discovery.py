"""Find the inputs of a job by their names: files, folders, globs, saved datasets, standard input, datasets of the hub.

Only folders are read; `content.py` looks into the files. A name that exists is used literally before it is tried as a
pattern, because `data_files` of the package datasets gives no rows and no error for a file named a[1].txt.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.format import Format
from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.records import Input, SkippedFile
from hymt_batch.source import hub, ignored_settings, input_names, unread
from hymt_batch.source.folder_walk import walk
from hymt_batch.source.format_choice import FormatChoice, Origin
from hymt_batch.source.found_inputs import FoundInputs
from hymt_batch.source.input_names import AS_INPUTS, OutputNames
from hymt_batch.source.job_folders import JobFolders, is_in_translations, show
from hymt_batch.source.path_errors import (
    WILDCARD,
    job_folder_error,
    missing_path_error,
    nothing_found_error,
    unusable_path_error,
)
from hymt_batch.source.saved_splits import find_splits, is_dataset
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.spool import Spool

log = logging.getLogger(__name__)

STDIN = "-"
DEMO_PREFIX = "demo:"
CORPUS_FOLDER = Path(__file__).parent.parent / "demo" / "corpus"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_inputs(
    config: SourceConfig,
    spool: Spool | None = None,
    outputs: OutputNames = AS_INPUTS,
    folder: Path | None = None,
    formats: Sequence[str] | None = None,
) -> FoundInputs:
    """Resolve source.path to inputs: the sources in the given order, the files of each source sorted by name.

    Args:
        config: The settings.
        spool: Stores standard input and hub datasets.
        outputs: How the outputs are named.
        folder: The output folder of the job, whose files are never inputs.
        formats: The list of formats with which the job was created: files of other formats are not found. Empty for
            a job of a version that recorded none; None for a new job.

    Raises:
        ConfigError: A path does not exist, has nothing to translate or cannot be used; two inputs have the same output.
        PreflightError: The hub has no such dataset, or cannot be reached.
        StoppedError: The disk of a source fails.
    """
    finder = _Finder(config, outputs.format, JobFolders(folder), formats)
    for path in config.paths:
        try:
            finder.add_source(path, spool)
        except OSError as error:
            raise unusable_path_error(error.filename if isinstance(error.filename, str) else path, error) from error
    finder.finish()
    ignored_settings.warn(config, finder.inputs, finder.used_settings)
    named = input_names.name_outputs(finder.inputs, outputs.rename)
    return FoundInputs([with_settings(i, config) for i in named], finder.named, [file for file, _ in finder.skipped])


def with_settings(input: Input, config: SourceConfig) -> Input:
    """Return an input with the settings by which its bytes are read; a table has no encoding."""
    has_encoding = config.encoding != UTF8 and "encoding" in registry.of_input(input).source_settings
    return replace(input, encoding=config.encoding if has_encoding else "", max_window=config.max_window_bytes)


class _Finder:
    def __init__(self, config: SourceConfig, out_format: str, folders: JobFolders, formats: Sequence[str] | None):
        self.config, self.out_format, self.job_folders = config, out_format, folders
        self.choice = FormatChoice(config, formats)
        self.inputs: list[Input] = []
        self.named: set[str] = set()  # `rel`s of inputs that a path names
        self.skipped: list[tuple[SkippedFile, str]] = []  # with their paths
        self.used_settings: set[str] = set()  # optional settings that a source has used
        self._empty: list[tuple[str, slice]] = []  # sources without an input, and what was skipped in them
        self._ignored: list[str] = []  # paths of a list that are in the folder of a job
        self._unmatched: list[str] = []  # the first three names that no source.pattern matches

    def add_source(self, path: str, spool: Spool | None) -> None:
        num_before, num_skipped, num_ignored = len(self.inputs), len(self.skipped), len(self._ignored)
        expanded = os.path.expanduser(path)
        if path == STDIN:
            self._add_spooled(path, spool)
        elif os.path.lexists(path) or os.path.lexists(expanded):
            self._add_path(path if os.path.lexists(path) else expanded)
        elif path.startswith(DEMO_PREFIX):
            self._add_demo(path)
        elif WILDCARD.search(path):
            self._add_glob(expanded)
        elif is_hub_id(path):
            self._add_spooled(path, spool)
        else:
            raise missing_path_error(path)
        if len(self.inputs) == num_before and len(self._ignored) == num_ignored:
            self._empty.append((path, slice(num_skipped, len(self.skipped))))

    def finish(self) -> None:
        """Report what was left out.

        Raises:
            ConfigError: A source has no file to translate.
        """
        left_out = list(self.job_folders.left_out)
        for path, span in self._empty:
            if not self.inputs or not (self.skipped[span] or left_out):
                raise nothing_found_error(path, self.config, self.skipped[span], left_out, self._unmatched)
        if not self.inputs and self._ignored:
            raise job_folder_error(self._ignored[0], left_out[0], self.job_folders.is_own(left_out[0]))
        if self._ignored:
            log.warning(
                "ignored paths=%d in the output folders of jobs, such as %s: only a path alone can name translations",
                len(self._ignored),
                self._ignored[:3],
            )
        elif left_out:
            log.info("skipped folders=%d with outputs of jobs, such as %s", len(left_out), left_out[:3])
        self.choice.report()
        ignored_settings.warn_of_skipped([file for file, _ in self.skipped])

    def _add_path(self, path: str) -> None:
        if (folder := self.job_folders.around(path)) is not None:
            is_alone = len(self.config.paths) == 1
            is_own = self.job_folders.is_own(folder)
            if not is_alone:
                self.job_folders.leaves_out(path)
                self._ignored.append(path)
                return
            if is_own or not is_in_translations(folder, path):
                raise job_folder_error(path, show(folder), is_own)
        if os.path.isdir(path):
            self._add_folder(path)
        else:
            self._add_file(os.path.basename(path), path, Origin.NAMED)

    def _add_file(self, rel: str, path: str, origin: Origin) -> None:
        format, reason = self.choice.choose(path, origin)
        if format is None and origin is not Origin.NAMED:
            self.skipped.append((SkippedFile(rel, reason), path))  # a broken link or a pipe, too
            return
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(
                f"{path!r} is not a regular file",
                why="so it cannot be read twice",
                fix="Pipe it in with source.path=-, or copy it to a file.",
            )
        if format is None:
            kind = unread.of_name(path)
            assert kind is not None  # the reason why there is no format
            raise kind.error(path, self.config)
        if origin is Origin.NAMED:
            self.named.add(rel)
        self._add_input(rel, path, format, status.st_size)

    def _add_input(self, rel: str, path: str, format: Format, size: int | None = None) -> None:
        format = registry.as_document(format) if self.config.document else format
        self.inputs.append(input_names.make_input(rel, path, format, self.out_format, size))

    def _add_folder(self, path: str) -> None:
        name = os.path.basename(os.path.realpath(path))
        if is_dataset(path):
            self._add_dataset(name, path)
        else:
            if self.config.pattern:
                self.used_settings.add("pattern")
            origin = Origin.MATCHED if self.config.patterns else Origin.FOUND
            for rel, is_folder in sorted(walk(path, self.config.follow_symlinks, self.job_folders)):
                full = os.path.join(path, rel)
                if is_folder:
                    self._add_dataset(rel, full)
                elif not self.config.patterns or any(_matches(rel, pattern) for pattern in self.config.patterns):
                    self._add_file(rel, full, origin)
                elif len(self._unmatched) < 3:
                    self._unmatched.append(rel)

    def _add_dataset(self, rel: str, path: str) -> None:
        if registry.of_folder(path) is None and self.config.split is not None:
            self.used_settings.add("split")
        for split_rel, folder, format in find_splits(rel, path, self.config.split):
            self._add_input(f"{split_rel}{format.extension}", folder, format)

    def _add_glob(self, pattern: str) -> None:
        matches = sorted(glob.glob(pattern, recursive=True))
        parts = pattern.split("/")
        first_wildcard = next(index for index, part in enumerate(parts) if WILDCARD.search(part))
        root = "/".join(parts[:first_wildcard]) or ("/" if pattern.startswith("/") else ".")
        for path in matches:
            rel = os.path.relpath(path, root)
            if self.job_folders.leaves_out(path):
                continue
            if not os.path.isdir(path):
                self._add_file(rel, path, Origin.MATCHED)
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
        self._add_file(f"{name}.txt", str(corpora[name]), Origin.NAMED)

    def _add_spooled(self, path: str, spool: Spool | None) -> None:
        if spool is None:
            raise ConfigError(
                f"source.path={path} must be stored before it is read, and only the job translate stores inputs",
                fix="Set source.path to a file.",
            )
        if path == STDIN:
            format = self.choice.set_format or registry.DEFAULT
            stored = [spool.store_stdin(format.extension)]
        else:
            format = registry.get(hub.STORED_FORMAT)
            self.used_settings |= {"subset", "split", "revision"}
            stored = spool.store_hub(path, self.config)
        for file, rel in stored:
            self.named.add(rel)
            self._add_input(rel, str(file), format)


def _matches(rel: str, pattern: str) -> bool:
    return fnmatchcase(rel if "/" in pattern else os.path.basename(rel), pattern)


def is_hub_id(path: str) -> bool:
    """Return whether a path can be the id of a hub dataset, rather than a mistyped path."""
    return (
        bool(_HUB_ID.fullmatch(path))
        and input_names.parse_extension(path)[0] is None
        and not os.path.isdir(path.split("/")[0])
    )
