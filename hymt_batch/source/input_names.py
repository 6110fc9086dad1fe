"""Derive from a file's name its format, its compression, the name of its output, and whether the name is allowed.

Does not read files.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hymt_batch.errors import ConfigError
from hymt_batch.formats import registry
from hymt_batch.formats.extraction import split_compression
from hymt_batch.formats.format import Format
from hymt_batch.records import Input

MAX_NAME_BYTES = 255  # the limit of common file systems
ERRORS_SUFFIX = ".errors.jsonl"  # the longest suffix that is added to a name in the output folder
STATE_FOLDER = ".hymt"


@dataclass(frozen=True, slots=True)
class OutputNames:
    """How the outputs of a job are named."""

    format: str = "input"  # the setting write.format, which decides the extension; "input" keeps that of the input
    rename: Callable[[str], str] = str  # returns the name by the setting write.name


AS_INPUTS = OutputNames()
"""The outputs have the names of the inputs."""


def parse_extension(name: str) -> tuple[Format | None, str]:
    """Return the format (None if the extension is unknown) and the compression of a file name."""
    stem, compression = split_compression(name)
    return registry.by_extension(os.path.splitext(stem)[1]), compression


def make_input(rel: str, path: str, format: Format, out_format: str, size: int | None = None) -> Input:
    """Create an input with all its names.

    Args:
        rel: Path relative to the source's root.
        path: Path of the file, or of the folder where the format has folders.
        format: Format of the input.
        out_format: The setting write.format; "input" keeps the format.
        size: Bytes of the file on the disk.

    Raises:
        ConfigError: The name cannot be used below the output folder.
    """
    known, compression = parse_extension(rel)
    is_folder = format.is_folder is not None
    compression = "" if is_folder else compression
    if compression and not format.compressible and known not in (None, format):
        raise ConfigError(
            f"{path} is named as {known.name}, but source.format says that it is {format.name}",
            fix=f"Set source.format={known.name}, or source.format=auto to go by the names of the files.",
        )
    if compression and not format.compressible:
        raise ConfigError(
            f"{path} is a {format.name} file inside .{compression}, which cannot be read", fix="Decompress it."
        )
    own_format, out_rel = format.written_as or format.name, rel
    if out_format not in ("input", own_format):
        target = registry.get(out_format)
        stem = os.path.splitext(rel)[0] if compression else rel
        # keep an unknown extension: it may be all that distinguishes two names (chapter.1, chapter.2)
        stem = os.path.splitext(stem)[0] if known or is_folder else stem
        suffix = rel[len(os.path.splitext(rel)[0]) :] if target.compressible and compression else ""
        out_rel = stem + target.extension + suffix
    check_name(rel, path)
    check_name(out_rel, path)
    file_id = hashlib.sha256(rel.encode()).hexdigest()[:16]
    dataset = format.name if is_folder else ""
    return Input(rel, out_rel, path, own_format, compression, file_id, dataset, size=size)


def check_name(rel: str, path: str) -> None:
    """Raise ConfigError for a relative name that would leave the output folder, collide with its state, or not fit."""
    why = ""
    parts = rel.split("/")
    if rel.startswith("/") or any(part in ("", ".", "..") for part in parts):
        why = "would lead out of the output folder"
    elif STATE_FOLDER in (part.casefold() for part in parts):
        why = f"contains {STATE_FOLDER}, the name of a job's state folder"
    elif any(character in rel for character in "\0\n\r"):
        why = "contains a line break or NUL, which would break row ids"
    else:
        try:
            longest = max(len(part.encode()) for part in [*parts[:-1], parts[-1] + ERRORS_SUFFIX])
            if longest > MAX_NAME_BYTES:
                why = (
                    f"is too long: with {ERRORS_SUFFIX!r} added it has {longest} bytes, and at most "
                    f"{MAX_NAME_BYTES} are allowed"
                )
        except UnicodeEncodeError:
            why = "is not UTF-8"
    if why:
        raise ConfigError(f"The name {rel!r} of {path!r} {why}", fix="Rename the file, or leave it out of source.path.")


def name_outputs(inputs: Sequence[Input], rename: Callable[[str], str]) -> list[Input]:
    """Give the outputs their names.

    Args:
        inputs: The inputs, each with the name that its output has without write.name.
        rename: Returns the name by write.name.

    Raises:
        ConfigError: A name cannot be used, or two outputs have the same name.
    """
    refuse_collisions(inputs)
    named = []
    for input in inputs:
        out_rel = rename(input.out_rel)
        check_name(out_rel, input.path)
        named.append(input if out_rel == input.out_rel else replace(input, out_rel=out_rel))
    if named != inputs:
        refuse_collisions(named, "Put {stem} into write.name, or rename one.")
    return named


def refuse_collisions(
    inputs: Sequence[Input], advice: str = "Rename one, or translate them in two jobs (name=...)."
) -> None:
    """Reject inputs whose outputs would have the same name, also on file systems that ignore case or compose accents.

    Raises:
        ConfigError: Two outputs have the same name; the message names both inputs.
    """
    seen: dict[str, Input] = {}
    folders: dict[str, Input] = {}
    for input in inputs:
        key = _collision_key(input.out_rel)
        earlier = seen.get(key)
        if earlier is not None:
            same = os.path.realpath(earlier.path) == os.path.realpath(input.path)
            fix = "List it once in source.path." if same else advice
            difference = (
                "" if earlier.out_rel == input.out_rel else f" ({earlier.out_rel!r} differs only by case or accents)"
            )
            raise ConfigError(
                f"{earlier.path!r} and {input.path!r} would both be written to translated/{input.out_rel}{difference}",
                fix=fix,
            )
        seen[key] = input
        parts = key.split("/")
        for depth in range(1, len(parts)):
            folders.setdefault("/".join(parts[:depth]), input)
    for key, input in seen.items():
        if key in folders:
            raise ConfigError(
                f"{input.path!r} would be written to translated/{input.out_rel}, which must be a folder for "
                f"{folders[key].path!r}",
                fix=advice,
            )


def _collision_key(rel: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", rel).casefold())
