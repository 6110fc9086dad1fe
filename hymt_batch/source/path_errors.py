"""The errors for a source.path that cannot be used: missing, unreadable, in a job's folder, or with nothing to read."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
from collections.abc import Sequence

from hymt_batch.errors import ConfigError, HymtError, disk_read_error, is_transient
from hymt_batch.formats import registry
from hymt_batch.records import COMPRESSIONS, SkippedFile
from hymt_batch.source import unread
from hymt_batch.source.settings import SourceConfig

WILDCARD = re.compile(r"[*?\[]")


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
        listed = shlex.quote(f"source.path=[{path}]") if " " in path else f"source.path=[{path}]"
        return ConfigError(
            f"source.path={path} does not exist, but its parts do",
            fix=f"For one job with these inputs, set {listed}; for one job each, add -m.",
        )
    if WILDCARD.search(path):
        fix = "Quote it so that the shell does not expand it, or fix the pattern."
        return ConfigError(f"source.path={path} matches no file", fix=fix)
    parent, name = os.path.split(path.rstrip("/"))
    while parent and not os.path.isdir(parent):
        parent, name = os.path.split(parent)
    try:
        entries = sorted(entry for entry in os.listdir(parent or ".") if not entry.startswith("."))
    except OSError:
        entries = []
    similar = difflib.get_close_matches(name, entries, n=3, cutoff=0.5)
    hint = ", ".join(repr(os.path.join(parent, entry)) for entry in similar or entries[:3])
    why = f"{parent or '.'} is empty."
    if entries:
        more = "" if similar or len(entries) <= 3 else f" and {len(entries) - 3:,} more"
        why = f"Similar names: {hint}." if similar else f"No name in {parent or '.'} is similar: it has {hint}{more}."
    return ConfigError(f"source.path={path} does not exist", why=why, fix="Set source.path to a file or folder.")


def job_folder_error(path: str, folder: str, is_own: bool) -> ConfigError:
    """Return the error for a path in the output folder of a job.

    Args:
        path: The path.
        folder: The job's folder.
        is_own: It is the folder of the job itself.
    """
    if is_own:
        return ConfigError(
            f"source.path={path} is in {folder}, the output folder of this job",
            why="so the job would read what it writes",
            fix="Set name=ANOTHER or output_dir=ANOTHER.",
        )
    return ConfigError(
        f"source.path={path} is in {folder}, the output folder of a job",
        why="but only the translations of another job can be an input",
        fix=f"Set source.path={os.path.join(folder, 'translated')} and name=ANOTHER to translate them again, or copy "
        "what you need elsewhere.",
    )


def nothing_found_error(
    path: str,
    config: SourceConfig,
    skipped: Sequence[tuple[SkippedFile, str]],
    job_folders: Sequence[str],
    unmatched: Sequence[str] = (),
) -> ConfigError:
    """Return the error for a source without a file that is read.

    Args:
        path: The source.
        config: The settings.
        skipped: The files that it has, and where they are.
        job_folders: Folders of jobs that it leads to.
        unmatched: Names in it that source.pattern does not match.
    """
    condition = f" that matches source.pattern={config.pattern}" if config.pattern else ""
    what = f"source.path={path} has no file to translate{condition}"
    if not skipped and unmatched:
        fix = "Set source.pattern to a pattern of these names; upper and lower case differ."
        return ConfigError(what, why=f"It has other names, such as {list(unmatched)}.", fix=fix)
    if not skipped and job_folders:
        fix = f"To translate the translations of a job again, set source.path={job_folders[0]}/translated."
        return ConfigError(what, why=f"It leads only to the folders of jobs, such as {job_folders[0]}.", fix=fix)
    if not skipped:
        return ConfigError(what, fix=f"Set source.path to files ({_known_extensions()}).")
    unknown = [file.rel for file, _ in skipped if file.why == unread.UNKNOWN]
    if len(unknown) == len(skipped):
        why = f"Its files, such as {unknown[:3]}, have unknown extensions."
        return ConfigError(what, why=why, fix=f"Set source.format={registry.DEFAULT.name}.")
    file, full_path = next(entry for entry in skipped if entry[0].why != unread.UNKNOWN)
    kind = unread.of_name(full_path)
    return ConfigError(
        what,
        why=f"Files of these formats are not read: {describe_skipped([file for file, _ in skipped])}.",
        fix=f"{file.rel!r} is {file.why}: {kind.advice(full_path, config)}" if kind else "Set source.path to others.",
    )


def describe_skipped(skipped: Sequence[SkippedFile], max_kinds: int = 8) -> str:
    """Return the extensions of skipped files with their counts, the most frequent first: `5 .srt, 2 .png`."""
    counts: dict[str, int] = {}
    for file in skipped:
        extension = os.path.splitext(file.rel)[1].lower() or "without extension"
        extension = extension if extension.isprintable() else repr(extension)
        counts[extension] = counts.get(extension, 0) + 1
    ordered = sorted(counts, key=lambda extension: (-counts[extension], extension))
    more = sum(counts[extension] for extension in ordered[max_kinds:])
    shown = [f"{counts[extension]:,} {extension}" for extension in ordered[:max_kinds]]
    return ", ".join([*shown, f"{more:,} others"] if more else shown)


def _known_extensions() -> str:
    formats = [format.extension for format in registry.FORMATS if format.input_extensions]
    return ", ".join([*formats, f"also {next(iter(COMPRESSIONS))}", *list(COMPRESSIONS)[1:]])
