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


class Port(io.RawIOBase):
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


class Sink:
    """Bytes in, compressed bytes out to the caller's file."""

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.port = Port(file)
        self._stream: Any = _COMPRESSORS[compression](self.port)
        self._buffer = bytearray()

    def write(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the compressor's end; the caller's file stays open."""
        self._flush()
        if self._stream is not self.port:
            self._stream.close()

    def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        if data:
            self._stream.write(data)

    def __del__(self) -> None:
        # after a failure nobody calls close: the compressor must not write its end into a file that is gone
        port = getattr(self, "port", None)
        if port is not None:
            port.abandoned = True


def _gz(port: Port) -> Any:
    import gzip

    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=port, mtime=0)


def _zst(port: Port) -> Any:
    import pyarrow as pa

    return pa.CompressedOutputStream(port, "zstd")


def _xz(port: Port) -> Any:
    import lzma

    return lzma.LZMAFile(cast(BinaryIO, port), "wb", check=lzma.CHECK_CRC64, preset=6)


def _bz2(port: Port) -> Any:
    import bz2

    return bz2.BZ2File(port, "wb", compresslevel=9)


def _plain(port: Port) -> Any:
    return port


_COMPRESSORS: dict[str, Callable[[Port], Any]] = {"": _plain, "gz": _gz, "zst": _zst, "xz": _xz, "bz2": _bz2}
