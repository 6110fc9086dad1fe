"""Reject a file that is JSON, but not of the shape of its format, by its first bytes."""

from __future__ import annotations

from hymt_batch.formats.file_error import FileError
from hymt_batch.formats.jsonl.shape import Shape, find_shape, has_object_line
from hymt_batch.formats.options import ReadOptions
from hymt_batch.records import Input


def check_lines(input: Input, head: bytes, is_whole: bool, options: ReadOptions) -> None:
    """Raise ConfigError for JSON that is not one object per line.

    Args:
        input: The file.
        head: Its first bytes, decompressed.
        is_whole: The head is the whole file.
        options: The settings.
    """
    shape = find_shape(head, is_whole).shape
    if shape in (Shape.LINES, Shape.OTHER) or (shape is Shape.SINGLE and b"\n" not in head.strip()):
        return
    if shape is Shape.TEXTS and has_object_line(head.decode("utf-8-sig", "ignore")):
        return  # a bad row among rows
    raise _shape_error(
        f"{input.path} is JSON, but not one object per line: it is {shape.value}",
        why="so its lines are not rows",
        format="json_rows" if shape in (Shape.ARRAY, Shape.OBJECTS) else "json",
    )


def check_rows(input: Input, head: bytes, is_whole: bool, options: ReadOptions) -> None:
    """Raise ConfigError for JSON that has no objects as rows, or has them on lines; see `check_lines`."""
    shape = find_shape(head, is_whole).shape
    if not head.strip() or shape in (Shape.ARRAY, Shape.OBJECTS, Shape.SINGLE):
        return
    raise _shape_error(
        f"{input.path} is not an array of objects: it is {shape.value}",
        why="so it has no rows of the format json_rows",
        format="jsonl" if shape is Shape.LINES else "json",
    )


def _shape_error(what: str, why: str, format: str) -> FileError:
    """Return the error for a file that has the shape of another format."""
    reads = "translates all its strings" if format == "json" else "reads its objects as rows"
    advice = f"source.format={format}, which {reads}."
    error = FileError(what, why=why, fix=f"Set {advice}")
    return error.among_others(f"Translate it in a job of its own with {advice}")


def fits_lines(head: bytes) -> bool:
    """Return whether a file with these first bytes can have rows that are lines."""
    text = head.decode("utf-8-sig", "ignore").lstrip()
    return not text or text.startswith("{") or has_object_line(text)


def fits_rows(head: bytes) -> bool:
    """Return whether a file with these first bytes can be JSON."""
    return head.decode("utf-8-sig", "ignore").lstrip()[:1] in ("", "{", "[")
