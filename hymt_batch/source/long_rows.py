"""Rows over source.max_row_bytes: never held, looked at while they pass, and copied from the input in pieces."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hymt_batch.records import Input
from hymt_batch.scan import JsonScan, RecordScan
from hymt_batch.source.bytestream import ByteStream

HEAD_BYTES = 4096
PIECE_BYTES = 1 << 16
MAX_HELD_BYTES = 16 << 20
"""Most bytes that a conversion takes over from a row that is not held: fields in order, but for those beyond."""

Fields = tuple[dict[str, Any], str | None]
"""Fields of a row by name, and its text."""


class InputRereader:
    """An input read once more beside the pass over it, for the rows that no pass holds.

    Each purpose has a stream of its own, opened by the first such row, which goes forward only: a compressed file is
    not decompressed anew for each row. When the pass is over they are closed, and a row opens its own.
    """

    def __init__(self, input: Input) -> None:
        self._input, self._closed = input, False
        self._streams: dict[str, ByteStream] = {}

    @contextlib.contextmanager
    def stream_at(self, cursor: int, purpose: str) -> Iterator[ByteStream]:
        """The stream of a purpose, at a cursor."""
        with contextlib.ExitStack() as stack:
            if self._closed:
                stream = stack.enter_context(ByteStream(self._input))
            else:
                stream = self._streams.get(purpose) or ByteStream(self._input)
                self._streams[purpose] = stream
            stream.seek(cursor)
            yield stream

    def close(self) -> None:
        self._closed = True
        for stream in self._streams.values():
            stream.close()


class LongRow:
    """A row over source.max_row_bytes: where it lies in its input and where its fields lie in it. It is never held.

    Attributes:
        size: Bytes of its content, without the line ending.
        head: Its first bytes, at most HEAD_BYTES.
        scan: What was found of its fields while it passed; None for text.
        digest: Running hash of its bytes.
        parse: Makes its fields and its text, as `fields` gives them.
    """

    __slots__ = ("_head", "_rereader", "_start", "digest", "parse", "scan", "size")

    def __init__(
        self, rereader: InputRereader | None, start: int, line: bytes, scan: JsonScan | RecordScan | None, digest: Any
    ) -> None:
        self._rereader, self._start, self.scan, self.digest = rereader, start, scan, digest
        self._head, self.size = line[:HEAD_BYTES], 0
        self.parse: Callable[[LongRow], Fields] = lambda row: ({}, None)
        if scan is not None:
            scan.feed(line)

    @property
    def head(self) -> bytes:
        return self._head[: self.size]

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the row."""
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + piece)[:HEAD_BYTES]
        self.digest.update(piece)
        if self.scan is not None:
            self.scan.feed(piece)

    def end_at(self, cursor: int) -> None:
        """Say where its content ends."""
        self.size = cursor - self._start
        if self.scan is not None:
            self.scan.finish()

    def fields(self) -> Fields:
        """Its fields for a writer of another format, within MAX_HELD, and its text, None where it is not known."""
        return self.parse(self)

    def read_spans(self, spans: Iterable[tuple[int, int]]) -> Iterator[bytes | None]:
        """The bytes of each of some places, in ascending order; None for those that MAX_HELD has no room for."""
        left = MAX_HELD_BYTES
        for first, end in spans:
            if end - first > left:
                yield None
                continue
            left -= end - first
            yield b"".join(self.pieces(first, end))

    def read_text(self) -> str:
        """The row as it came, without its line ending; "" where it is longer than MAX_HELD."""
        (raw,) = self.read_spans([(0, self.size)])
        return "" if raw is None else raw.decode("utf-8", "replace")

    def pieces(self, start: int = 0, end: int | None = None, purpose: str = "fields") -> Iterator[bytes]:
        """Its bytes from `first` to before `end`, read from the input. Calls of one purpose go forward only."""
        assert self._rereader is not None, "rows of the first pass are not read again"
        left = (self.size if end is None else end) - start
        with self._rereader.stream_at(self._start + start, purpose) as stream:
            while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece
