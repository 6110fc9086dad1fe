"""Read one csv or tsv record: its end, its cells and its errors.

A quote that is never closed must not swallow the rest of the file. A record of several lines is accepted only if its
quotes are valid and it has as many fields as the header; otherwise its first line alone becomes an error row. A record
over source.max_row_bytes is one error row (plan 1: only its first line is). Escaped quotes are read only with
source.escape; without that setting, a record that needs it is an error row (see csv_escape.py).
"""

from __future__ import annotations

from collections.abc import Callable

from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.delimited.csv_escape import (
    CLOSED,
    ESCAPE_HINT,
    QUOTED,
    UNQUOTED,
    EscapeParser,
    get_escape_parser,
    needs_escape,
)
from hymt_batch.formats.delimited.dialect import Dialect
from hymt_batch.formats.delimited.record_scan import RecordScan
from hymt_batch.formats.long_rows import PIECE_BYTES, LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import ReadContext, RowError, not_utf8_message, read_line, too_long_message
from hymt_batch.records import Status, line_ending

Record = tuple[bytes, bytes, list[str], RowError | None, LongRow | None]
"""A record's bytes, its digest, its cells ([] for a blank line or a record over the limit), its error, and a
LongRow for one over the limit."""


class RecordReader:
    """Reads the records of a file one after the other.

    Args:
        stream: The input, positioned at the start of a record.
        config: The settings.
        context: Provides the initial digest of a row, and the hasher that gets the bytes.
        dialect: csv or tsv.
        num_fields: Number of columns of the file; None if it is not yet known.
        scan: Creates a scan for a record over the limit; None if its fields are not needed.
    """

    def __init__(
        self,
        stream: ByteStream,
        config: ReadOptions,
        context: ReadContext,
        dialect: Dialect,
        num_fields: int | None,
        scan: Callable[[], RecordScan] | None = None,
    ) -> None:
        self._stream, self._context, self._num_fields, self._scan = stream, context, num_fields, scan
        self._limit, self._quoted = config.max_row_bytes, dialect.quoted
        self._delimiter = config.delimiter or dialect.delimiter
        self._delimiter_bytes = self._delimiter.encode()
        self._escape_parser = get_escape_parser(self._delimiter, dialect.quoted, config.escape)
        has_open_records = dialect.quoted or self._escape_parser is not None
        self._continues_long_records = has_open_records and context.plan_version > 1 and scan is not None
        # plan 1 does not check for escaped quotes: such rows were translated as read
        checked = dialect.quoted and context.plan_version > 1 and num_fields is not None
        self._checks_escapes = checked and self._escape_parser is None

    def read(self) -> Record:
        """Read one record."""
        raw, digest, long = read_line(self._stream, self._limit, self._context, self._scan)
        if long is not None:
            if self._continues_long_records and isinstance(long.scan, RecordScan) and long.scan.is_open:
                raw, digest = self._continue_long_record(long) or (raw, digest)
            return raw, digest, [], RowError(too_long_message(self._limit), Status.TOO_LONG), long
        content = raw[: len(raw) - len(line_ending(raw))]
        if not content:
            return raw, digest, [], None, None
        if self._escape_parser is not None or (self._quoted and b'"' in content):
            open_field, _ = _scan_quotes(raw, CLOSED, self._delimiter_bytes, self._escape_parser)
            if open_field:
                return self._read_open_record(raw, digest, content, open_field)
            if self._checks_escapes and needs_escape(content, self._delimiter):
                problem = f"has quotes after backslashes inside a quoted field. {ESCAPE_HINT}"
                return self._rejected_record(raw, digest, content, problem, needs_escape=True)
        return self._record(raw, digest, content)

    def _record(self, raw: bytes, digest: bytes, content: bytes) -> Record:
        """Return a record whose end is known."""
        text, row_error = _decode(content)
        cells = split_cells(text, self._delimiter, self._escape_parser, self._quoted and '"' in text)
        num_fields = self._num_fields
        if row_error is None and num_fields is not None and len(cells) != num_fields:
            row_error = RowError(
                f"has {len(cells)} fields, but the file has {num_fields} columns. Fix or remove the row."
            )
        return raw, digest, cells, row_error, None

    def _rejected_record(
        self, raw: bytes, digest: bytes, content: bytes, problem: str, *, needs_escape: bool
    ) -> Record:
        """Return the first line of a record as a row with an error."""
        text, row_error = _decode(content)
        cells = split_cells(text, self._delimiter, self._escape_parser)
        return raw, digest, cells, row_error or RowError(problem, needs_escape=needs_escape), None

    def _read_open_record(self, raw: bytes, digest: bytes, content: bytes, open_field: int) -> Record:
        """Read the rest of a record whose first line leaves a field open."""
        context, lines = self._context, list[bytes]()
        more, over_limit = self._read_continuation(raw, lines, open_field)
        if over_limit and self._continues_long_records and self._scan is not None:
            hashed = context.digest.copy()
            hashed.update(raw)
            long = LongRow(context.rereader, self._stream.position - len(raw), raw, self._scan(), hashed)
            if ending_and_digest := self._continue_long_record(long):
                return *ending_and_digest, [], RowError(too_long_message(self._limit), Status.TOO_LONG), long
        if more is None or self._is_wrong(raw + more, content):
            if more is not None:
                self._stream.push_back(_split_lines(more))
            problem = "opens a quote that is not closed correctly. Close it, or double the quotes inside the field."
            if open_field == UNQUOTED:
                problem = "ends with an escaped line break, but the next lines do not complete the row. Fix the row."
            has_escapes = self._checks_escapes and any(b'\\"' in line for line in (raw, *lines))
            if has_escapes:
                problem = f"opens a quote that is not closed correctly, and has quotes after backslashes. {ESCAPE_HINT}"
            return self._rejected_record(raw, digest, content, problem, needs_escape=has_escapes)
        if context.hasher is not None:
            context.hasher.add(more)
        raw += more
        hashed = context.digest.copy()
        hashed.update(raw)
        return self._record(raw, hashed.digest(), raw[: len(raw) - len(line_ending(raw))])

    def _is_wrong(self, record: bytes, first_line: bytes) -> bool:
        """Return whether a record of several lines has a wrong number of cells, or needs source.escape."""
        cells = _decode_cells(record, self._delimiter, self._escape_parser)
        if cells is not None and self._num_fields is not None and len(cells) != self._num_fields:
            return True
        if self._context.plan_version > 2:  # earlier plans looked at the line ending as if it were a part of the field
            record = record[: len(record) - len(line_ending(record))]
        return self._checks_escapes and needs_escape(record, self._delimiter, first_line)

    def _read_continuation(self, first_line: bytes, lines: list[bytes], open_field: int) -> tuple[bytes | None, bool]:
        """Read lines up to the end of the open field.

        Args:
            first_line: The line that leaves a field open.
            lines: Filled with the lines that are read; used for error messages.
            open_field: QUOTED or UNQUOTED.

        Returns:
            The lines as one string of bytes, or None if the field does not end correctly; the lines are then pushed
            back. Second, True if the reason is that the record exceeds the limit.
        """
        stream, limit = self._stream, self._limit
        size, clean = len(first_line), True
        while open_field and clean:
            line = stream.readline(limit + 2 - size) if size < limit else b""
            if line:
                lines.append(line)
                size += len(line)
            if not line and open_field == UNQUOTED and stream.at_end():
                break  # the escaped line break is the last byte of the file
            if not line or size - (len(line_ending(line)) if self._context.plan_version > 1 else 0) > limit:
                stream.push_back(lines)
                return None, size >= limit and not stream.at_end()
            open_field, clean = _scan_quotes(line, open_field, self._delimiter_bytes, self._escape_parser)
        if not clean:
            stream.push_back(lines)
            return None, False
        return b"".join(lines), False

    def _continue_long_record(self, row: LongRow) -> tuple[bytes, bytes] | None:
        """Read the rest of a record over the limit whose first line leaves a quote open, in bounded memory.

        Args:
            row: The first line; extended to the whole record.

        Returns:
            The line ending and the digest of the record. None if its quotes do not close correctly or it has a wrong
            number of cells; the stream is then after the first line, and `row` is unchanged.
        """
        stream, context = self._stream, self._context
        position, size, first_scan, digest = stream.position, row.size, row.scan, row.digest.copy()
        assert isinstance(first_scan, RecordScan)
        row.scan = scan = first_scan.copy()
        scan.well_quoted = True
        hasher = context.hasher.copy() if context.hasher is not None else None
        tail = b""
        while scan.well_quoted and (line := stream.readline(PIECE_BYTES)):
            row.feed(line)
            if hasher is not None:
                hasher.add(line)
            tail = (tail + line)[-2:]
            if line.endswith(b"\n") and not scan.is_open:
                break
        row.end_at(stream.position - len(line_ending(tail)))
        if scan.well_quoted and not scan.is_open and scan.num_cells == self._num_fields:
            if hasher is not None and context.hasher is not None:
                context.hasher.assign(hasher)
            return line_ending(tail), row.digest.digest()
        stream.seek(position)
        row.scan, row.digest, row.size = first_scan, digest, size
        return None


def _decode(content: bytes) -> tuple[str, RowError | None]:
    """Decode a record, with U+FFFD in place of invalid UTF-8, and return the error for such bytes."""
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        return content.decode("utf-8", "replace"), RowError(not_utf8_message(error), Status.BAD_ENCODING)


def _decode_cells(raw: bytes, delimiter: str, escape_parser: EscapeParser | None) -> list[str] | None:
    """Split a record into cells to count them; None if it is not UTF-8, which is reported elsewhere."""
    try:
        return split_cells(raw[: len(raw) - len(line_ending(raw))].decode(), delimiter, escape_parser)
    except UnicodeDecodeError:
        return None


def _split_lines(data: bytes) -> list[bytes]:
    *lines, torn = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([torn] if torn else [])


def _scan_quotes(
    line: bytes, open_field: int, delimiter: bytes, escape_parser: EscapeParser | None
) -> tuple[int, bool]:
    """Scan the quotes of one line; return what is open at its end, and whether each quote closes before a delimiter."""
    if escape_parser is not None:
        return escape_parser.scan_line(line, open_field)
    clean, at = True, 0
    while True:
        if open_field:
            at = line.find(b'"', at)
            if at < 0:
                return QUOTED, clean
            if line[at + 1 : at + 2] == b'"':
                at += 2
                continue
            at += 1
            open_field = CLOSED
            if line[at : at + 2] not in (b"", b"\n", b"\r\n") and not line.startswith(delimiter, at):
                clean = False
        elif line.startswith(b'"', at):
            open_field = QUOTED
            at += 1
            continue
        at = line.find(delimiter, at)
        if at < 0:
            return CLOSED, clean
        at += len(delimiter)


def split_cells(text: str, delimiter: str, escape_parser: EscapeParser | None, quoted: bool = True) -> list[str]:
    """Split one record into cells; a quote is special only at the start of a cell, as in the standard library's csv."""
    if escape_parser is not None:
        return escape_parser.split_cells(text)
    if not quoted:
        return text.split(delimiter)
    cells: list[str] = []
    at = 0
    while True:
        quoted_text = ""
        if text.startswith('"', at):
            close = at + 1
            while True:
                close = text.find('"', close)
                if close < 0 or not text.startswith('"', close + 1):
                    break
                close += 2
            close = len(text) if close < 0 else close
            quoted_text = text[at + 1 : close].replace('""', '"')
            at = min(close + 1, len(text))
        stop = text.find(delimiter, at)
        cells.append(quoted_text + (text[at:] if stop < 0 else text[at:stop]))
        if stop < 0:
            return cells
        at = stop + len(delimiter)
