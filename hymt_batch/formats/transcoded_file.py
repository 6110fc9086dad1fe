"""The stream that transcodes a file of any text encoding to UTF-8 as it is read.

All line feeds of the file stay line feeds, whatever precedes them: also after a lead byte without its second one, in a
line of a 7-bit encoding that does not return to ASCII, and in UTF-16 and UTF-32 after a byte was lost or added. The
text does not depend on the blocks in which the file is read.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Callable
from typing import Any

from hymt_batch.formats.text_encoding import HEAD_BYTES, MARKS, STATEFUL, with_byte_order

BLOCK_BYTES = 1 << 18

_ERRORS = "hymt_batch.mark"


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
    return _ByteDecoder(encoding)


class _ByteDecoder:
    """Decodes an encoding in which the byte 0x0A is always a line feed, and all lines are decoded alike."""

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)

    def __call__(self, data: bytes, is_last: bool) -> str:
        text = self._decoder.decode(data, is_last)
        # an incomplete character at the end of the file may hold the last line feed
        return text.replace("\udc0a", "\n") if is_last else text


class _LineDecoder:
    """Decodes an encoding with states (HZ, UTF-7, ISO-2022), in which each line begins and ends in ASCII.

    A line that does not end so is not valid, and the next one is read as if it did. (What ISO-2022-KR designates at the
    start of a file holds for all its lines.)
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)(_ERRORS)
        self._continues = b"~" if encoding == "hz" else None  # a line that ends so goes on in the next one
        self._last = b""
        self._held = b""  # of a line that began, what the decoder cannot take before more of it is there

    def __call__(self, data: bytes, is_last: bool) -> str:
        *lines, rest = (self._held + data).split(b"\n")
        self._held = b""
        texts = [self._end_line(line) for line in lines]
        self._last = rest[-1:] or (b"" if lines else self._last)
        state = self._decoder.getstate()
        try:
            return "".join(texts) + self._decoder.decode(rest, is_last)
        except UnicodeError:  # an escape sequence without its end: the decoder keeps 8 bytes, and looks at 16
            if is_last:
                raise
            self._decoder.setstate(state)
            self._held = rest
            return "".join(texts)

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
        self._before = b""  # the byte before them

    def __call__(self, data: bytes, is_last: bool) -> str:
        data = self._kept + data
        texts: list[str] = []
        start = 0
        end = len(data) if is_last else max(0, len(data) - len(data) % self._width - 4 * self._width)
        at = data.find(self._line_feed)
        while 0 <= at < end:
            shift = (at - start) % self._width
            if shift and (self._width == 4 or self._neighbour_byte(data, at) != b"\n"):
                texts.append(self._decoder.decode(data[start:at], True) + "\n")
                start = at + self._width
            at = data.find(self._line_feed, at + 1 if shift else at + self._width)
        end = max(start, end - (0 if is_last else (end - start) % self._width))
        self._kept, self._before = data[end:], data[end - 1 : end] or self._before
        return "".join(texts) + self._decoder.decode(data[start:end], is_last)

    def _neighbour_byte(self, data: bytes, at: int) -> bytes:
        offset = at + self._neighbour
        return self._before if offset < 0 else data[offset : offset + 1]


def _on_error(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of codecs: an undecodable byte becomes a lone surrogate, which is encoded as a mark."""
    if isinstance(error, UnicodeDecodeError):
        return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end
    if isinstance(error, UnicodeEncodeError):
        codes = (ord(character) & 0xFF for character in error.object[error.start : error.end])
        return b"".join(bytes((0xF1, 0x80 | code >> 6, 0x80 | code & 63)) for code in codes), error.end
    raise error
