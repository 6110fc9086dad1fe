"""Read the first bytes of a file, and tell from them how it is compressed and whether it is text.

Independent of formats.
"""

from __future__ import annotations

import codecs

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.extraction import split_compression
from hymt_batch.records import Input

HEAD_BYTES = 1 << 16
_SAMPLE_BYTES = 1 << 13  # of the head, for the share of control characters
_MIN_BYTES = 64  # a shorter text that is not UTF-8 is too short to judge by its share of control characters

_COMPRESSION_MAGIC = ((b"\x1f\x8b\x08", "gz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"\xfd7zXZ\x00", "xz"))
_TEXT_CONTROLS = b"\t\n\v\f\r\b\x0e\x0f\x1a\x1b"  # the last four: shift codes, the end of file of DOS, and escape
_CONTROLS = bytes(range(32)) + b"\x7f"


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


def looks_binary(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of no text, in whatever encoding."""
    sample = head[:_SAMPLE_BYTES]
    num_controls = len(sample) - len(sample.translate(None, bytes(set(_CONTROLS) - set(_TEXT_CONTROLS))))
    if not num_controls or _is_wide_text(sample):
        return False
    if _is_utf8(sample):
        return num_controls > 0.3 * len(sample)
    return num_controls > (0.05 if len(sample) >= _MIN_BYTES else 0.3) * len(sample)


def _is_utf8(sample: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # the sample may end within a character
    except UnicodeDecodeError:
        return False
    return True


def _is_wide_text(sample: bytes) -> bool:
    """Return whether bytes are UTF-16 or UTF-32, with or without a byte order mark."""
    if sample.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return True
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(sample)
        except UnicodeDecodeError:
            continue
        num_shown = sum(character.isprintable() or character in "\t\r\n\ufeff" for character in text)
        if text and "\0" not in text and num_shown > 0.95 * len(text):
            return True
    return False
