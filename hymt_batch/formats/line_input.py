"""An open input of a format whose rows are consecutive ranges of bytes, each of which can be read on its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, RowReader, Rows
from hymt_batch.formats.text_encoding import BOM
from hymt_batch.records import Input, Preamble

HASH_BYTES = 1 << 20

ReadHead = Callable[[ByteStream, ReadOptions, tuple[str, ...]], Preamble]
"""Reads what precedes the first row, after the byte order mark, and checks the input; see `OpenInput.read_preamble`."""


class LineInput:
    """See `format.OpenInput`.

    Args:
        input: The file.
        read_rows: Reads the rows of its format.
        read_head: Reads what precedes the first row.
    """

    num_rows = None

    def __init__(self, input: Input, read_rows: RowReader, read_head: ReadHead) -> None:
        self.input, self._read_rows, self._read_head = input, read_rows, read_head
        self._stream = ByteStream(input)

    def read_start(self, size: int) -> bytes:
        return self._stream.read_start(size)

    def read_preamble(self, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
        stream = self._stream
        stream.seek(0)
        start = stream.read(len(BOM))
        bom = start if start == BOM else b""
        *lines, torn = start[len(bom) :].split(b"\n")
        stream.push_back([line + b"\n" for line in lines] + ([torn] if torn else []))
        first = stream.readline(options.max_row_bytes + 2)
        stream.push_back([first])
        preamble = self._read_head(stream, options, reserved)
        newline = b"\r\n" if first.endswith(b"\r\n") else b"\n"
        stream.report_window()
        return replace(preamble, bom=bom, newline=newline, encoding=stream.encoding, mark=stream.mark)

    def rows(self, options: ReadOptions, context: ReadContext, cursor: int) -> Rows:
        self._stream.seek(cursor)
        return self._read_rows(self._stream, options, context)

    def at_end(self, next_row: int) -> bool:
        return self._stream.at_end()

    def hash_bytes(self, start: int, end: int, header: bytes) -> str | None:
        self._stream.seek(start)
        sha = hashlib.sha256(header)
        while self._stream.position < end:
            block = self._stream.read(min(HASH_BYTES, end - self._stream.position))
            if not block:
                return ""
            sha.update(block)
        return sha.hexdigest()

    def close(self) -> None:
        self._stream.close()


def read_no_head(stream: ByteStream, options: ReadOptions, reserved: tuple[str, ...]) -> Preamble:
    """Read nothing, for a format whose first row is at the start."""
    return Preamble()
