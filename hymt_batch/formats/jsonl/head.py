"""Reject a file that is JSON, but not one object per line, by its first bytes."""

from __future__ import annotations

import json
from dataclasses import replace

from hymt_batch.formats.extraction import convert_in_place
from hymt_batch.formats.file_error import FileError
from hymt_batch.formats.json_shape import NAMES_TEXT, Shape, find_shape
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.text_fields import TextFields
from hymt_batch.records import Input

_ROWS = frozenset({Shape.ROWS, Shape.OTHER})


def check_head(input: Input, head: bytes, is_whole: bool, options: ReadOptions) -> None:
    """Raise ConfigError for one array, or for objects that are written over several lines.

    Args:
        input: The file.
        head: Its first bytes, decompressed.
        is_whole: The head is the whole file.
        options: The settings.
    """
    found = find_shape(head, is_whole)
    if found.shape in _ROWS or (found.shape is Shape.OBJECTS and _begins_with_line(head)):
        return
    if found.shape is Shape.TREE or (
        found.shape is Shape.WRAPPED and TextFields(options.text_fields).may_be_in(found.fields)
    ):
        found = replace(found, shape=Shape.OBJECTS)
    error = FileError(
        f"{input.path} is JSON, but not one object per line: it is {found.shape.value}",
        why="so its lines are not rows",
        fix=found.advice(input.path, options.text_fields[0]),
    )
    if found.shape not in NAMES_TEXT or options.text_fields[0] == "text":  # the command names the text "text"
        command = convert_in_place(input.path, found.extraction.command)
        error.among_others(command and f"Make rows of it. Command: {command}")
    raise error


def _begins_with_line(head: bytes) -> bool:
    """Return whether two objects are on the first line, and one of the next lines is an object: a bad row among rows"""
    first = head.lstrip(b"\xef\xbb\xbf \t\r\n").split(b"\n", 1)
    return first[0].startswith(b"{") and first[0].rstrip().endswith(b"}") and has_object_line(first[-1])


def has_object_line(head: bytes) -> bool:
    """Return whether one of the complete lines of a file's first bytes is a JSON object."""
    return any(_is_object(line) for line in head.removeprefix(b"\xef\xbb\xbf").splitlines()[:100])


def fits(head: bytes) -> bool:
    """Return whether a file with these first bytes can have rows of this format."""
    return not head.strip() or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or has_object_line(head)


def _is_object(line: bytes) -> bool:
    if not line.lstrip().startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
