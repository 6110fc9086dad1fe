r"""csv and tsv whose quotes, delimiters and line breaks are escaped (`source.escape`), and how to tell such a file.

The escape makes the next character a part of its field, inside of quotes and outside, where that character is the
escape itself, the delimiter, a line break or (csv) a quote; before any other it is a character as others are, so that
`C:\new` stays what it is. Doubled quotes mean a quote too. So write MySQL, Spark, Hive and Python's csv.

Without the setting, quotes are doubled (RFC 4180), and `"C:\dir\",next` are two fields. That one and `"say \"hi\""`
cannot both be right; a record that is in order by doubled quotes is read so. One that is not is taken for escaped where
a quote behind a backslash closes a field in the middle of its text, or where the record is in order with backslashes
and one of its quoted fields has an escaped quote.
"""

from __future__ import annotations

import re
from functools import cache

CLOSED, QUOTED, UNQUOTED = 0, 1, 2
"""What a line leaves open: nothing, a quoted field, or an unquoted one, whose line break is escaped."""

ESCAPE_HINT = (
    "If backslashes escape quotes in this file, set source.escape=backslash; else double the quotes inside of fields."
)


class EscapeParser:
    """How fields are told apart where an escape may stand before their delimiters.

    Args:
        delimiter: Between two fields.
        quoted: Fields may be quoted (csv).
        escape: One character.
    """

    def __init__(self, delimiter: str, quoted: bool, escape: str) -> None:
        mark, sign = re.escape(delimiter.encode()), re.escape(escape.encode())
        pair = rb"%s(?:\r\n|[\s\S])?" % sign
        self._delimiter, self._quoted, self._escape, self._delimiter_bytes = (
            delimiter,
            quoted,
            escape,
            delimiter.encode(),
        )
        self._inside = re.compile(rb'(?:[^"%s]|%s|"")*+' % (sign, pair))
        self._outside = re.compile(rb"(?:%s|(?!%s)[^%s\r\n]|\r(?!\n))*+" % (pair, mark, sign))
        text_mark, text_sign = re.escape(delimiter), re.escape(escape)
        text_pair = rf"{text_sign}(?:\r\n|[\s\S])?"
        self._text_inside = re.compile(rf'(?:[^"{text_sign}]|{text_pair}|"")*+')
        self._text_outside = re.compile(rf"(?:{text_pair}|(?!{text_mark})[^{text_sign}])*+")
        quote = '"' if quoted else ""
        self._escaped = re.compile(rf"{text_sign}(\r\n|[\r\n{quote}{text_sign}]|{text_mark})")
        self._escaped_inside = re.compile(rf'{text_sign}(\r\n|[\r\n"{text_sign}]|{text_mark})|"(")')

    def scan_line(self, line: bytes, open_field: int) -> tuple[int, bool]:
        """Follow the fields through one line: what is open at its end, and did each quote close before a delimiter?"""
        at, clean, begins = 0, True, not open_field
        while True:
            if open_field == QUOTED or (begins and self._quoted and line.startswith(b'"', at)):
                at = _match_end(self._inside, line, at + (open_field != QUOTED))
                if at >= len(line):
                    return QUOTED, clean
                at += 1
                clean &= line[at : at + 2] in (b"", b"\n", b"\r\n") or line.startswith(self._delimiter_bytes, at)
            open_field, begins = CLOSED, True
            at = _match_end(self._outside, line, at)
            if not line.startswith(self._delimiter_bytes, at):
                return UNQUOTED if at == len(line) and line.endswith(b"\n") else CLOSED, clean
            at += len(self._delimiter_bytes)

    def split_cells(self, text: str) -> list[str]:
        """Cells of one record, without the escapes."""
        cells: list[str] = []
        at = 0
        while True:
            cell = ""
            if self._quoted and text.startswith('"', at):
                stop = _match_end(self._text_inside, text, at + 1)
                cell = self._escaped_inside.sub(lambda found: found[1] or found[2], text[at + 1 : stop])
                at = min(stop + 1, len(text))
            stop = _match_end(self._text_outside, text, at)
            cells.append(cell + self._escaped.sub(lambda found: found[1], text[at:stop]))
            if stop >= len(text):
                return cells
            at = stop + len(self._delimiter)


@cache
def get_escape_parser(delimiter: str, quoted: bool, escape: str | None) -> EscapeParser | None:
    """How a file with these settings escapes; None where it does not."""
    return EscapeParser(delimiter, quoted, escape) if escape else None


def needs_escape(record: bytes, delimiter: str, first_line: bytes = b"") -> bool:
    """Whether a csv record, read with doubled quotes, is out of order because a backslash escapes its quotes.

    Args:
        record: Without its line ending.
        delimiter: Between two fields.
        first_line: Of a record that its quotes make several lines.
    """
    if b'\\"' not in record:
        return False
    mark = delimiter.encode()
    doubled, field = _field_patterns(mark)
    if _split_fields(doubled, record, mark) is not None:
        return False
    fields = _split_fields(field, first_line or record, mark)
    return any(map(_ESCAPED_QUOTE.match, fields or ())) or _closes_early(record, mark)


_ESCAPED_QUOTE = re.compile(rb'"(?:[^"\\]|""|\\[^"])*+\\"')
_DOUBLED = re.compile(rb'(?:[^"]|"")*+')


@cache
def _field_patterns(delimiter: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A field in order with doubled quotes, and one with backslashes."""
    stop = re.escape(delimiter)
    doubled = rb'"(?:[^"]|"")*+"|(?:(?!%s)[^"])*+' % stop
    escaped = rb'"(?:[^"\\]|\\[\s\S]|"")*+"|(?:\\[\s\S]|(?!%s)[^"\\])*+' % stop
    return re.compile(doubled), re.compile(escaped)


def _split_fields(field: re.Pattern[bytes], record: bytes, delimiter: bytes) -> list[bytes] | None:
    """The fields of a record; None where one of them is not in order."""
    found, at = [], 0
    while True:
        end = _match_end(field, record, at)
        found.append(record[at:end])
        if end == len(record):
            return found
        if not record.startswith(delimiter, end):
            return None
        at = end + len(delimiter)


def _closes_early(record: bytes, delimiter: bytes) -> bool:
    """Whether a quote behind a backslash closes a field in the middle of its text."""
    at = 0
    while True:
        if record.startswith(b'"', at):
            close = _match_end(_DOUBLED, record, at + 1)
            text, at = record[at + 1 : close], close + 1
            slashes = len(text) - len(text.rstrip(b"\\"))
            if slashes % 2 and record[at : at + 1].strip(b"\r\n") and not record.startswith(delimiter, at):
                return True
        at = record.find(delimiter, at)
        if at < 0:
            return False
        at += len(delimiter)


def _match_end(pattern: re.Pattern[bytes] | re.Pattern[str], text: bytes | str, at: int) -> int:
    found = pattern.match(text, at)  # type: ignore[arg-type]
    assert found is not None  # it may match nothing
    return found.end()
