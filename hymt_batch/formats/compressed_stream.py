"""Compress a format writer's bytes on their way to an open file, and decompress a published file.

Independent of rows and formats. The caller owns the file: it opens, fsyncs, closes and renames it. Compressed bytes are
reproducible: the levels are fixed, and gzip headers contain neither a time nor a name.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from hymt_batch.formats.text_encoding import UTF8
from hymt_batch.formats.transcoded_file import TranscodedFile
from hymt_batch.records import COMPRESSIONS

BUFFER_BYTES = 1 << 20


def compression_of(rel: str) -> str:
    """Return the compression for an output's file extension, or "" for none."""
    _, dot, extension = rel.rpartition(".")
    return COMPRESSIONS.get(f"{dot}{extension}".lower(), "")


class NonClosingFile(io.RawIOBase):
    """Wraps the caller's file for compressors and pyarrow: each write is complete, and close leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.abandoned:
            return len(view)
        num_written = 0
        while num_written < len(view):  # a raw file may write fewer bytes than requested
            written = self._file.write(view[num_written:])
            num_written = len(view) if written is None else num_written + written
        return len(view)


class CompressedStream:
    """Compresses bytes into the caller's file; with `is_buffered=False` each write reaches it at once."""

    def __init__(self, file: BinaryIO, compression: str, *, is_buffered: bool = True) -> None:
        self.file = NonClosingFile(file)
        self._compressor: Any = _COMPRESSORS[compression](self.file)
        self._buffer = bytearray()
        self._buffer_bytes = BUFFER_BYTES if is_buffered else 0

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= self._buffer_bytes:
            self._flush()

    def close(self) -> None:
        """Flush the buffer and finish the compressed stream; the caller's file stays open."""
        self._flush()
        if self._compressor is not self.file:
            self._compressor.close()

    def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if data:
            self._compressor.write(data)

    def __del__(self) -> None:
        # after a failure `close` is not called: the compressor must not write its trailer to the closed file
        file = getattr(self, "file", None)
        if file is not None:
            file.abandoned = True


def open_published(path: Path, encoding: str = UTF8) -> BinaryIO:
    """Open a published file to read its decompressed bytes in UTF-8.

    Args:
        path: The file.
        encoding: Its encoding; utf-16 and utf-32 take the byte order of the file.
    """
    file = _open_decompressed(path)
    if encoding == UTF8:
        return file
    return io.BufferedReader(TranscodedFile(io.BufferedReader(cast(io.RawIOBase, file)), encoding))


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


def _gz(file: NonClosingFile) -> Any:
    import gzip

    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0)


def _zst(file: NonClosingFile) -> Any:
    import pyarrow as pa

    return pa.CompressedOutputStream(file, "zstd")


def _xz(file: NonClosingFile) -> Any:
    import lzma

    return lzma.LZMAFile(cast(BinaryIO, file), "wb", check=lzma.CHECK_CRC64, preset=6)


def _bz2(file: NonClosingFile) -> Any:
    import bz2

    return bz2.BZ2File(file, "wb", compresslevel=9)


def _uncompressed(file: NonClosingFile) -> Any:
    return file


_COMPRESSORS: dict[str, Callable[[NonClosingFile], Any]] = {
    "": _uncompressed,
    "gz": _gz,
    "zst": _zst,
    "xz": _xz,
    "bz2": _bz2,
}
