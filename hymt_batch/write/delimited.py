"""csv and tsv output: the user's records, byte for byte, with two columns more.

From the same format, the new columns are put before the record's line ending and nothing else of it changes. A record
that is not sound, or that has the wrong number of fields, keeps what it has in the right number of columns, so that
every reader sees one record a row: see `refit`. Bytes that are no UTF-8 become U+FFFD. Blank lines stay as they are.
Without a header none is written. A record over the byte limit is copied from the input in pieces.
From other formats, all columns: see `columns.columns`. A value that is no text becomes its JSON, null an empty field.

csv quotes what needs it and may hold line breaks. tsv has no quoting: tabs and line breaks in a translation, and in
converted fields, become spaces; of the latter, one warning a file tells. With source.escape, the columns that are added
to the input's own format are escaped as the input is. A translation that begins like a spreadsheet formula (`=`, `+`,
`-`, `@`) is written as it is: this is data, and a guard would change it; import the column as text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence

from hymt_batch.records import ERROR_STATUSES, Document, Input, Preamble, Row, Status, ending
from hymt_batch.write.cell import BLANK, Fields, cell, decoded, dumps, mended, meta, one_line, translation
from hymt_batch.write.columns import Column
from hymt_batch.write.refit import refit
from hymt_batch.write.sink import Sink

log = logging.getLogger(__name__)

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
        columns: Of the output but the added two.
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
        columns: Sequence[Column],
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
        self._escape = preamble.escape if self._keeps else ""
        self._special = re.compile(f'["\r\n{re.escape(self._delimiter + self._escape)}]')
        self._sound = _sound(self._delimiter, self._escape)
        self._rel = input.rel
        self._fields, self._columns = Fields(input.format), columns
        self._num_values = len({column.field for column in columns})  # two columns of one name are one value
        self._num_flattened = 0  # fields that lost a tab or a line break
        added = self._encode([translation_field, meta_field])
        if self._keeps:
            header, end = _cut(preamble.header)
            sink.write(preamble.bom + (self._join(header, added) + end if preamble.header else b""))
        elif input.format not in DELIMITER or preamble.header:
            names = [self._encode([column.name for column in columns])] if columns else []
            sink.write(self._join(*names, added) + preamble.newline)

    def write(self, document: Document, row: Row) -> None:
        if self._keeps and document.long is not None:
            for piece in self._long(document, row):
                self._sink.write(piece)
            return
        if self._keeps and BLANK in row.flags and document.raw.isspace() and document.values is None:
            self._sink.write(document.raw)
            return
        end = ending(document.raw) if self._keeps else self._preamble.newline
        self._sink.write(self._join(*(self._kept if self._keeps else self._converted)(document, row)) + end)

    def close(self) -> None:
        self._sink.close()
        if self._num_flattened:
            log.warning(
                "%s: tabs and line breaks in %d fields became spaces, since tsv cannot hold them. Set write.format=csv"
                " or write.format=jsonl to keep them.",
                self._rel,
                self._num_flattened,
            )

    def _kept(self, document: Document, row: Row) -> tuple[bytes, ...]:
        """The user's fields as found, or written anew, or empty ones; and the added ones."""
        return self._record(document), self._text(document, row), self._meta(document, row)

    def _record(self, document: Document) -> bytes:
        if document.status in (Status.BAD_ROW, Status.BAD_ENCODING):
            return "".join(self._refit(decoded([_cut(document.raw)[0]]))).encode()
        values, width = self._fields.of(document), len(self._columns)
        if values is None or len(values) != self._num_values:
            return self._encode([""] * width)
        body, _ = _cut(document.raw)
        if self._escape and (len(body) - len(body.rstrip(self._escape.encode()))) % 2:
            body += self._escape.encode()  # the file's last byte: it would escape the delimiter that follows
        # a lone CR outside of quotes, or an open quote, would take the added columns out of the record
        if not self._quotes or (b'"' not in body and b"\r" not in body):
            return body
        if self._sound.fullmatch(body.decode("utf-8", "surrogateescape")):
            return body
        return self._encode([cell(value) or "" for value in values.values()] if len(values) == width else [""] * width)

    def _converted(self, document: Document, row: Row) -> Iterator[bytes]:
        """All columns, each with the row's own value where it has one."""
        values = self._fields.of(document) or {}
        texts = [cell(values.get(column.field)) or "" for column in self._columns]
        if not self._quotes:
            self._num_flattened += sum(self._flat(text) != text for text in texts)
        if texts:
            yield self._encode(texts)
        yield self._text(document, row)
        yield self._meta(document, row)

    def _text(self, document: Document, row: Row) -> bytes:
        return self._encode([translation(document, row, self._on_error)])

    def _refit(self, pieces: Iterable[str], width: int = 0) -> Iterator[str]:
        return refit(pieces, self._delimiter, width or len(self._columns), quotes=self._quotes, escape=self._escape)

    def _long(self, document: Document, row: Row) -> Iterator[bytes]:
        """One record that is not held."""
        long, mark = document.long, self._delimiter.encode()
        if long.scan.num_cells == len(self._columns) and (long.scan.sound or not (self._quotes or self._escape)):
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
        whole = long.scan.num_cells == len(self._columns) and not long.scan.is_open
        place = long.scan.cell(long.size) if whole else None
        if place is not None:
            pieces = decoded(long.pieces(*place, purpose="text"))
            yield from self._refit(pieces, 1) if self._quotes else map(one_line, pieces)
        elif self._quotes:
            yield '"'
            yield from (self._within(text) for text in decoded(long.pieces(purpose="text")))
            yield '"'
        else:
            yield from (self._bare(text) for text in decoded(long.pieces(purpose="text")))

    def _meta(self, document: Document, row: Row) -> bytes:
        text = dumps(meta(document, row), compact=True)
        if self._quotes:
            return self._encode([text])
        # in this JSON the delimiter can stand only inside strings, where an escape reads the same; see formats.check
        text = text.replace(self._delimiter, f"\\u{ord(self._delimiter):04x}")
        return (text.replace(self._escape, self._escape * 2) if self._escape else text).encode()

    def _encode(self, cells: Sequence[str]) -> bytes:
        if self._quotes:
            done = [f'"{self._within(text)}"' if self._special.search(text) else text for text in cells]
        else:
            done = [self._bare(text) for text in cells]
        return self._delimiter.join(done).encode("utf-8", "replace")

    def _within(self, text: str) -> str:
        """A text as it stands within quotes."""
        if self._escape:
            text = text.replace(self._escape, self._escape * 2)
        return text.replace('"', (self._escape or '"') + '"')

    def _bare(self, text: str) -> str:
        """A text where there are no quotes."""
        return self._flat(text.replace(self._escape, self._escape * 2) if self._escape else text)

    def _flat(self, text: str) -> str:
        return one_line(text).replace(self._delimiter, " ")

    def _join(self, *cells: bytes) -> bytes:
        return self._delimiter.encode().join(cells)


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    """A record and its line ending."""
    end = ending(raw)
    return raw[: len(raw) - len(end)], end


def _sound(delimiter: str, escape: str) -> re.Pattern[str]:
    """A csv record whose quotes are all closed; a quote counts at the start of a field only, as in Python's csv."""
    mark, escape = re.escape(delimiter), re.escape(escape)
    pair = rf"|{escape}(?:\r\n|[\s\S])" if escape else ""
    tail = rf"(?:[^{mark}{escape}\r\n]{pair})*+"
    field = rf'(?:"(?:[^"{escape}]|""{pair})*+"{tail}|(?!"){tail})'
    return re.compile(rf"{field}(?:{mark}{field})*+")
