"""Count the rows of a published file by the rules of its format. Does not parse the rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import BinaryIO, cast

from hymt_batch.formats.compressed_stream import compression_of
from hymt_batch.formats.delimited.csv_escape import get_escape_parser
from hymt_batch.formats.delimited.writer import DELIMITERS

BOM = b"\xef\xbb\xbf"


def count_rows(path: Path, file_format: str, delimiter: str = "", escape: str = "") -> set[int]:
    """Count the rows of a file.

    Returns:
        The possible counts: one, or for csv and tsv two, without and with a header.
    """
    if file_format == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            return {int(file.metadata.num_rows)}
    escape_parser = (
        get_escape_parser(delimiter or DELIMITERS[file_format], file_format == "csv", escape)
        if file_format in DELIMITERS
        else None
    )
    with _open_decompressed(path) as stream:
        if escape_parser is not None:
            rows, is_open = 0, 0
            for line in stream:
                is_open, _ = escape_parser.scan_line(line, is_open)
                rows += not is_open
            rows += bool(is_open)
            return {rows, max(0, rows - 1)}
        if file_format == "csv":
            csv.field_size_limit(1 << 30)
            text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace", newline="")
            rows = sum(1 for _ in csv.reader(text, delimiter=delimiter or DELIMITERS["csv"]))
            return {rows, max(0, rows - 1)}
        num_line_breaks, last_chunk = 0, b"\n"
        while chunk := stream.read(1 << 20):
            num_line_breaks += chunk.count(b"\n")
            last_chunk = (
                b"\n" if chunk == BOM and not num_line_breaks and last_chunk == b"\n" else chunk
            )  # a BOM alone is not a row
        rows = num_line_breaks + (not last_chunk.endswith(b"\n"))
        return {rows, max(0, rows - 1)} if file_format == "tsv" else {rows}


def _open_decompressed(path: Path) -> BinaryIO:
    compression = compression_of(path.name)
    if compression == "gz":
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    if compression == "bz2":
        import bz2

        return cast(BinaryIO, bz2.open(path, "rb"))
    if compression == "xz":
        import lzma

        return cast(BinaryIO, lzma.open(path, "rb"))
    if compression == "zst":
        import pyarrow as pa

        return cast(BinaryIO, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")
