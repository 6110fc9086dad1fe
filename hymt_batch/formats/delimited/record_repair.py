"""Repair a csv or tsv record that does not fit its file's columns, piece by piece, without holding it in memory.

Cells keep their values. Missing cells are added as empty ones. Surplus cells go into the last cell, together with their
delimiters (in tsv, which has no quoting, with spaces instead). Open quotes are closed, and quotes are added where
needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

MAX_BUFFERED_CHARS = 1 << 16  # buffered to decide whether a cell needs quotes; a longer cell gets quotes


def repair_record(
    pieces: Iterable[str], delimiter: str, num_cells: int, *, is_csv: bool, escape: str = ""
) -> Iterator[str]:
    """Rewrite a record so that it has exactly `num_cells` cells.

    Args:
        pieces: The original record, without its line ending.
        delimiter: One character.
        num_cells: Cells of the result, at least 1.
        is_csv: True for csv, where a quote at the start of a cell opens a quoted cell.
        escape: Character that makes the next character part of the cell; "" for none.

    Yields:
        The pieces of the repaired record, without its line ending.
    """
    record = _CsvRepair(delimiter, num_cells, escape) if is_csv else _TsvRepair(delimiter, num_cells, escape)
    for piece in pieces:
        yield record.feed(piece)
    yield record.finish()


class _TsvRepair:
    """Repairs a tsv record."""

    def __init__(self, delimiter: str, num_cells: int, escape: str) -> None:
        self._delimiter, self._num_cells_left, self._escape, self._pending = delimiter, num_cells - 1, escape, ""
        pair = rf"|{re.escape(escape)}[\s\S]" if escape else ""
        self._cell = re.compile(rf"(?:[^{re.escape(delimiter + escape)}]{pair})*+")

    def feed(self, piece: str, final: bool = False) -> str:
        data, start = self._pending + piece, 0
        self._pending = ""
        cells: list[str] = []
        while True:
            end = self._cell.match(data, start).end()  # type: ignore[union-attr]
            if data[end:] == self._escape != "":  # an escape at the end of the piece
                cells.append(data[start:end] + self._escape * 2 if final else data[start:end])
                self._pending = "" if final else self._escape
                break
            cells.append(data[start:end])
            if end == len(data):
                break
            start = end + 1
        fitting_cells = cells[: self._num_cells_left + 1]
        self._num_cells_left -= len(fitting_cells) - 1
        surplus_cells = cells[len(fitting_cells) :]
        return " ".join([self._delimiter.join(fitting_cells), *surplus_cells])

    def finish(self) -> str:
        return self.feed("", final=True) + self._delimiter * self._num_cells_left


class _CsvRepair:
    """Repairs a csv record. Cells are kept in their quoted form: inner quotes doubled, escapes unchanged."""

    def __init__(self, delimiter: str, num_cells: int, escape: str) -> None:
        self._delimiter, self._num_cells_left, self._escape = delimiter, num_cells - 1, escape
        self._needs_quoting = re.compile(f'["\r\n{re.escape(delimiter)}]')
        self._state, self._pending = "start", ""
        self._out: list[str] = []
        self._cell: list[str] = []
        self._cell_chars, self._cell_started = 0, False  # length so far; True once partly written

    def feed(self, piece: str, final: bool = False) -> str:
        data, at = self._pending + piece, 0
        self._pending = ""
        while at < len(data):
            if self._state == "start":
                is_quote = data.startswith('"', at)
                self._state, at = ("quoted", at + 1) if is_quote else ("plain", at)
                continue
            is_quoted = self._state == "quoted"
            end_mark = data.find('"' if is_quoted else self._delimiter, at)
            stop = len(data) if end_mark < 0 else end_mark
            escape_at = data.find(self._escape, at, stop) if self._escape else -1
            if escape_at >= 0:
                self._add(data[at:escape_at])
                if escape_at + 1 == len(data) and not final:
                    self._pending = self._escape
                    break
                self._add(
                    data[escape_at : escape_at + 2] if escape_at + 1 < len(data) else self._escape * 2, encoded=True
                )
                at = escape_at + 2
            elif end_mark < 0:
                self._add(data[at:])
                break
            elif is_quoted:
                self._add(data[at:end_mark])
                if end_mark + 1 == len(data) and not final:
                    self._pending = '"'
                    break
                doubled = data.startswith('"', end_mark + 1)
                if doubled:
                    self._add('"')
                self._state, at = ("quoted", end_mark + 2) if doubled else ("plain", end_mark + 1)
            else:
                self._add(data[at:end_mark])
                if self._num_cells_left:
                    self._end_cell()
                    self._out.append(self._delimiter)
                    self._num_cells_left -= 1
                else:
                    self._add(self._delimiter)
                self._state, at = "start", end_mark + len(self._delimiter)
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
