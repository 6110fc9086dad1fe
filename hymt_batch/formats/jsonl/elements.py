"""Divide JSON into the elements of an array, or into the values of a text that has several, without parsing them.

An element ends where its brackets are balanced; the bytes after it, up to the next one, are its gap: white space,
commas, and the end of the array. So a broken element costs only itself, and no more than a block is held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable

BLOCK_BYTES = 1 << 16

_SPACE = re.compile(rb"[ \t\r\n]*+")
_GAP = re.compile(rb"[ \t\r\n,\]]*+")
_FLAT = re.compile(rb'\{(?:[^"{}\[\]\\]++|"(?:[^"\\]++|\\[\s\S])*+")*+\}')
_SKIP = rb'[^"{}\[\]%s]++|"(?:[^"\\]++|\\[\s\S])*+"'
_INSIDE = re.compile(rb"(?:" + _SKIP % b"" + rb")*+")
_OUTSIDE = re.compile(rb"(?:" + _SKIP % b"," + rb")*+")
_STRING = re.compile(rb'(?:[^"\\]++|\\[\s\S])*+')


class Elements:
    """A position in JSON, from which elements are read one after the other.

    Args:
        read: Reads at most so many bytes; b"" at the end.
        position: Offset of what it reads first.
    """

    def __init__(self, read: Callable[[int], bytes], position: int = 0) -> None:
        self._read, self.position = read, position
        self._data, self._at = b"", 0
        self._depth, self._in_string, self._has_ended = 0, False, False
        self._start = position  # of the element

    def read_header(self) -> bytes:
        """Return what precedes the first element; of an empty array, all of it."""
        header = self._read_while(_SPACE)
        if self.at_end() or self._data[self._at] != _ARRAY:
            return header
        self._at, self.position = self._at + 1, self.position + 1
        return header + b"[" + self._read_while(_GAP)

    def read_gap(self) -> bytes:
        """Return what follows an element up to the next one, or to the end."""
        return self._read_while(_GAP)

    def at_end(self) -> bool:
        return self._at == len(self._data) and not self._fill()

    def begin(self) -> bool:
        """Begin the next element; return whether there is one."""
        self._depth, self._in_string, self._has_ended = 0, False, False
        self._start = self.position
        return not self.at_end()

    def read_piece(self) -> bytes:
        """Return the next bytes of the element, at most a block; b"" after its end."""
        if self._has_ended:
            return b""
        while len(self._data) - self._at < 2 and self._fill():  # a backslash and what it escapes
            pass
        if self._at == len(self._data):
            return b""
        start = self._at
        flat = None if self._depth or self._in_string else _FLAT.match(self._data, start)
        if flat is None:
            self._walk()
        else:
            self._at, self._has_ended = flat.end(), True
        self.position += self._at - start
        return self._data[start : self._at]

    def _walk(self) -> None:
        """Move to the end of the element, or to the end of the block."""
        data, at = self._data, self._at
        start = at if self.position == self._start else -1  # of the element, if it is in this block
        while at < len(data):
            if self._in_string:
                at = _end(_STRING, data, at)
                if at < len(data) and data[at] == _QUOTE:
                    at, self._in_string = at + 1, False
                elif at < len(data):  # a backslash at the end of the block, or of the file
                    at += at == self._at
                    break
                continue
            at = _end(_INSIDE if self._depth else _OUTSIDE, data, at)
            if at == len(data):
                break
            byte = data[at]
            if byte == _QUOTE:
                at, self._in_string = at + 1, True
            elif byte in _OPENING:
                if not self._depth and at > start:
                    self._has_ended = True  # a comma is missing
                    break
                at, self._depth = at + 1, self._depth + 1
            elif self._depth:
                at, self._depth = at + 1, self._depth - 1
                if not self._depth:
                    self._has_ended = True
                    break
            else:  # the end of a number or a string, or a bracket that nothing opens
                at += at == start
                self._has_ended = True
                break
        self._at = at

    def _read_while(self, pattern: re.Pattern[bytes]) -> bytes:
        pieces = []
        while True:
            end = _end(pattern, self._data, self._at)
            pieces.append(self._data[self._at : end])
            self.position += end - self._at
            self._at = end
            if end < len(self._data) or not self._fill():
                return b"".join(pieces)

    def _fill(self) -> bool:
        """Read another block after what is left of this one; return whether there is more."""
        block = self._read(BLOCK_BYTES)
        self._data, self._at = self._data[self._at :] + block, 0
        return bool(block)


_QUOTE, _ARRAY = b'"['
_OPENING = b"[{"


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    match = pattern.match(data, at)
    assert match is not None  # every pattern also matches the empty string
    return match.end()
