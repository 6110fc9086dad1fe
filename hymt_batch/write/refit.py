"""A csv or tsv record that does not fit its file's columns, written so that it does: in pieces, never held.

Cells keep their values. Missing cells are empty; what is left over stands in the last one, with its delimiters (in tsv,
which cannot quote them, with spaces). Quotes are closed, and quoted anew where a cell needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

HELD = 1 << 16  # characters of a cell that are looked at before it is written; a longer one is quoted


def refit(pieces: Iterable[str], delimiter: str, width: int, *, quotes: bool) -> Iterator[str]:
    """A record without its line ending, with `width` cells.

    Args:
        pieces: The record as it came, without its line ending.
        delimiter: One character.
        width: Cells of the result, at least 1.
        quotes: Whether it is csv, where a quote at the start of a cell counts.
    """
    record = _Quoted(delimiter, width) if quotes else _Bare(delimiter, width)
    for piece in pieces:
        yield record.feed(piece)
    yield record.finish()


class _Bare:
    """tsv."""

    def __init__(self, delimiter: str, width: int) -> None:
        self._delimiter, self._left = delimiter, width - 1

    def feed(self, piece: str) -> str:
        cells = piece.split(self._delimiter)
        fit = cells[: self._left + 1]
        self._left -= len(fit) - 1
        rest = cells[len(fit) :]
        return " ".join([self._delimiter.join(fit), *rest])

    def finish(self) -> str:
        return self._delimiter * self._left


class _Quoted:
    """csv."""

    def __init__(self, delimiter: str, width: int) -> None:
        self._delimiter, self._left = delimiter, width - 1
        self._special = re.compile(f'["\r\n{re.escape(delimiter)}]')
        self._state, self._rest = "start", ""
        self._out: list[str] = []
        self._cell: list[str] = []
        self._size, self._opened = 0, False  # of the cell; whether its beginning is written

    def feed(self, piece: str, final: bool = False) -> str:
        data, at = self._rest + piece, 0
        self._rest = ""
        while at < len(data):
            if self._state == "start":
                is_quote = data.startswith('"', at)
                self._state, at = ("quoted", at + 1) if is_quote else ("plain", at)
            elif self._state == "quoted":
                found = data.find('"', at)
                self._add(data[at:] if found < 0 else data[at:found])
                if found < 0:
                    break
                if found + 1 == len(data) and not final:
                    self._rest = '"'
                    break
                doubled = data.startswith('"', found + 1)
                if doubled:
                    self._add('"')
                self._state, at = ("quoted", found + 2) if doubled else ("plain", found + 1)
            else:
                found = data.find(self._delimiter, at)
                self._add(data[at:] if found < 0 else data[at:found])
                if found < 0:
                    break
                if self._left:
                    self._end()
                    self._out.append(self._delimiter)
                    self._left -= 1
                else:
                    self._add(self._delimiter)
                self._state, at = "start", found + len(self._delimiter)
        out, self._out = "".join(self._out), []
        return out

    def finish(self) -> str:
        out = self.feed("", final=True)
        self._end()
        last, self._out = "".join(self._out), []
        return out + last + self._delimiter * self._left

    def _add(self, text: str) -> None:
        if self._opened:
            self._out.append(text.replace('"', '""'))
            return
        self._cell.append(text)
        self._size += len(text)
        if self._size > HELD:
            self._out.append('"' + "".join(self._cell).replace('"', '""'))
            self._opened = True

    def _end(self) -> None:
        value = "".join(self._cell)
        if self._opened:
            self._out.append('"')
        else:
            self._out.append('"' + value.replace('"', '""') + '"' if self._special.search(value) else value)
        self._cell, self._size, self._opened = [], 0, False
