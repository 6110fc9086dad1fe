"""Decompress Zstandard frames with the window that each asks for, up to a limit.

A window is the memory that decompression needs: earlier data to which a frame refers. Up to 128 MiB every program takes
it; `zstd --long=31` writes frames that ask for 2 GiB. The decompressor holds as much of it as the frame has filled.

Source: RFC 8878, sections 3.1.1 (frames) and 3.1.2 (skippable frames).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

MAX_WINDOW = 1 << 31
"""Largest window that the library decompresses, in bytes."""
TOLD_WINDOW = 128 << 20
"""Largest window that programs take without being asked, in bytes."""
HEADER_BYTES = 18
"""Largest size of a frame's header."""

_MAGIC = b"\x28\xb5\x2f\xfd"


class WindowTooLargeError(ValueError):
    """A frame asks for a larger window than is allowed."""

    def __init__(self, window: int, max_window: int) -> None:
        super().__init__(f"its window is {window} bytes, more than {max_window}")
        self.window, self.max_window = window, max_window

    @property
    def long(self) -> int:
        """The value for `zstd --long=N` that takes the window."""
        return (self.window - 1).bit_length()


def window_size(header: bytes) -> int:
    """Return the window that a frame asks for, in bytes, from its first HEADER_BYTES; 0 for anything but such a frame.

    A frame of a single segment holds its whole content at once.
    """
    if not header.startswith(_MAGIC) or len(header) < 6:
        return 0
    descriptor = header[4]
    is_single_segment = bool(descriptor & 0x20)
    if not is_single_segment:
        exponent, mantissa = header[5] >> 3, header[5] & 7
        return (1 << 10 + exponent) // 8 * (8 + mantissa)
    start = 5 + (0, 1, 2, 4)[descriptor & 3]
    size = (1, 2, 4, 8)[descriptor >> 6]
    content = int.from_bytes(header[start : start + size], "little")
    return content + 256 if size == 2 else content


def is_available() -> bool:
    """Return whether the library is installed: it is not in an environment that is older than this module.

    There pyarrow reads .zst files, but only with windows of up to 128 MiB.
    """
    return sys.version_info >= (3, 14) or _has_backport()


def _has_backport() -> bool:
    try:
        return importlib.util.find_spec("backports.zstd") is not None
    except ModuleNotFoundError:  # there is no package backports at all
        return False


def new_decompressor(header: bytes, max_window: int) -> Any:
    """Create the decompressor of one frame.

    Args:
        header: The first HEADER_BYTES of the frame; fewer at the end of a file.
        max_window: Largest window that it may ask for, in bytes.

    Raises:
        WindowTooLargeError: It asks for a larger one.
    """
    window = window_size(header)
    if window > min(max_window, MAX_WINDOW):
        raise WindowTooLargeError(window, max_window)
    return _Frame()


class _Frame:
    """Decompresses one frame, with the interface of the standard library's decompressors.

    Raises:
        ValueError: Raised by `decompress` for damaged data.
    """

    def __init__(self) -> None:
        zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW.bit_length() - 1}
        self._decompressor, self._error = zstd.ZstdDecompressor(options=options), zstd.ZstdError

    @property
    def needs_input(self) -> bool:
        return bool(self._decompressor.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decompressor.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        try:
            return bytes(self._decompressor.decompress(data, max_length))
        except self._error as error:
            raise ValueError(str(error)) from error
