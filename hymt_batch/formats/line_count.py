"""Count the rows of a published file whose rows are lines. Does not parse the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymt_batch.formats.compressed_stream import open_published
from hymt_batch.formats.text_encoding import BOM, UTF8


def count_lines(path: Path, encoding: str = UTF8) -> int:
    """Count the lines of a file; a last line without a line feed counts, a byte order mark alone does not."""
    num_line_breaks, last_chunk = 0, b"\n"
    with open_published(path, encoding) as stream:
        while chunk := stream.read(1 << 20):
            num_line_breaks += chunk.count(b"\n")
            is_bom_alone = chunk == BOM and not num_line_breaks and last_chunk == b"\n"
            last_chunk = b"\n" if is_bom_alone else chunk
    return num_line_breaks + (not last_chunk.endswith(b"\n"))


def count_rows(path: Path, source_settings: Mapping[str, Any]) -> set[int]:
    """Count the rows of a format without a header; see `Format.count_rows`."""
    return {count_lines(path, source_settings.get("encoding", UTF8))}
