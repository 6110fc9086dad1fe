"""Read the first bytes of a file, and tell from them how it is compressed and whether it is text.

Independent of formats.
"""

from __future__ import annotations

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.extraction import split_compression
from hymt_batch.formats.text_encoding import (
    HEAD_BYTES,
    UTF8,
    find_mark,
    is_utf8,
    share_of_odd,
    unmarked_units,
    with_byte_order,
)
from hymt_batch.records import Input

_SAMPLE_BYTES = 1 << 13  # of the head, for the share of control characters
_MIN_BYTES = 64  # a shorter text that is not UTF-8 is too short to judge by its share of control characters
_MAX_ODD_UNITS = 0.1  # of random bytes as UTF-16, 0.12 to 0.2 are no characters of a text

_COMPRESSION_MAGIC = ((b"\x1f\x8b\x08", "gz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"\xfd7zXZ\x00", "xz"))
_TEXT_CONTROLS = b"\t\n\v\f\r\b\x0e\x0f\x1a\x1b"  # the last four: shift codes, the end of file of DOS, and escape
_NO_TEXT = bytes(byte for byte in (*range(32), 0x7F) if byte not in _TEXT_CONTROLS)


def read_first_bytes(path: str, size: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a file; decompressed, if its extension says that it is compressed.

    Raises:
        PreflightError: The file cannot be read.
        StoppedError: The disk fails.
    """
    with ByteStream(Input(path, path, path, "", split_compression(path)[1])) as stream:
        return stream.read(size)


def find_compression(head: bytes) -> str:
    """Return the compression that the first bytes of a file show; "" if they show none."""
    for magic, compression in _COMPRESSION_MAGIC:
        if head.startswith(magic):
            return compression
    if head[1:4] == b"\x2a\x4d\x18" and b"\x50" <= head[:1] <= b"\x5f":
        return "zst"  # a skippable frame
    is_bz2 = head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90")
    return "bz2" if is_bz2 else ""


def looks_binary(head: bytes, encoding: str = "") -> bool:
    """Return whether the first bytes of a file are those of no text.

    Args:
        head: The first bytes, decompressed.
        encoding: The encoding that the user names; "" if any encoding is possible.
    """
    sample = head[:_SAMPLE_BYTES]
    if encoding.startswith(("utf-16", "utf-32")):
        if is_utf8(sample) and b"\0" not in sample:
            return False  # a text in another encoding, which is refused as such
        return share_of_odd(sample.decode(with_byte_order(encoding, sample), "replace")) > _MAX_ODD_UNITS
    num_controls = len(sample) - len(sample.translate(None, _NO_TEXT))
    if not num_controls or find_mark(sample) not in ("", UTF8):
        return False
    if encoding := unmarked_units(sample):
        return share_of_odd(sample.decode(encoding, "ignore")) > 0.3
    max_share = 0.3 if is_utf8(sample) or len(sample) < _MIN_BYTES else 0.05
    return num_controls > max_share * len(sample)
