"""The list of all formats: add a format here, and every part of the program knows it."""

from __future__ import annotations

from collections.abc import Callable

from hymt_batch.formats import document, properties, text
from hymt_batch.formats.delimited import format as delimited
from hymt_batch.formats.format import Format, Kind
from hymt_batch.formats.json_tree import format as json_tree
from hymt_batch.formats.jsonl import format as jsonl
from hymt_batch.formats.markdown import format as markdown
from hymt_batch.formats.parquet import format as parquet
from hymt_batch.formats.po import format as po
from hymt_batch.formats.subtitles import srt, vtt
from hymt_batch.formats.text_encoding import BOM
from hymt_batch.records import Input

FORMATS: tuple[Format, ...] = (
    text.FORMAT,
    jsonl.LINES,
    jsonl.ROWS,
    delimited.CSV,
    delimited.TSV,
    parquet.PARQUET,
    parquet.SAVED_DATASET,
    json_tree.FORMAT,
    properties.FORMAT,
    po.FORMAT,
    srt.FORMAT,
    vtt.FORMAT,
    markdown.FORMAT,
    document.FORMAT,
)
DEFAULT = FORMATS[0]
"""The format of standard input, and of files with an unknown extension."""

_BY_NAME = {format.name: format for format in FORMATS}
_BY_EXTENSION = {extension: format for format in FORMATS for extension in format.input_extensions}

_AS_DOCUMENT = {format.as_document for format in FORMATS}
SOURCE_NAMES = tuple(format.name for format in FORMATS if format.is_folder is None and format.name not in _AS_DOCUMENT)
"""Names that source.format can have; a folder is recognised by what it contains, a document by source.document."""
FOUND_NAMES = tuple(format.name for format in FORMATS if format.input_extensions or format.is_folder is not None)
"""Formats that are recognised without source.format; a job keeps the list with which it was created."""
EARLIER_NAMES = ("text", "jsonl", "csv", "tsv", "parquet", "arrow")
"""The list of a job that was created before lists were recorded."""
WRITE_NAMES = tuple(format.name for format in FORMATS if format.kind is Kind.ROWS and not format.written_as)
"""Names that write.format can have: an output of a spliced format has only the format of its input."""

SOURCE_SETTINGS = tuple(dict.fromkeys(key for format in FORMATS for key in format.source_settings))
"""Settings of the source stage that only some formats have."""


def get(name: str) -> Format:
    """Return the format of a name.

    Raises:
        ValueError: There is no such format in this version.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ValueError(f"unknown format {name!r}") from None


def of_input(input: Input) -> Format:
    """Return the format by which an input is read."""
    return get(input.dataset or input.format)


def as_document(format: Format) -> Format:
    """Return the format by which source.document=true reads the files of a format."""
    return get(format.as_document) if format.as_document else format


def by_extension(extension: str) -> Format | None:
    """Return the format that a file with this extension (with its dot) has; None if it is unknown."""
    return _BY_EXTENSION.get(extension.lower())


def by_extension_and_head(extension: str, head: Callable[[], bytes]) -> Format | None:
    """Return the format that a file with this extension has if its first bytes are those of the format.

    Args:
        extension: Its extension, with its dot.
        head: Reads the first bytes; called only if an extension needs them.
    """
    for format in FORMATS:
        if (pattern := format.head_extensions.get(extension.lower())) is not None:
            return format if pattern.match(head()) else None
    return None


def by_magic(head: bytes) -> Format | None:
    """Return the format whose files begin with these bytes; None for text and for what is not read."""
    return next((format for format in FORMATS if format.magic and head.startswith(format.magic)), None)


def by_text(head: bytes) -> Format | None:
    """Return the format of a text whose name does not tell it, by its first bytes; None if they do not show it."""
    start = head.removeprefix(BOM).lstrip()
    return next((format for format in FORMATS if format.text_start and format.text_start.match(start)), None)


def of_folder(path: str) -> Format | None:
    """Return the format of a folder that is one input; None for any other folder."""
    return next((format for format in FORMATS if format.is_folder is not None and format.is_folder(path)), None)
