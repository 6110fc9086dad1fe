r"""Read csv and tsv with escaped quotes, delimiters and line breaks (`source.escape`), and detect such files.

The escape character makes the next character part of its field, inside and outside quotes, if that character is the
escape itself, the delimiter, a line break or (csv) a quote. Before any other character it is an ordinary character, so
`C:\new` is unchanged. A doubled quote also stands for one quote. MySQL, Spark, Hive and Python's csv write such files.

Without the setting, quotes are doubled (RFC 4180), and `"C:\dir\",next` is two fields. No single rule reads both that
record and `"say \"hi\""` correctly, so a record that is valid with doubled quotes is read that way. An invalid record
is reported as escaped if a quote after a backslash closes a field in the middle of its text, or if the record is valid
with backslash escapes and one of its quoted fields has an escaped quote.
"""

from __future__ import annotations

import re
from functools import cache

CLOSED, QUOTED, UNQUOTED = 0, 1, 2
"""What is open at the end of a line: nothing, a quoted field, or an unquoted field whose line break is escaped."""

ESCAPE_HINT = (
    "If backslashes escape quotes in this file, set source.escape=backslash; otherwise double the quotes inside fields."
)


class EscapeParser:
    """Splits records into fields where an escape character may precede quotes, delimiters and line breaks.

    Args:
        delimiter: The character between two fields.
        quoted: Fields may be quoted (csv).
        escape: The escape character.
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
        """Scan one line.

        Args:
            line: The line with its ending.
            open_field: What was open at the end of the previous line: CLOSED, QUOTED or UNQUOTED.

        Returns:
            What is open at the end of the line, and whether each closing quote is followed by a delimiter or the end.
        """
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
        """Split one record into cells and remove the escapes."""
        cells: list[str] = []
        at = 0
        while True:
            cell = ""
            if self._quoted and text.startswith('"', at):
                stop = _match_end(self._text_inside, text, at + 1)
                cell = self._escaped_inside.sub(lambda match: match[1] or match[2], text[at + 1 : stop])
                at = min(stop + 1, len(text))
            stop = _match_end(self._text_outside, text, at)
            cells.append(cell + self._escaped.sub(lambda match: match[1], text[at:stop]))
            if stop >= len(text):
                return cells
            at = stop + len(self._delimiter)


@cache
def get_escape_parser(delimiter: str, quoted: bool, escape: str | None) -> EscapeParser | None:
    """Return the parser for files with these settings; None if they have no escape character."""
    return EscapeParser(delimiter, quoted, escape) if escape else None


def needs_escape(record: bytes, delimiter: str, first_line: bytes = b"") -> bool:
    """Return whether a csv record is invalid with doubled quotes because backslashes escape its quotes.

    Args:
        record: The record without its line ending.
        delimiter: The character between two fields.
        first_line: First line of a record whose quotes span several lines.
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
    """Return the patterns of a valid field with doubled quotes and of one with backslash escapes."""
    stop = re.escape(delimiter)
    doubled = rb'"(?:[^"]|"")*+"|(?:(?!%s)[^"])*+' % stop
    escaped = rb'"(?:[^"\\]|\\[\s\S]|"")*+"|(?:\\[\s\S]|(?!%s)[^"\\])*+' % stop
    return re.compile(doubled), re.compile(escaped)


def _split_fields(field: re.Pattern[bytes], record: bytes, delimiter: bytes) -> list[bytes] | None:
    """Return the fields of a record; None if one of them does not match the pattern `field`."""
    fields, at = [], 0
    while True:
        end = _match_end(field, record, at)
        fields.append(record[at:end])
        if end == len(record):
            return fields
        if not record.startswith(delimiter, end):
            return None
        at = end + len(delimiter)


def _closes_early(record: bytes, delimiter: bytes) -> bool:
    """Return whether a quote after a backslash closes a field in the middle of its text."""
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
    match = pattern.match(text, at)  # type: ignore[arg-type]
    assert match is not None  # every pattern also matches the empty string
    return match.end()
