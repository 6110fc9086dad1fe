"""Where a format writer puts its bytes: an opened file, compressed on the way.

Knows neither rows nor formats. The file belongs to the caller, who opens, fsyncs, closes and renames it. Compressed
bytes are reproducible: fixed levels, and no time and no name in a gzip header.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from hymt_batch.records import COMPRESSIONS

BUFFER_BYTES = 1 << 20


def compression_of(rel: str) -> str:
    """Compression that an output's name promises, or "" for none."""
    _, dot, extension = rel.rpartition(".")
    return COMPRESSIONS.get(f"{dot}{extension}".lower(), "")


class NonClosingFile(io.RawIOBase):
    """The caller's file as the compressors and pyarrow see it: whole writes, and a close that leaves it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.abandoned = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.abandoned:
            return len(view)
        done = 0
        while done < len(view):  # a raw file may take less than it is given
            written = self._file.write(view[done:])
            done = len(view) if written is None else done + written
        return len(view)


class CompressedStream:
    """Bytes in, compressed bytes out to the caller's file."""

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.file = NonClosingFile(file)
        self._compressor: Any = _COMPRESSORS[compression](self.file)
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the compressor's end; the caller's file stays open."""
        self._flush()
        if self._compressor is not self.file:
            self._compressor.close()

    def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if data:
            self._compressor.write(data)

    def __del__(self) -> None:
        # after a failure nobody calls close: the compressor must not write its end into a file that is gone
        port = getattr(self, "file", None)
        if port is not None:
            port.abandoned = True


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
