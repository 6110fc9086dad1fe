"""Read one input file as a forward stream of decompressed UTF-8 bytes with a position.

Independent of row formats. The standard library's `lzma.open` and `bz2.open` silently drop all data after the first
member if the next member's header is damaged, so this module decompresses the members one by one.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import logging
import lzma
import os
import shlex
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from hymt_batch.errors import HymtError, PreflightError, disk_read_error, first_line, is_transient
from hymt_batch.formats.transcoded_file import TranscodedFile
from hymt_batch.formats.zstd_frame import (
    HEADER_BYTES,
    MAX_WINDOW,
    TOLD_WINDOW,
    WindowTooLargeError,
    is_available,
    new_decompressor,
    window_size,
)
from hymt_batch.records import Input

log = logging.getLogger(__name__)

BLOCK_BYTES, MIN_BUFFER_BYTES = 1 << 18, 1 << 12
READ_ERRORS = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)
"""The errors that any reader raises for damaged data or a failing disk; pyarrow's errors are subclasses of these."""


class ByteStream:
    """Reads lines and blocks of a file, and seeks to any cursor.

    A compressed file is decompressed up to the cursor, and one in another encoding than UTF-8 is transcoded up to it.

    Attributes:
        encoding: Encoding of the file, with its byte order; "" for UTF-8.
        mark: Byte order mark of UTF-16 or UTF-32, which is not in the stream.
        window: Largest window in bytes that a zst frame asked for so far; 0 for other files.

    Raises:
        PreflightError: The file cannot be opened, is truncated or is damaged; the message names it.
        StoppedError: The disk fails.
    """

    def __init__(self, input: Input, cursor: int = 0) -> None:
        self.input = input
        self.position = 0
        self.encoding, self.mark, self.window = "", b"", 0
        self._pending: deque[bytes] = deque()
        self._file = self._open()
        if cursor:
            self.seek(cursor)

    def readline(self, limit: int) -> bytes:
        """Read up to and including the next line feed, at most `limit` bytes; b"" at the end."""
        if self._pending:
            line = self._pending.popleft()
            while self._pending and not line.endswith(b"\n") and len(line) < limit:
                line += self._pending.popleft()
            if not line.endswith(b"\n") and not self._pending:
                line += self._call(self._file.readline, limit - len(line)) if limit > len(line) else b""
            if len(line) > limit:
                self._pending.appendleft(line[limit:])
                line = line[:limit]
        else:
            try:
                line = self._file.readline(limit)
            except READ_ERRORS as error:
                raise self._read_error(error) from error
        self.position += len(line)
        return line

    def read(self, size: int) -> bytes:
        """Read `size` bytes; fewer only at the end."""
        pieces: list[bytes] = []
        while size > 0:
            asked = 0 if self._pending else min(size, 1 << 20)
            piece = self._call(self._file.read, asked) if asked else self._pending.popleft()
            if not piece:
                break
            if len(piece) > size:
                self._pending.appendleft(piece[size:])
                piece = piece[:size]
            pieces.append(piece)
            size -= len(piece)
            self.position += len(piece)
            if len(piece) < asked:  # the end of the file: asking again would only cost a call
                break
        return b"".join(pieces)

    def read_start(self, size: int) -> bytes:
        """Return the first bytes of a stream from which nothing was read; the position does not change."""
        start = self.read(size)
        *lines, torn = start.split(b"\n")
        self.push_back([*(line + b"\n" for line in lines), torn])
        return start

    def push_back(self, lines: Iterable[bytes]) -> None:
        """Return lines to the stream; `lines` is in the order in which they were read."""
        for line in reversed([line for line in lines if line]):
            self._pending.appendleft(line)
            self.position -= len(line)

    def at_end(self) -> bool:
        return not self._pending and not self._call(self._file.peek, 1)

    def seek(self, cursor: int) -> None:
        """Move to a cursor: moving back in a compressed or transcoded file reads it again from the start.

        In such a file, a cursor past the end moves to the end.
        """
        if cursor == self.position:
            return
        if not self.input.compression and not self.input.encoding:
            self._pending.clear()
            self._call(self._file.seek, cursor)
            self.position = cursor
            return
        if cursor < self.position:
            self._file.close()
            self._pending.clear()
            self.position = 0
            self._file = self._open()
        while self.position < cursor and self.read(min(1 << 20, cursor - self.position)):
            pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the data that was read is checked by digests, so this error is harmless
            self._file.close()

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Any:
        file = self._open_decompressed()
        if not self.input.encoding:
            return file
        try:
            transcoded = TranscodedFile(file, self.input.encoding)
        except READ_ERRORS as error:
            raise self._read_error(error) from error
        self.encoding, self.mark = transcoded.encoding, transcoded.mark
        return io.BufferedReader(transcoded, BLOCK_BYTES)

    def _open_decompressed(self) -> Any:
        path, compression = self.input.path, self.input.compression
        try:
            if compression and os.path.getsize(path) == 0:
                raise EOFError("0 bytes are not a complete file of this compression")
            if compression == "zst" and not is_available():
                import pyarrow

                return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(path), "zstd"), BLOCK_BYTES)
            if compression == "zst":
                return io.BufferedReader(_MemberReader(path, self._new_zstd_decompressor), BLOCK_BYTES)
            if compression:
                return io.BufferedReader(_MemberReader(path, _DECOMPRESSORS[compression]), BLOCK_BYTES)
            # a small file takes a small buffer, which costs a fifth of a large one
            buffer_bytes = (
                BLOCK_BYTES if self.input.size is None else min(BLOCK_BYTES, max(MIN_BUFFER_BYTES, self.input.size + 1))
            )
            return open(path, "rb", buffering=buffer_bytes)
        except READ_ERRORS as error:
            raise self._read_error(error) from error

    def _new_zstd_decompressor(self, header: bytes) -> Any:
        self.window = max(self.window, window_size(header))
        return new_decompressor(header, self.input.max_window)

    def report_window(self) -> None:
        """Log how much memory the file needs to be decompressed, if it is more than other programs take."""
        if self.window > TOLD_WINDOW:
            log.info(
                "%s needs up to window=%d MiB of memory while it is read; source.max_window limits it",
                self.input.path,
                self.window >> 20,
            )

    def _call(self, call: Callable[[int], Any], argument: int) -> Any:
        try:
            return call(argument)
        except READ_ERRORS as error:
            raise self._read_error(error) from error

    def _read_error(self, error: BaseException) -> HymtError:
        return read_error(self.input, error)


def read_error(input: Input, error: BaseException) -> HymtError:
    """Return the error for an input that is not a table and cannot be read: failing disk, permissions or damage."""
    if isinstance(error, OSError) and is_transient(error):
        return disk_read_error(input.path, error)
    if isinstance(error, WindowTooLargeError):
        return _window_error(input, error)
    if not input.compression or (isinstance(error, OSError) and error.errno is not None):
        cause = (isinstance(error, OSError) and error.strerror) or first_line(error)
        fix = "Make the file readable, then run again."
        if isinstance(error, FileNotFoundError):  # it was there when the inputs were listed
            fix = "Restore the file, or set on_input_change=redo to go on with the files that are left."
        return PreflightError(f"{input.path} cannot be read", why=cause, fix=fix)
    return PreflightError(
        f"{input.path} is truncated or damaged as a .{input.compression} file ({first_line(error)})",
        why="so rows would be lost silently",
        fix="Copy or download it again, then run again.",
    )


def _window_error(input: Input, error: WindowTooLargeError) -> PreflightError:
    if error.window > MAX_WINDOW:
        return PreflightError(
            f"{input.path} needs a window of {error.window} bytes to be decompressed, more than the {MAX_WINDOW} that "
            "zstd and its libraries hold",
            fix="Compress what it was made of again, with a window of at most 2 GiB (zstd --long=31).",
        )
    return PreflightError(
        f"{input.path} needs a window of {error.window} bytes to be decompressed, more than "
        f"source.max_window={error.max_window}",
        why="so much memory is held while it is read",
        fix=f"Set source.max_window={error.window}, or decompress it first: zstd --long={error.long} -d "
        f"{shlex.quote(input.path)}.",
    )


_DECOMPRESSORS: dict[str, Callable[[bytes], Any]] = {
    "gz": lambda header: zlib.decompressobj(wbits=31),  # 31: gzip framing, checksum verified
    "bz2": lambda header: bz2.BZ2Decompressor(),
    "xz": lambda header: lzma.LZMADecompressor(),
}
"""Creates the decompressor of one member, given its first bytes."""


class _MemberReader(io.RawIOBase):
    """Reads concatenated compressed members as one raw stream; only members and zero padding are allowed."""

    def __init__(self, path: str, new_decompressor: Callable[[bytes], Any]) -> None:
        self._file = io.FileIO(path)
        self._new_decompressor = new_decompressor
        self._decompressor: Any = None  # None between members
        self._has_read_member = False  # padding may follow a member, but a file of padding alone is invalid
        self._data = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        size = len(buffer)
        while True:
            if not self._data and getattr(self._decompressor, "needs_input", True):
                self._data = self._file.read(BLOCK_BYTES)
                if not self._data:
                    if self._decompressor is not None:
                        raise EOFError("the data ends in the middle of a member")
                    return 0
            if self._decompressor is None:
                self._data = self._data.lstrip(b"\0") if self._has_read_member else self._data
                if not self._data:
                    continue
                if len(self._data) < HEADER_BYTES:
                    self._data += self._file.read(BLOCK_BYTES)
                self._decompressor, self._has_read_member = self._new_decompressor(self._data[:HEADER_BYTES]), True
            output = bytes(self._decompressor.decompress(self._data, size))
            if self._decompressor.eof:
                self._data, self._decompressor = self._decompressor.unused_data, None
            else:
                self._data = getattr(self._decompressor, "unconsumed_tail", b"")
            if output:
                buffer[: len(output)] = output
                return len(output)
