"""Formats that are known and not read: recognise their files by name or by their first bytes, and say what to do.

The list is unread_formats.toml. A file of such a format is refused where a path names it and skipped where it is found.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tomllib
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.formats import registry
from hymt_batch.formats.extraction import Extraction, split_compression
from hymt_batch.formats.format import Format, Kind
from hymt_batch.source.first_bytes import read_first_bytes
from hymt_batch.source.settings import SourceConfig

_LIST = Path(__file__).parent / "unread_formats.toml"
UNKNOWN = "a file with an unknown extension"


@dataclass(frozen=True, slots=True)
class UnreadKind:
    """A format that is not read."""

    what: str  # completes "film.srt is ..."
    extraction: Extraction | None = None
    fix: str = "Leave it out of source.path."  # where there is no extraction
    was_refused: bool = False  # versions that recorded no list of formats did not read it as text either
    head: re.Pattern[bytes] | None = None  # the extension counts only if the first bytes match

    def advice(self, path: str, config: SourceConfig) -> str:
        """Return what to do with a file of this format."""
        return self.fix if self.extraction is None else self.extraction.advice(path, config.text_fields[0])

    def error(self, path: str, config: SourceConfig) -> ConfigError:
        """Return the error for a file of this format that source.path names."""
        return ConfigError(f"{path!r} is {self.what}", why="which is not read", fix=self.advice(path, config))


BINARY = UnreadKind("binary data")


def of_name(path: str) -> UnreadKind | None:
    """Return the unread format that a file's name says it has; None if its extension says nothing like that.

    A few extensions are also language codes, so the first bytes of their files are read.
    """
    lower = os.path.basename(path).lower()
    last = os.path.splitext(lower)[1]
    inner = os.path.splitext(split_compression(lower)[0])[1]
    kind = _of_extension(inner + last) or _of_extension(last) or _of_extension(inner)  # .tar.gz, .tgz, .srt.gz
    if kind is not None and kind.head is not None and not kind.head.match(head_of(path)):
        return None
    return kind


def head_of(path: str) -> bytes:
    """Return the first bytes of a file; b"" for a pipe, which would block, and for what cannot be read."""
    with contextlib.suppress(PreflightError):
        return read_first_bytes(path) if os.path.isfile(path) else b""
    return b""


def why_not_set(path: str, format: Format, *, is_matched: bool) -> str:
    """Return why a file that was found is not read in the format of source.format; "" if it is.

    Any text is valid in a format that is spliced, so that only names tell which files have it; a pattern that matches
    a name with an unknown extension tells, too.
    """
    extension = os.path.splitext(split_compression(path)[0])[1].lower()
    if format.kind is not Kind.SPLICED or extension in (
        format.extension,
        *format.input_extensions,
        *format.head_extensions,
    ):
        return ""
    kind = of_name(path)
    if is_matched and kind is None and registry.by_extension(extension) is None:
        return ""
    return kind.what if kind is not None else f"a file that is not named {format.extension}"


def of_magic(head: bytes, path: str) -> UnreadKind | None:
    """Return the unread format that a file's first bytes show, whatever its name is; None if they show none.

    Args:
        head: The first bytes, decompressed.
        path: The file; opened if it is a zip file.
    """
    for pattern, extension in _MAGIC:
        if pattern.match(head):
            return _of_extension(_zip_extension(path) if extension == ".zip" else extension)
    return None


def of_text(head: bytes) -> UnreadKind | None:
    """Return what a text without a telling name is, by its first bytes; None for text without markup."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((_of_extension(extension) for pattern, extension in _TEXT_STARTS if pattern.match(start)), None)


def is_only_path(path: str, config: SourceConfig) -> bool:
    """Return whether source.path is this file alone, so that a setting for all files is one for this file."""
    return [os.path.expanduser(only) for only in config.paths] in ([path], [os.path.expanduser(path)])


def _of_extension(extension: str) -> UnreadKind | None:
    return load().get(extension)


@lru_cache(maxsize=1)
def load() -> dict[str, UnreadKind]:
    """Return the formats that are known and not read, by extension."""
    data = tomllib.loads(_LIST.read_text(encoding="utf-8"))
    extractions = {
        name: Extraction(
            entry["command"].strip().replace("{python}", shlex.quote(sys.executable)),
            entry.get("suffix", ".jsonl"),
            entry.get("settings", ""),
            entry.get("opens_compressed", False),
        )
        for name, entry in data["extract"].items()
    }
    kinds: dict[str, UnreadKind] = {}
    for entry in data["kind"]:
        kind = UnreadKind(
            what=entry["what"],
            extraction=extractions[entry["extract"]] if "extract" in entry else None,
            fix=entry.get("fix", ""),
            was_refused=entry.get("was_refused", False),
            head=re.compile(entry["head"].encode()) if "head" in entry else None,
        )
        kinds |= dict.fromkeys(entry["extensions"], kind)
    return kinds


def _zip_extension(path: str) -> str:
    """Return the extension that tells what a zip file is, by the names in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return ".zip"
    for prefix, extension in _ZIP_NAMES:
        if any(name.startswith(prefix) for name in names):
            return extension
    return ".zip"


_ZIP_NAMES = (
    ("word/document.xml", ".docx"),
    ("ppt/slides/", ".pptx"),
    ("xl/workbook.xml", ".xlsx"),
    ("META-INF/container.xml", ".epub"),
    ("content.xml", ".odt"),
)
_MAGIC = tuple(
    (re.compile(pattern, re.DOTALL), extension)
    for pattern, extension in (
        (rb"PK(\x03\x04|\x05\x06)", ".zip"),
        (rb"%PDF-\d\.\d\s*[\r\n]", ".pdf"),
        (rb"(?=.{,256}\0).{257}ustar", ".tar"),
        (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07", ".7z"),
        (rb"\x04\x22\x4d\x18", ".lz4"),
        (rb"\x1f\x9d", ".z"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1|\{\\rtf", ".doc"),
        (rb"\xde\x12\x04\x95|\x95\x04\x12\xde", ".mo"),
        (rb"ARROW1\0|\xff\xff\xff\xff.{3}\0\x10\0\0\0", ".arrow"),
        (rb"Obj\x01|SQLite format 3\0|\x89HDF|\x93NUMPY", ".sqlite"),
        # an image, a recording or another file without text
        (
            rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a.{,6}\0|II\*\0|MM\0\*|RIFF.{4}(WEBP|WAVE|AVI )|\0\0\0.ftyp|OggS\0",
            ".png",
        ),
        (rb"ID3[\x02-\x04]|fLaC\0|\x1aE\xdf\xa3|\0\0\x01\xba|\x7fELF|wOF[F2]\0|MZ.\0", ".png"),
    )
)
"""First bytes, and an extension of their format in the list; a text may begin with the letters alone."""

_TEXT_STARTS = (
    (re.compile(rb"<\?xml|<!\[cdata\["), ".xml"),
    (re.compile(rb"<!doctype html|<html[\s>]"), ".html"),
)
