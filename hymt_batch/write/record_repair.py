"""A csv or tsv record that does not fit its file's columns, written so that it does: in pieces, never held.

Cells keep their values. Missing cells are empty; what is left over stands in the last one, with its delimiters (in tsv,
which cannot quote them, with spaces). Quotes are closed, and quoted anew where a cell needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_BUFFERED_CHARS = 1 << 16  # characters of a cell that are looked at before it is written; a longer one is quoted


def repair_record(
    pieces: Iterable[str], delimiter: str, num_cells: int, *, is_csv: bool, escape: str = ""
) -> Iterator[str]:
    """A record without its line ending, with `width` cells.

    Args:
        pieces: The record as it came, without its line ending.
        delimiter: One character.
        width: Cells of the result, at least 1.
        quotes: Whether it is csv, where a quote at the start of a cell counts.
        escape: The character that makes what follows it a part of its cell; "" for none.
    """
    record = _CsvRepair(delimiter, num_cells, escape) if is_csv else _TsvRepair(delimiter, num_cells, escape)
    for piece in pieces:
        yield record.feed(piece)
    yield record.finish()


class _TsvRepair:
    """tsv."""

    def __init__(self, delimiter: str, num_cells: int, escape: str) -> None:
        self._delimiter, self._num_cells_left, self._escape, self._pending = delimiter, num_cells - 1, escape, ""
        pair = rf"|{re.escape(escape)}[\s\S]" if escape else ""
        self._cell = re.compile(rf"(?:[^{re.escape(delimiter + escape)}]{pair})*+")

    def feed(self, piece: str, final: bool = False) -> str:
        data, at = self._pending + piece, 0
        self._pending = ""
        cells: list[str] = []
        while True:
            stop = self._cell.match(data, at).end()  # type: ignore[union-attr]
            if data[stop:] == self._escape != "":  # it stands last: what it escapes comes, or nothing does
                cells.append(data[at:stop] + self._escape * 2 if final else data[at:stop])
                self._pending = "" if final else self._escape
                break
            cells.append(data[at:stop])
            if stop == len(data):
                break
            at = stop + 1
        fit = cells[: self._num_cells_left + 1]
        self._num_cells_left -= len(fit) - 1
        rest = cells[len(fit) :]
        return " ".join([self._delimiter.join(fit), *rest])

    def finish(self) -> str:
        return self.feed("", final=True) + self._delimiter * self._num_cells_left


class _CsvRepair:
    """csv. A cell is kept as it stands within quotes: its own are doubled, what is escaped stays so."""

    def __init__(self, delimiter: str, num_cells: int, escape: str) -> None:
        self._delimiter, self._num_cells_left, self._escape = delimiter, num_cells - 1, escape
        self._needs_quoting = re.compile(f'["\r\n{re.escape(delimiter)}]')
        self._state, self._pending = "start", ""
        self._out: list[str] = []
        self._cell: list[str] = []
        self._cell_chars, self._cell_started = 0, False  # of the cell; whether its beginning is written

    def feed(self, piece: str, final: bool = False) -> str:
        data, at = self._pending + piece, 0
        self._pending = ""
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
                    self._pending = self._escape
                    break
                self._add(data[sign : sign + 2] if sign + 1 < len(data) else self._escape * 2, encoded=True)
                at = sign + 2
            elif found < 0:
                self._add(data[at:])
                break
            elif inside:
                self._add(data[at:found])
                if found + 1 == len(data) and not final:
                    self._pending = '"'
                    break
                doubled = data.startswith('"', found + 1)
                if doubled:
                    self._add('"')
                self._state, at = ("quoted", found + 2) if doubled else ("plain", found + 1)
            else:
                self._add(data[at:found])
                if self._num_cells_left:
                    self._end_cell()
                    self._out.append(self._delimiter)
                    self._num_cells_left -= 1
                else:
                    self._add(self._delimiter)
                self._state, at = "start", found + len(self._delimiter)
        out, self._out = "".join(self._out), []
        return out

    def finish(self) -> str:
        out = self.feed("", final=True)
        self._end_cell()
        last, self._out = "".join(self._out), []
        return out + last + self._delimiter * self._num_cells_left

    def _add(self, text: str, *, encoded: bool = False) -> None:
        text = text if encoded else text.replace('"', '""')
        if self._cell_started:
            self._out.append(text)
            return
        self._cell.append(text)
        self._cell_chars += len(text)
        if self._cell_chars > MAX_BUFFERED_CHARS:
            self._out.append('"' + "".join(self._cell))
            self._cell_started = True

    def _end_cell(self) -> None:
        value = "".join(self._cell)
        if self._cell_started:
            self._out.append('"')
        else:
            self._out.append(f'"{value}"' if self._needs_quoting.search(value) else value)
        self._cell, self._cell_chars, self._cell_started = [], 0, False
