"""csv and tsv output: the user's records, byte for byte, with two columns more.

From the same format, the new columns are put before the record's line ending and nothing else of it changes. A record
that could not be read, or that has the wrong number of fields, becomes empty fields, so that every reader sees one
record a row and the right number of columns. Blank lines stay as they are. Without a header none is written.
From other formats, all columns: see `columns.columns`. A value that is no text becomes its JSON, null an empty field.

csv quotes what needs it and may hold line breaks. tsv has no quoting: tabs and line breaks in a translation, and in
converted fields, become spaces; of the latter, one warning a file tells. With source.escape, the columns that are added
to the input's own format are escaped as the input is. A translation that begins like a spreadsheet formula (`=`, `+`,
`-`, `@`) is written as it is: this is data, and a guard would change it; import the column as text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence

from hymt_batch.records import Document, Input, Preamble, Row, ending
from hymt_batch.write.cell import BLANK, Fields, cell, dumps, meta, one_line, translation
from hymt_batch.write.columns import Column
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
        self._rel, self._added = input.rel, (translation_field, meta_field)
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
        """All columns, each with the row's own value where it has one; a jsonl row may have one for the added too."""
        values = self._fields.of(document) or {}
        texts = [cell(values.get(column.field)) or "" for column in self._columns]
        if not self._quotes:
            self._num_flattened += sum(self._flat(text) != text for text in texts)
        if texts:
            yield self._encode(texts)
        for name, added in zip(self._added, (self._text, self._meta), strict=True):
            yield self._encode([cell(values[name]) or ""]) if name in values else added(document, row)

    def _text(self, document: Document, row: Row) -> bytes:
        return self._encode([translation(document, row, self._on_error)])

    def _meta(self, document: Document, row: Row) -> bytes:
        text = dumps(meta(document, row), compact=True)
        if self._quotes:
            return self._encode([text])
        # in this JSON the delimiter can stand only inside strings, where an escape reads the same; see formats.check
        text = text.replace(self._delimiter, f"\\u{ord(self._delimiter):04x}")
        return (text.replace(self._escape, self._escape * 2) if self._escape else text).encode()

    def _encode(self, cells: Sequence[str]) -> bytes:
        escape = self._escape
        if self._quotes:
            done = [self._quoted(text) if self._special.search(text) else text for text in cells]
        else:
            done = [self._flat(text.replace(escape, escape * 2) if escape else text) for text in cells]
        return self._delimiter.join(done).encode("utf-8", "replace")

    def _quoted(self, text: str) -> str:
        if self._escape:
            text = text.replace(self._escape, self._escape * 2)
        return '"' + text.replace('"', (self._escape or '"') + '"') + '"'

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
