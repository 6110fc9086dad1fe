"""csv and tsv output: the user's records, byte for byte, with two columns more.

From the same format, the new columns are put before the record's line ending and nothing else of it changes. A record
that is not sound, or that has the wrong number of fields, keeps what it has in the right number of columns, so that
every reader sees one record a row: see `refit`. Bytes that are no UTF-8 become U+FFFD. Blank lines stay as they are.
Without a header none is written. A record over the byte limit is copied from the input in pieces.
From other formats: all columns, if they are flat (csv, tsv, parquet); else the one column `text`.

csv quotes what needs it and may hold line breaks. tsv has no quoting: tabs and line breaks in a translation, and in
converted fields, become spaces. A translation that begins like a spreadsheet formula (`=`, `+`, `-`, `@`) is written as
it is: this is data, and a guard would change it; import the column as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from hymt_batch.records import ERROR_STATUSES, Document, Input, Preamble, Row, Status, ending
from hymt_batch.write.cell import BLANK, Fields, cell, decoded, dumps, mended, meta, one_line, translation
from hymt_batch.write.refit import refit
from hymt_batch.write.sink import Sink

DELIMITER = {"csv": ",", "tsv": "\t"}


def delimiter_of(input: Input, out_format: str, preamble: Preamble) -> str:
    """What stands between two fields of the output; only an output of the input's own format keeps the input's."""
    return (input.format == out_format and preamble.delimiter) or DELIMITER[out_format]


class DelimitedWriter:
    """One record a row.

    Args:
        input: The input file.
        out_format: csv or tsv.
        preamble: The input's.
        sink: Where the bytes go.
        names: Columns of the output but the added two; None for the one column `text`.
        translation_field: Name of the first added column.
        meta_field: Name of the second: compact JSON of id, status and flags.
        on_error: "empty" or "source".
    """

    def __init__(
        self,
        input: Input,
        out_format: str,
        preamble: Preamble,
        sink: Sink,
        *,
        names: Sequence[str] | None,
        translation_field: str,
        meta_field: str,
        on_error: str,
    ) -> None:
        self._sink = sink
        self._preamble = preamble
        self._on_error = on_error
        self._keeps = input.format == out_format
        self._quotes = out_format == "csv"
        self._delimiter = delimiter_of(input, out_format, preamble)
        self._special = re.compile(f'["\r\n{re.escape(self._delimiter)}]')
        self._sound = _sound(self._delimiter)
        self._fields = None if names is None else Fields()
        self._width = 1 if names is None else len(names)
        self._num_values = 1 if names is None else len(set(names))  # two columns of one name are one value
        self._empty = self._encode([""] * self._width)
        added = self._encode([translation_field, meta_field])
        if self._keeps:
            header, end = _cut(preamble.header)
            sink.write(preamble.bom + (self._join(header, added) + end if preamble.header else b""))
        elif input.format not in DELIMITER or preamble.header:
            sink.write(self._join(self._encode(["text"] if names is None else names), added) + preamble.newline)

    def write(self, document: Document, row: Row) -> None:
        if self._keeps and document.long is not None:
            for piece in self._long(document, row):
                self._sink.write(piece)
            return
        if self._keeps and BLANK in row.flags and document.raw.isspace() and document.values is None:
            self._sink.write(document.raw)
            return
        text = self._encode([translation(document, row, self._on_error)])
        end = ending(document.raw) if self._keeps else self._preamble.newline
        self._sink.write(self._join(self._record(document), text, self._meta(document, row)) + end)

    def close(self) -> None:
        self._sink.close()

    def _record(self, document: Document) -> bytes:
        """The user's fields: as found, or written anew, or empty ones."""
        if self._fields is None:
            return self._encode([document.text or ""])
        if self._keeps and document.status in (Status.BAD_ROW, Status.BAD_ENCODING):
            return "".join(self._refit(decoded([_cut(document.raw)[0]]))).encode()
        values = self._fields.of(document)
        if values is None or len(values) != self._num_values:
            return self._empty
        if self._keeps:
            body, _ = _cut(document.raw)
            # a lone CR outside of quotes, or an open quote, would take the added columns out of the record
            if not self._quotes or (b'"' not in body and b"\r" not in body) or self._sound.fullmatch(body.decode()):
                return body
        return self._empty if len(values) != self._width else self._encode([cell(value) for value in values.values()])

    def _refit(self, pieces: Iterable[str], width: int = 0) -> Iterator[str]:
        return refit(pieces, self._delimiter, width or self._width, quotes=self._quotes)

    def _long(self, document: Document, row: Row) -> Iterator[bytes]:
        """One record that is not held."""
        long, mark = document.long, self._delimiter.encode()
        if long.scan.num_cells == self._width and (long.scan.sound or not self._quotes):
            yield from mended(long.pieces())
        else:
            yield from (text.encode() for text in self._refit(decoded(long.pieces())))
        yield mark
        if row.status in ERROR_STATUSES and self._on_error == "source":
            yield from (text.encode() for text in self._long_text(document))
        else:
            yield self._encode(["" if row.status in ERROR_STATUSES else row.text])
        yield mark + self._meta(document, row) + ending(document.raw)

    def _long_text(self, document: Document) -> Iterator[str]:
        """The text of a record that is not held, or the record as it came where its text is not known, as one cell."""
        long = document.long
        place = long.scan.cell(long.size) if long.scan.num_cells == self._width and not long.scan.is_open else None
        if place is not None:
            pieces = decoded(long.pieces(*place, purpose="text"))
            yield from self._refit(pieces, 1) if self._quotes else map(one_line, pieces)
        elif self._quotes:
            yield '"'
            yield from (text.replace('"', '""') for text in decoded(long.pieces(purpose="text")))
            yield '"'
        else:
            whole = decoded(long.pieces(purpose="text"))
            yield from (one_line(text).replace(self._delimiter, " ") for text in whole)

    def _meta(self, document: Document, row: Row) -> bytes:
        text = dumps(meta(document, row), compact=True)
        if self._quotes:
            return self._encode([text])
        # in this JSON the delimiter can stand only inside strings, where an escape reads the same; see formats.check
        return text.replace(self._delimiter, f"\\u{ord(self._delimiter):04x}").encode()

    def _encode(self, cells: Sequence[str]) -> bytes:
        if self._quotes:
            done = ['"' + text.replace('"', '""') + '"' if self._special.search(text) else text for text in cells]
        else:
            done = [one_line(text).replace(self._delimiter, " ") for text in cells]
        return self._delimiter.join(done).encode("utf-8", "replace")

    def _join(self, *cells: bytes) -> bytes:
        return self._delimiter.encode().join(cells)


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    """A record and its line ending."""
    end = ending(raw)
    return raw[: len(raw) - len(end)], end


def _sound(delimiter: str) -> re.Pattern[str]:
    """A csv record whose quotes are all closed; a quote counts at the start of a field only, as in Python's csv."""
    mark = re.escape(delimiter)
    field = rf'(?:"(?:[^"]|"")*+"[^{mark}\r\n]*+|[^"{mark}\r\n][^{mark}\r\n]*+)?+'
    return re.compile(rf"{field}(?:{mark}{field})*+")
