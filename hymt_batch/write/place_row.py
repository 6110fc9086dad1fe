"""Fit the row of a place to the document that it is written into. Knows no format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hymt_batch.records import Document, Row, Status


def with_source_kept(row: Row) -> Row:
    """Return the error row of a place that cannot hold its translation, so that its source stays."""
    message = "the translation would change the structure of the document"
    flags = [flag for flag in row.flags if flag not in ("codes_moved", "source_kept")]  # no code is moved any more
    return replace(row, status=Status.GENERATION_ERROR, text="", flags=(*flags, "source_kept"), message=message)


def with_fitting_lines(document: Document, row: Row, fit_lines: Callable[[str, str], tuple[str, bool]]) -> Row:
    """Return a row whose translation is laid out on the lines of its source; see `Format.fit_lines`."""
    text, is_right = fit_lines(document.text or "", row.text)
    flags = tuple(flag for flag in row.flags if flag != "line_breaks") if is_right else row.flags
    return row if (text, flags) == (row.text, row.flags) else replace(row, text=text, flags=flags)
