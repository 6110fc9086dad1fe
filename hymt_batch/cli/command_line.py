"""Parse the words of a command line: which job, its overrides, and the flags. Does not know what an override means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hymt_batch.cli import help_text as pages
from hymt_batch.errors import UsageError


@dataclass(slots=True)
class CommandLine:
    """The parsed command line."""

    job: str | None = None
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE arguments, in order
    help: bool = False
    version: bool = False
    info: bool = False
    multirun: bool = False
    cfg: bool = False
    package: str | None = None
    completion: str | None = None


def parse_arguments(arguments: Sequence[str], jobs: Sequence[str]) -> CommandLine:
    """Parse the words of a command line; flags may be anywhere.

    Raises:
        UsageError: A flag or the job is unknown.
    """
    command_line = CommandLine()
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            if command_line.job is None and "=" not in word:
                command_line.job = find_job(word, jobs)
            else:
                command_line.overrides.append(word)
            continue
        if flag in ("--cfg", "-c", "--package", "-p", "--completion"):
            if not equals:
                value = queue.pop(0) if queue else ""
            if flag == "--completion":
                command_line.completion = value
            elif flag in ("--package", "-p"):
                command_line.package = value
            elif value != "job":
                raise UsageError(f"{flag} {value} is not available", fix="Write --cfg job to print the job's settings.")
            else:
                command_line.cfg = True
        elif word in ("-h", "--help"):
            command_line.help = True
        elif word in ("-m", "--multirun"):
            command_line.multirun = True
        elif word in ("--version", "--info"):
            setattr(command_line, word[2:], True)
        elif word in ("--run", "-r", "--resolve"):
            continue  # Hydra's flags for what hymt-batch does by default
        else:
            from hymt_batch.cli import suggestion
            from hymt_batch.cli.override_syntax import close_matches, sort_by_similarity

            flags = sort_by_similarity(flag, [spelling.split(" ")[-1] for spelling in FLAG_SPELLINGS])
            meant = "" if close_matches(flag, flags) else suggestion.for_flag(word)
            raise UsageError(f"{word} is not a flag of hymt-batch", fix=f"{meant}Flags: {', '.join(flags)}.")
    return command_line


FLAG_SPELLINGS = [spelling.partition(" ")[0] if "," not in spelling else spelling for spelling in pages.FLAGS]
"""The flags without their values; the spellings of one flag are separated by commas."""


def find_job(name: str, jobs: Sequence[str]) -> str:
    """Return `name` if it is a job; else raise UsageError with the most similar one."""
    if name in jobs:
        return name
    from hymt_batch.cli.override_syntax import close_matches, path_exists, sort_by_similarity

    matches = close_matches(name, jobs)
    hint = f"Did you mean {matches[0]}? " if matches else ""
    if path_exists(name) and not matches:
        hint = f"To translate this file, write hymt-batch translate source.path={name} tgt_lang=fr. "
    raise UsageError(f"{name} is not a job", fix=f"{hint}Jobs: {', '.join(sort_by_similarity(name, jobs))}.")
