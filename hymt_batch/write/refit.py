"""A csv or tsv record that does not fit its file's columns, written so that it does: in pieces, never held.

Cells keep their values. Missing cells are empty; what is left over stands in the last one, with its delimiters (in tsv,
which cannot quote them, with spaces). Quotes are closed, and quoted anew where a cell needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

HELD = 1 << 16  # characters of a cell that are looked at before it is written; a longer one is quoted


def refit(pieces: Iterable[str], delimiter: str, width: int, *, quotes: bool, escape: str = "") -> Iterator[str]:
    """A record without its line ending, with `width` cells.

    Args:
        pieces: The record as it came, without its line ending.
        delimiter: One character.
        width: Cells of the result, at least 1.
        quotes: Whether it is csv, where a quote at the start of a cell counts.
        escape: The character that makes what follows it a part of its cell; "" for none.
    """
    record = _Quoted(delimiter, width, escape) if quotes else _Bare(delimiter, width, escape)
    for piece in pieces:
        yield record.feed(piece)
    yield record.finish()


class _Bare:
    """tsv."""

    def __init__(self, delimiter: str, width: int, escape: str) -> None:
        self._delimiter, self._left, self._escape, self._rest = delimiter, width - 1, escape, ""
        pair = rf"|{re.escape(escape)}[\s\S]" if escape else ""
        self._cell = re.compile(rf"(?:[^{re.escape(delimiter + escape)}]{pair})*+")

    def feed(self, piece: str, final: bool = False) -> str:
        data, at = self._rest + piece, 0
        self._rest = ""
        cells: list[str] = []
        while True:
            stop = self._cell.match(data, at).end()  # type: ignore[union-attr]
            if data[stop:] == self._escape != "":  # it stands last: what it escapes comes, or nothing does
                cells.append(data[at:stop] + self._escape * 2 if final else data[at:stop])
                self._rest = "" if final else self._escape
                break
            cells.append(data[at:stop])
            if stop == len(data):
                break
            at = stop + 1
        fit = cells[: self._left + 1]
        self._left -= len(fit) - 1
        rest = cells[len(fit) :]
        return " ".join([self._delimiter.join(fit), *rest])

    def finish(self) -> str:
        return self.feed("", final=True) + self._delimiter * self._left


class _Quoted:
    """csv. A cell is kept as it stands within quotes: its own are doubled, what is escaped stays so."""

    def __init__(self, delimiter: str, width: int, escape: str) -> None:
        self._delimiter, self._left, self._escape = delimiter, width - 1, escape
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
                continue
            inside = self._state == "quoted"
            found = data.find('"' if inside else self._delimiter, at)
            stop = len(data) if found < 0 else found
            sign = data.find(self._escape, at, stop) if self._escape else -1
            if sign >= 0:
                self._add(data[at:sign])
                if sign + 1 == len(data) and not final:
                    self._rest = self._escape
                    break
                self._add(data[sign : sign + 2] if sign + 1 < len(data) else self._escape * 2, encoded=True)
                at = sign + 2
            elif found < 0:
                self._add(data[at:])
                break
            elif inside:
                self._add(data[at:found])
                if found + 1 == len(data) and not final:
                    self._rest = '"'
                    break
                doubled = data.startswith('"', found + 1)
                if doubled:
                    self._add('"')
                self._state, at = ("quoted", found + 2) if doubled else ("plain", found + 1)
            else:
                self._add(data[at:found])
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

    def _add(self, text: str, *, encoded: bool = False) -> None:
        text = text if encoded else text.replace('"', '""')
        if self._opened:
            self._out.append(text)
            return
        self._cell.append(text)
        self._size += len(text)
        if self._size > HELD:
            self._out.append('"' + "".join(self._cell))
            self._opened = True

    def _end(self) -> None:
        value = "".join(self._cell)
        if self._opened:
            self._out.append('"')
        else:
            self._out.append(f'"{value}"' if self._special.search(value) else value)
        self._cell, self._size, self._opened = [], 0, False
