"""Shell commands that make rows of a file that no reader takes, and the settings to read the new file with.

Used in messages only: nothing here is run.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from hymt_batch.records import COMPRESSIONS

FILE, OUT = "{file}", "{out}"
_UNPACKERS = {"gz": "gzip -dc", "zst": "zstd -dc", "xz": "xz -dc", "bz2": "bzip2 -dc"}


@dataclass(frozen=True, slots=True)
class Extraction:
    """How to make a new file of one that is not read.

    A command with FILE in it opens the file itself, any other reads standard input; one with OUT in it writes the new
    file itself, any other writes standard output.
    """

    command: str
    suffix: str = ".jsonl"  # extension of the new file; "" for a folder, or a file without its last extension
    settings: str = ""  # overrides that the new file needs
    opens_compressed: bool = False  # a command with FILE in it opens compressed files too

    def advice(self, path: str, text_field: str = "text") -> str:
        """Return the new source.path, and the command that makes it.

        Args:
            path: The file that is not read.
            text_field: The setting source.text_field; the commands name the text "text".
        """
        name, compression = split_compression(path)
        unpacker = _UNPACKERS.get(compression, "cat")
        if FILE in self.command and compression and not self.opens_compressed:
            return decompress(path, compression)
        stem = os.path.splitext(_beside(name))[0]
        new = _unused([f"{stem}{self.suffix}", f"{stem}.rows{self.suffix}", *_numbered(f"{stem}{self.suffix}")])
        command = self.command.replace(FILE, shlex.quote(path)).replace(OUT, shlex.quote(new))
        if FILE not in self.command:
            command = f"{unpacker} {shlex.quote(path)} | {command}"
        if OUT not in self.command:
            command = f"{command} > {shlex.quote(new)}"
        settings = self.settings
        if self.suffix == ".jsonl" and text_field != "text":
            settings = " source.text_field=text"
        return f"Set {shlex.quote(f'source.path={new}')}{settings} after this command. Command: {command}"


def decompress(path: str, compression: str) -> str:
    """Return the advice to decompress a file, with the command."""
    name = _beside(split_compression(path)[0])
    candidates = [] if name == path else [name]
    stem, extension = os.path.splitext(name)
    new = _unused([*candidates, f"{stem}.unpacked{extension}", *_numbered(name)])
    command = f"{_UNPACKERS[compression]} < {shlex.quote(path)} > {shlex.quote(new)}"
    return f"Decompress it, and set source.path to the new file. Command: {command}"


def rename(path: str, stem: str, extensions: str) -> str:
    """Return the command that gives a file another name, which no other file has.

    Args:
        path: The file.
        stem: The new path without its extensions.
        extensions: Its new extensions.
    """
    new = _unused([f"{stem}{number}{extensions}" for number in ("", *(f"-{number}" for number in range(2, 100)))])
    return f"Command: mv {shlex.quote(path)} {shlex.quote(new)}"


def split_compression(path: str) -> tuple[str, str]:
    """Return a file's name without the extension of its compression, and the compression; "" if it has none."""
    stem, extension = os.path.splitext(path)
    compression = COMPRESSIONS.get(extension.lower(), "")
    return (stem, compression) if compression else (path, "")


def _beside(path: str) -> str:
    """Return the path if its folder can be written, else its name alone."""
    return path if os.access(os.path.dirname(path) or ".", os.W_OK) else os.path.basename(path)


def _numbered(path: str) -> list[str]:
    stem, extension = os.path.splitext(path)
    return [f"{stem}-{number}{extension}" for number in range(2, 100)]


def _unused(candidates: list[str]) -> str:
    return next((candidate for candidate in candidates if not os.path.lexists(candidate)), candidates[0])
