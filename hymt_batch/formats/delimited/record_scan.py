"""Find the byte spans of the cells of one csv or tsv record in one forward pass, without holding it in memory.

For records that are too long. Offsets are bytes from the start of the record. Independent of files, statuses and
settings.
"""

from __future__ import annotations

import copy

from hymt_batch.formats.long_rows import MAX_SPANS


class RecordScan:
    """Scan the cells of one csv or tsv record, line by line; a quote is special only at the start of a cell.

    Args:
        delimiter: Bytes between two cells.
        column: Index of the cell whose span is needed.
        quoted: Cells may be quoted (csv); if False, only the delimiter is special (tsv).
        escape: Makes the character after it part of its cell; b"" for none.
    """

    def __init__(self, delimiter: bytes, column: int, quoted: bool = True, escape: bytes = b"") -> None:
        self.well_quoted = True  # each closing quote is followed by a delimiter or by the end of the record
        self.num_cells = 1
        self._delimiter, self._column, self._quoted, self._escape = delimiter, column, quoted, escape
        self._offset, self._pending = 0, b""
        self._state = "start"
        self._wanted_span = (0, -1)  # span of the cell in `column`; its end is -1 while it is the last cell
        self._spans: list[tuple[int, int]] = []  # spans of the complete cells, at most MAX_SPANS
        self._cell_start = 0  # offset of the last cell
        self._has_bare_return = self._has_dangling_escape = self._line_continues = False

    @property
    def is_open(self) -> bool:
        """True if a quote is open at the end of the last line, or the line break itself is escaped."""
        return self._state == "quoted" or self._line_continues

    @property
    def is_well_formed(self) -> bool:
        """True if no quote or escape is open and no lone carriage return is outside quotes."""
        return not (self.is_open or self._has_bare_return or self._has_dangling_escape)

    def copy(self) -> RecordScan:
        duplicate = copy.copy(self)
        duplicate._spans = [*self._spans]
        return duplicate

    def spans(self, size: int) -> list[tuple[int, int]]:
        """Return the spans of the cells of a record of `size` bytes."""
        return [*self._spans, (self._cell_start, size)]

    def feed(self, piece: bytes, final: bool = False) -> None:
        """Scan the next bytes: a line, or a piece of one."""
        data, at = self._pending + piece, 0
        size, done = len(data), final or piece.endswith(b"\n")
        need = 1 if done else max(2, len(self._delimiter))  # bytes after a quote that decide whether it closes the cell
        self._line_continues = self._line_continues and not piece
        while at < size:
            if self._state == "start":
                is_quote = self._quoted and data.startswith(b'"', at)
                self._state, at = ("quoted", at + 1) if is_quote else ("plain", at)
                continue
            in_quotes = self._state == "quoted"
            next_mark = data.find(b'"' if in_quotes else self._delimiter, at)
            escape_at = data.find(self._escape, at, size if next_mark < 0 else next_mark) if self._escape else -1
            if escape_at >= 0:
                if not in_quotes:
                    self._has_bare_return |= b"\r" in data[at:escape_at]
                after = self._skip_escaped(data, escape_at + len(self._escape), done)
                if after < 0:
                    at = escape_at
                    break
                self._line_continues = not in_quotes and after == size and data.endswith(b"\n")
                at = after
            elif in_quotes:
                at = size if next_mark < 0 else next_mark
                if next_mark < 0 or (size - at - 1 < need and not done):
                    break
                if data.startswith(b'"', at + 1):
                    at += 2
                    continue
                at += 1
                if data[at : at + 2] not in (b"", b"\n", b"\r\n") and not data.startswith(self._delimiter, at):
                    self.well_quoted = False
                self._state = "plain"
            else:
                safe_end = size if done else max(at, size - max(2, len(self._delimiter), len(self._escape)) + 1)
                stop = safe_end if next_mark < 0 else next_mark
                if b"\r" in data[at:stop].removesuffix(b"\r\n" if next_mark < 0 and done else b""):
                    self._has_bare_return = True
                if next_mark < 0:
                    at = stop
                    break
                self._end_cell(self._offset + next_mark)
                at, self._state = next_mark + len(self._delimiter), "start"
        self._offset, self._pending = self._offset + at, data[at:]

    def _skip_escaped(self, data: bytes, at: int, done: bool) -> int:
        """Return the offset after the character escaped at `at`; -1 if more bytes are needed to decide."""
        if data.startswith(b"\r\n", at):
            return at + 2
        if at < len(data) and (done or not data.startswith(b"\r", at) or at + 1 < len(data)):
            return at + 1
        if not done:
            return -1
        self._has_dangling_escape = True
        return len(data)

    def finish(self) -> None:
        """Mark the end of the record."""
        self.feed(b"", final=True)

    def _end_cell(self, at: int) -> None:
        """Handle the end of a cell and the start of the next."""
        if len(self._spans) < MAX_SPANS:
            self._spans.append((self._cell_start, at))
            self._cell_start = at + len(self._delimiter)
        if self._column == self.num_cells - 1:
            self._wanted_span = (self._wanted_span[0], at)
        self.num_cells += 1
        if self._column == self.num_cells - 1:
            self._wanted_span = (at + len(self._delimiter), -1)

    def cell_span(self, size: int) -> tuple[int, int] | None:
        """Return the span of the cell in `column` of a record of `size` bytes; None if it has no such cell."""
        if self._column >= self.num_cells:
            return None
        first, end = self._wanted_span
        return first, size if end < 0 else end
