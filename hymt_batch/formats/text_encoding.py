"""Text encodings: their names, byte order marks, and the marks that stand for undecodable bytes in transcoded text.

Readers see UTF-8 alone: see `transcoded_file.py`. A byte that cannot be decoded becomes a mark: three bytes that are
not UTF-8 and hold the byte, so that the reader of the format makes its row an error row.

Knows no format, and does not guess: see `detect_encoding.py`.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator

UTF8 = "utf-8"
BOM = b"\xef\xbb\xbf"
SURROGATE = re.compile("[\ud800-\udfff]")
"""A half of a surrogate pair: a string of Python or JSON can have it, UTF-8 cannot."""

HEAD_BYTES = 1 << 16

_MARK = re.compile(rb"\xf1([\x80-\x83])([\x80-\xbf])(?![\x80-\xbf])")

MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
"""Encodings whose unit is not a byte -> their byte order mark."""

STATEFUL = ("iso2022_jp", "iso2022_kr", "hz", "utf-7")  # each line is decoded on its own

USUAL_NAMES = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "iso-8859-1", "iso-8859-2", "iso-8859-15"),
    *("shift-jis", "cp932", "euc-jp", "iso-2022-jp", "gb18030", "gbk", "gb2312", "big5", "big5-hkscs", "euc-kr"),
    *("cp949", "iso-2022-kr", "koi8-r", "koi8-u", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp1257", "cp1258", "cp866", "iso-8859-5", "iso-8859-6", "iso-8859-7", "iso-8859-8", "iso-8859-9", "tis-620"),
    *("cp874", "hz", "utf-7", "mac-roman"),
)
"""Names of encodings that files have, for messages."""


def normalize(name: str) -> str:
    """Return the normal form of an encoding's name, which is that of Python's codecs; "utf-8" for utf-8-sig.

    Raises:
        LookupError: Python has no text encoding of this name.
    """
    info = codecs.lookup(name.strip())
    if not getattr(info, "_is_text_encoding", True) or info.name in _NOT_OF_FILES:
        raise LookupError(f"{name} is not an encoding of text files")
    return UTF8 if info.name == "utf-8-sig" else info.name


_NOT_OF_FILES = frozenset(
    {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape", "undefined"}
)


def with_byte_order(encoding: str, head: bytes) -> str:
    """Return utf-16 and utf-32 with the byte order of a file's head: its mark, else its NUL bytes, else little-endian.

    Without a mark, Windows writes little-endian, whatever the standard says.
    """
    if encoding not in ("utf-16", "utf-32"):
        return encoding
    for name in (f"{encoding}-le", f"{encoding}-be"):
        if head.startswith(MARKS[name]):
            return name
    return unmarked_units(head, encoding) or f"{encoding}-le"


def unmarked_units(head: bytes, family: str = "utf-") -> str:
    """Return the encoding of a head that is UTF-16 or UTF-32 by its NUL bytes, without a mark; "" for any other.

    Args:
        head: The first bytes of a file.
        family: Only encodings whose name begins so are tried.
    """
    if b"\0" not in head:
        return ""
    others: list[tuple[int, str]] = []
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        width = 4 if encoding.startswith("utf-32") else 2
        text = head[: len(head) - len(head) % width].decode(encoding, "replace")
        if not encoding.startswith(family) or not text or "\0" in text or text.count("\ufffd") * 20 > len(text):
            continue
        if _UNASSIGNED.search(text):
            continue
        num_latin = len(_LATIN.findall(text))
        is_latin = num_latin * 10 >= len(text) * 6 and (len(text) > 2 or "\n" in text)
        if is_latin or (width == 4 and share_of_odd(text) < MAX_ODD_SHARE):
            return encoding
        # of other scripts, few characters have NUL bytes: spaces and line breaks, and those such as U+4E00
        if not is_text(head) and (num_latin or len(text) > 16) and share_of_odd(text) < MAX_ODD_SHARE:
            others.append((num_latin, encoding))
    return max(others, default=(0, ""))[1]


_LATIN = re.compile("[\t-\r\x20-\xff]")
MAX_ODD_SHARE = 0.02  # of a text in the right encoding; in another one, share_of_odd is higher
_UNASSIGNED = re.compile("[\U00040000-\U000dffff]")  # planes without characters
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def share_of_odd(text: str) -> float:
    """Return the share of characters in a decoded sample that texts do not have: control, private, unassigned ones."""
    sample = text[:4096]
    num_odd = sum(
        unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") and character not in "\t\r\n\f\v"
        for character in sample
    )
    return (num_odd + sample.count("\ufffd")) / max(1, len(sample))


def is_text(head: bytes) -> bool:
    """Return whether the lines of a head are mostly UTF-8, with few control characters.

    In UTF-16, Cyrillic is full of the byte 0x04, Devanagari of tabs, and Gurmukhi of line feeds.
    """
    lines = [line for line in head.split(b"\n") if line]
    good = [line for line in lines if is_utf8(line)]
    is_mostly_good = len(good) * 2 > len(lines) or sum(map(len, good)) * 2 > len(head)
    most = max(head.count(b"\t"), head.count(b"\n"))
    return is_mostly_good and len(_CONTROL.findall(head)) * 4 < len(head) and most * 3 < len(head)


def is_utf8(head: bytes) -> bool:
    """Return whether the start of a file is UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def find_mark(head: bytes) -> str:
    """Return the encoding that a byte order mark at the start of a file names; "" without a mark."""
    for name in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):  # the mark of utf-32-le begins with utf-16-le's
        if head.startswith(MARKS[name]):
            return name
    return UTF8 if head.startswith(codecs.BOM_UTF8) else ""


def marked_byte(data: bytes, at: int) -> int | None:
    """Return the undecodable byte for which a mark stands at an offset of transcoded bytes; None if there is none."""
    match = _MARK.match(data, at)
    return None if match is None else _byte_of(match)


def with_original_bytes(data: bytes, represent: Callable[[int], bytes]) -> bytes:
    """Replace each mark in transcoded bytes by what represents its byte."""
    return _MARK.sub(lambda match: represent(_byte_of(match)), data)


def split_marks(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """Split transcoded bytes: (True, an undecodable byte) for each mark, (False, UTF-8) for what is between them."""
    start = 0
    for match in _MARK.finditer(data):
        if match.start() > start:
            yield False, data[start : match.start()]
        yield True, bytes([_byte_of(match)])
        start = match.end()
    if start < len(data):
        yield False, data[start:]


def _byte_of(match: re.Match[bytes]) -> int:
    return (match[1][0] & 3) << 6 | match[2][0] & 63
