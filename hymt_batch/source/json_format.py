"""Decide how a JSON file is read: as rows, in one of two shapes, or as a tree of keys whose strings are all places.

Only the first objects of the file and the names of the text fields decide.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from hymt_batch.errors import ConfigError, HymtError
from hymt_batch.formats import registry
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.format import Format
from hymt_batch.formats.jsonl.shape import JsonShape, Shape, find_shape
from hymt_batch.formats.text_encoding import HEAD_BYTES, UTF8
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.records import Input
from hymt_batch.source.settings import SourceConfig

LINES, ROWS, TREE = (registry.get(name) for name in ("jsonl", "json_rows", "json"))
MAX_HEAD_BYTES = 1 << 20
"""Bytes of a file that are read at most, where its first object is not complete in the first `HEAD_BYTES`."""


def has_text_field(found: JsonShape, text_fields: Sequence[str]) -> bool:
    """Return whether one of the first objects of a file has a field with a text."""
    fields = TextFields(text_fields)
    if not found.is_complete:  # only names are known
        return any(map(fields.may_be_in, found.objects))
    return any(map(fields.present_in, found.objects))


def choose(path: str, compression: str, named: Format, config: SourceConfig) -> Format:
    """Return the format of a file whose name says that it is JSON, by its first objects.

    Args:
        path: The file.
        compression: Its compression, by its name.
        named: The format of its extension: rows that are lines (`.jsonl`), or a tree of keys (`.json`).
        config: The settings.

    Raises:
        ConfigError: The settings name a field with the text, and none of the first objects has it.
    """
    if named not in (LINES, TREE) or not os.path.isfile(path):
        return named
    try:
        head, is_whole = _read_head(path, compression, config)
    except HymtError:
        return named  # its reader reports it
    found = find_shape(head, is_whole)
    if named is LINES:
        is_rows = found.shape in (Shape.ARRAY, Shape.OBJECTS) or (
            found.shape is Shape.SINGLE and b"\n" in head.strip()  # a pretty-printed row
        )
        return ROWS if is_rows else LINES
    if has_text_field(found, config.text_fields):
        return {Shape.LINES: LINES, Shape.ARRAY: ROWS, Shape.OBJECTS: ROWS}.get(found.shape, TREE)
    if config.text_field is not None and (found.objects or found.shape is Shape.TEXTS):
        raise _no_field_error(path, found, config.text_fields)
    return TREE


def _read_head(path: str, compression: str, config: SourceConfig) -> tuple[bytes, bool]:
    """Return the first bytes of a file, decompressed and in UTF-8, and whether they are all of it."""
    encoding = "" if config.encoding == UTF8 else config.encoding
    input = Input(path, path, path, "", compression, encoding=encoding, max_window=config.max_window_bytes)
    with contextlib.closing(ByteStream(input)) as stream:
        head = stream.read(HEAD_BYTES)
        if len(head) == HEAD_BYTES and not find_shape(head, is_whole=False).is_complete:
            head += stream.read(MAX_HEAD_BYTES - HEAD_BYTES)
        return head, stream.at_end()


def _no_field_error(path: str, found: JsonShape, text_fields: Sequence[str]) -> ConfigError:
    wanted = " or ".join(map(repr, text_fields))
    names = list(dict.fromkeys(name for values in found.objects for name in values))[:20]
    return ConfigError(
        f"{path} is {found.shape.value}, and none of its first objects has the field {wanted}"
        if found.objects
        else f"{path} is {found.shape.value}, which has no field {wanted}",
        why=f"Its fields are {names}." if names else "",
        fix="Set source.text_field to one of them, or source.format=json to translate all strings."
        if names
        else "Set source.format=json to translate all its strings.",
    )
