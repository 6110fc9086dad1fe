"""The stream of an output: what a writer writes in UTF-8 is encoded and compressed on its way to the file.

An output is UTF-8, unless write.encoding=input keeps the encoding of its input, with its byte order mark. A character
that the encoding does not have is written as `\\uXXXX`, which is the escape of JSON and of `.properties`. Text, csv and
tsv have no escape: there, `published_file.py` makes a row with such a translation an error row before it is written, so
that only the metadata column, which is JSON, and converted fields are escaped.
"""

from __future__ import annotations

import codecs
from typing import BinaryIO, Protocol

from hymt_batch.formats.compressed_stream import CompressedStream, compression_of
from hymt_batch.formats.format import OutputSpec
from hymt_batch.formats.text_encoding import (
    MARKS,
    STATEFUL,
    UTF8,
    split_marks,
    with_original_bytes,
)

_ESCAPE, _ESCAPE_TWICE = "hymt_batch.escape", "hymt_batch.escape_twice"


class OutputStream(Protocol):
    """Receives the bytes of an output in UTF-8."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """Write what is buffered, and the end of the compressed stream; the caller's file stays open."""


def open_output(spec: OutputSpec, file: BinaryIO) -> OutputStream:
    """Open the stream of an output; the extension of its name (.gz .zst .xz .bz2) sets the compression."""
    stream = CompressedStream(file, compression_of(spec.input.out_rel), is_buffered=spec.is_buffered)
    return EncodedStream(stream, spec) if spec.input.encoding else stream


class EncodedStream:
    """Encodes an output whose input was transcoded; a mark becomes its byte again, or U+FFFD in UTF-8."""

    def __init__(self, stream: CompressedStream, spec: OutputSpec) -> None:
        codecs.register_error(_ESCAPE, lambda error: _escape(error, "\\"))
        codecs.register_error(_ESCAPE_TWICE, lambda error: _escape(error, "\\\\"))
        self._stream = stream
        self._held = b""  # an incomplete character at the end of what was written
        encoding = spec.encoding or UTF8
        self._is_utf8 = encoding == UTF8
        self._restores_bytes = encoding not in MARKS and not encoding.startswith(STATEFUL)
        errors = _ESCAPE_TWICE if spec.preamble.escape == "\\" and spec.keeps_bytes else _ESCAPE
        self._encoder = codecs.getincrementalencoder(encoding)(errors)
        if not self._is_utf8:
            stream.write(spec.preamble.mark)

    def write(self, data: bytes) -> None:
        data = self._held + data
        end = _complete_end(data)
        self._held = data[end:]
        self._write(data[:end])

    def close(self) -> None:
        self._write(self._held)
        if not self._is_utf8:
            self._stream.write(self._encoder.encode("", final=True))
        self._stream.close()

    def _write(self, data: bytes) -> None:
        if self._is_utf8:
            self._stream.write(with_original_bytes(data, lambda byte: b"\xef\xbf\xbd"))
            return
        for is_mark, piece in split_marks(data):
            if is_mark and self._restores_bytes:
                self._stream.write(piece)
            else:
                text = "\ufffd" if is_mark else piece.decode("utf-8", "replace")
                self._stream.write(self._encoder.encode(text))


def _escape(error: UnicodeError, backslash: str) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(escaped(character, backslash) for character in characters), error.end


def escaped(character: str, backslash: str = "\\") -> str:
    """Return the escape of a character in JSON and `.properties`: one or two units of UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"{backslash}u{units[index]:02x}{units[index + 1]:02x}" for index in range(0, len(units), 2))


def _complete_end(data: bytes) -> int:
    """Return the offset after the last complete character of UTF-8."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            return len(data) - back if back < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2) else len(data)
        if byte < 0x80:
            break
    return len(data)


def unencodable_character(text: str, encoding: str) -> str:
    """Return the first character of a text that an encoding does not have; "" if it has all."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""
