"""Handle rows over source.max_row_bytes: scan them in one pass, and copy them from the input in pieces.

Such a row is never held in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.records import Input

MAX_SPANS = 10_000  # maximum number of fields of a row whose spans are kept
HEAD_BYTES = 4096
PIECE_BYTES = 1 << 16
MAX_HELD_BYTES = 16 << 20
"""Maximum number of bytes that a conversion to another format keeps of such a row; fields that do not fit are dropped.
"""

Fields = tuple[dict[str, Any], str | None]
"""Fields of a row by name, and its text."""


class RowScan(Protocol):
    """Finds the spans of the fields of a row that is fed to it in pieces."""

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...


class InputRereader:
    """Reads the rows of an input that are too long to be held in memory, while another stream passes over the input.

    Each purpose (such as "text") has its own stream, opened for the first such row. It only moves forward, so a
    compressed file is not decompressed again for each row. After the pass the streams are closed, and each row opens a
    new one.
    """

    def __init__(self, input: Input) -> None:
        self._input, self._closed = input, False
        self._streams: dict[str, ByteStream] = {}

    @contextlib.contextmanager
    def stream_at(self, cursor: int, purpose: str) -> Iterator[ByteStream]:
        """Open the stream of a purpose for the block, positioned at a cursor."""
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
    """A row over source.max_row_bytes: its position in the input and the spans of its fields, without its bytes.

    Attributes:
        size: Bytes of its content, without the line ending.
        head: Its first bytes, at most HEAD_BYTES.
        scan: The scan of its fields; None for plain text.
        digest: Running hash of its bytes.
        parse: Returns its fields and its text; see `fields`.
    """

    __slots__ = ("_head", "_rereader", "_start", "digest", "parse", "scan", "size")

    def __init__(
        self, rereader: InputRereader | None, start: int, line: bytes, scan: RowScan | None, digest: Any
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
        """Hash and scan the next bytes of the row."""
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + piece)[:HEAD_BYTES]
        self.digest.update(piece)
        if self.scan is not None:
            self.scan.feed(piece)

    def end_at(self, cursor: int) -> None:
        """Set the cursor at which the content of the row ends."""
        self.size = cursor - self._start
        if self.scan is not None:
            self.scan.finish()

    def fields(self) -> Fields:
        """Return the fields for a writer of another format, within MAX_HELD_BYTES, and the text (None if unknown)."""
        return self.parse(self)

    def read_spans(self, spans: Iterable[tuple[int, int]]) -> Iterator[bytes | None]:
        """Yield the bytes of each span, in ascending order; None for a span that does not fit in MAX_HELD_BYTES."""
        left = MAX_HELD_BYTES
        for first, end in spans:
            if end - first > left:
                yield None
                continue
            left -= end - first
            yield b"".join(self.pieces(first, end))

    def read_text(self) -> str:
        """Return the row as read, without its line ending; "" if it is longer than MAX_HELD_BYTES."""
        (raw,) = self.read_spans([(0, self.size)])
        return "" if raw is None else raw.decode("utf-8", "replace")

    def pieces(self, start: int = 0, end: int | None = None, purpose: str = "fields") -> Iterator[bytes]:
        """Yield the bytes from `start` up to `end`, read from the input; calls for one purpose only move forward."""
        assert self._rereader is not None, "rows of the first pass are not read again"
        left = (self.size if end is None else end) - start
        with self._rereader.stream_at(self._start + start, purpose) as stream:
            while left > 0 and (piece := stream.read(min(left, PIECE_BYTES))):
                left -= len(piece)
                yield piece
