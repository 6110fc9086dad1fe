"""Count the records of a published csv or tsv file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hymt_batch.formats.compressed_stream import open_published
from hymt_batch.formats.delimited.csv_escape import get_escape_parser
from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.line_count import count_lines
from hymt_batch.formats.text_encoding import UTF8


def count_rows(path: Path, source_settings: Mapping[str, Any], dialect: Dialect) -> set[int]:
    """Count the rows of a file, without and with a header; see `Format.count_rows`."""
    num_records = _count_records(path, source_settings, dialect)
    return {num_records, max(0, num_records - 1)}


def _count_records(path: Path, source_settings: Mapping[str, Any], dialect: Dialect) -> int:
    delimiter = source_settings.get("delimiter") or dialect.delimiter
    encoding = source_settings.get("encoding", UTF8)
    escape_parser = get_escape_parser(delimiter, dialect.quoted, source_settings.get("escape"))
    if escape_parser is None and not dialect.quoted:
        return count_lines(path, encoding)
    with open_published(path, encoding) as stream:
        if escape_parser is None:
            csv.field_size_limit(1 << 30)
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
            return sum(1 for _ in csv.reader(text, delimiter=delimiter))
        num_records, is_open = 0, 0
        for line in stream:
            is_open, _ = escape_parser.scan_line(line, is_open)
            num_records += not is_open
        return num_records + bool(is_open)
