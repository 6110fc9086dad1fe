"""Text encodings: their names, and the stream that transcodes a file to UTF-8 as it is read.

Readers see UTF-8 alone. A byte that cannot be decoded becomes a mark: three bytes that are not UTF-8 and hold the byte,
so that the reader of the format makes its row an error row, and reading goes on at the next line. All line feeds of the
file stay line feeds, whatever precedes them: also after a lead byte without its second one, in a line of a 7-bit
encoding that does not return to ASCII, and in UTF-16 and UTF-32 after a byte was lost or added.

Knows no format, and does not guess: see `detect_encoding.py`.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

UTF8 = "utf-8"
BLOCK_BYTES = 1 << 18
HEAD_BYTES = 1 << 16

_MARK = re.compile(rb"\xf1([\x80-\x83])([\x80-\xbf])(?![\x80-\xbf])")
_ERRORS = "hymt_batch.mark"

MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
"""Encodings whose unit is not a byte -> their byte order mark."""

STATEFUL = ("iso2022_jp", "hz", "utf-7")  # each line is decoded on its own: see _LineDecoder


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
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        width = 4 if encoding.startswith("utf-32") else 2
        text = head[: len(head) - len(head) % width].decode(encoding, "replace")
        if not encoding.startswith(family) or not text or "\0" in text or text.count("\ufffd") * 20 > len(text):
            continue
        if _UNASSIGNED.search(text):
            continue
        num_latin = len(_LATIN.findall(text))
        is_latin = num_latin * 10 >= len(text) * 6 and (len(text) > 2 or "\n" in text)
        # of other scripts, only spaces and line breaks have NUL bytes, and other bytes are not those of text
        is_other = width == 4 or (num_latin * 50 >= len(text) and "\n" in text and not _is_text(head))
        if is_latin or is_other:
            return encoding
    return ""


_LATIN = re.compile("[\t-\r\x20-\xff]")
_UNASSIGNED = re.compile("[\U00040000-\U000dffff]")  # planes without characters
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")


def _is_text(head: bytes) -> bool:
    """Return whether a head is UTF-8 with few control characters."""
    return is_utf8(head) and len(_CONTROL.findall(head)) * 4 < len(head)


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


def _on_error(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of codecs: an undecodable byte becomes a lone surrogate, which is encoded as a mark."""
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end
    if isinstance(error, UnicodeEncodeError):
        codes = (ord(character) & 0xFF for character in error.object[error.start : error.end])
        return b"".join(bytes((0xF1, 0x80 | code >> 6, 0x80 | code & 63)) for code in codes), error.end
    raise error


class TranscodedFile(io.RawIOBase):
    """Reads a file of any text encoding as UTF-8; consumes its byte order mark.

    Args:
        file: The file's bytes, decompressed; closed with this object.
        encoding: Normal form of an encoding's name; utf-16 and utf-32 take the byte order of the file.

    Attributes:
        encoding: The encoding with its byte order.
        mark: The byte order mark that was consumed, or b"".
    """

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        codecs.register_error(_ERRORS, _on_error)
        self._file = file
        head = file.peek(HEAD_BYTES)[:HEAD_BYTES]
        self.encoding = with_byte_order(encoding, head)
        mark = MARKS.get(self.encoding, b"")
        self.mark = mark if mark and head.startswith(mark) else b""
        file.read(len(self.mark))
        self._decode = _decoder_of(self.encoding)
        self._ready, self._at, self._is_at_end = b"", 0, False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while self._at == len(self._ready) and not self._is_at_end:
            data = self._file.read1(BLOCK_BYTES)
            self._is_at_end = not data
            self._ready, self._at = self._decode(data, self._is_at_end).encode("utf-8", _ERRORS), 0
        piece = self._ready[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


Decode = Callable[[bytes, bool], str]
"""Decodes the next bytes of a file, given whether they are the last; undecodable bytes become lone surrogates."""


def _decoder_of(encoding: str) -> Decode:
    if encoding in MARKS:
        return _UnitDecoder(encoding)
    if encoding.startswith(STATEFUL):
        return _LineDecoder(encoding)
    return codecs.getincrementaldecoder(encoding)(_ERRORS).decode


class _LineDecoder:
    """Decodes an encoding with states (HZ, UTF-7, ISO-2022-JP), in which each line begins and ends in ASCII.

    A line that does not end so is not valid, and the next one is read as if it did.
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)
        self._continues = b"~" if encoding == "hz" else None  # a line that ends so goes on in the next one
        self._last = b""

    def __call__(self, data: bytes, is_last: bool) -> str:
        *lines, rest = data.split(b"\n")
        texts = [self._end_line(line) for line in lines]
        self._last = rest[-1:] or (b"" if lines else self._last)
        return "".join(texts) + self._decoder.decode(rest, is_last)

    def _end_line(self, line: bytes) -> str:
        before, self._last = line[-1:] or self._last, b""
        text = self._decoder.decode(line + b"\n", True)
        if self._continues == before and not text.endswith(("\n", "\udc0a")):
            return text
        if not text.endswith("\n"):
            text += "\n"
        elif self._decoder.decode(b"A") != "A":  # the line did not return to ASCII
            text = f"{text[:-1]}\udc0a\n"
        self._decoder.reset()
        return text


class _UnitDecoder:
    """Decodes UTF-16 and UTF-32, and finds the next line feed after a byte was lost or added.

    From there on all units are shifted, which is seldom invalid: most pairs of bytes are a character of UTF-16. So the
    bytes of a line feed are looked for where no unit starts, too. There they are two characters in valid text, one of
    them from U+0A00 to U+0AFF (Gurmukhi and Gujarati); they are a line feed if it has no neighbour of its script.
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)
        self._line_feed = "\n".encode(encoding)
        self._width = len(self._line_feed)
        self._neighbour = -2 if encoding.endswith("le") else self._width + 1  # offset of its high byte
        self._kept = b""  # whole units and a torn one, too few to see the neighbours of a line feed

    def __call__(self, data: bytes, is_last: bool) -> str:
        data = self._kept + data
        texts: list[str] = []
        start = 0
        end = len(data) if is_last else max(0, len(data) - len(data) % self._width - 4 * self._width)
        at = data.find(self._line_feed)
        while 0 <= at < end:
            shift = (at - start) % self._width
            if shift and (self._width == 4 or data[at + self._neighbour : at + self._neighbour + 1] != b"\n"):
                texts.append(self._decoder.decode(data[start:at], True) + "\n")
                start = at + self._width
            at = data.find(self._line_feed, at + 1 if shift else at + self._width)
        end = max(start, end - (0 if is_last else (end - start) % self._width))
        self._kept = data[end:]
        return "".join(texts) + self._decoder.decode(data[start:end], is_last)
