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
from hymt_batch.formats.long_rows import LongRow
from hymt_batch.formats.options import ReadOptions
from hymt_batch.formats.row_reader import (
    ReadContext,
    RowError,
    continue_long_record,
    not_utf8_message,
    read_line,
    too_long_message,
)
from hymt_batch.formats.scan import RecordScan
from hymt_batch.records import Status, line_ending


def read_record(
    stream: ByteStream,
    config: ReadOptions,
    context: ReadContext,
    delimiter: str,
    quoted: bool,
    num_fields: int | None,
    scan: Callable[[], RecordScan] | None = None,
) -> tuple[bytes, bytes, list[str], RowError | None, LongRow | None]:
    """Read one record.

    Args:
        stream: The input, positioned at the start of the record.
        config: The settings.
        context: Provides the initial digest of a row, and the hasher that gets the bytes.
        delimiter: The character between two cells.
        quoted: Cells may be quoted (csv).
        num_fields: Number of columns of the file; None if it is not yet known.
        scan: Creates a scan for a record over the limit; None if its fields are not needed.

    Returns:
        The record's bytes, its digest, its cells ([] for a blank line or a record over the limit), its error, and a
        LongRow if it is over the limit.
    """
    limit = config.max_row_bytes
    delimiter_bytes, start = delimiter.encode(), stream.position
    escape_parser = get_escape_parser(delimiter, quoted, config.escape)
    can_continue = (quoted or escape_parser is not None) and context.plan_version > 1 and scan is not None
    row_error: RowError | None
    raw, digest, long = read_line(stream, limit, context, scan)
    if long is not None:
        if can_continue and isinstance(long.scan, RecordScan) and long.scan.is_open:
            raw, digest = continue_long_record(stream, long, context, num_fields) or (raw, digest)
        return raw, digest, [], RowError(too_long_message(limit), Status.TOO_LONG), long
    content = raw[: len(raw) - len(line_ending(raw))]
    if not content:
        return raw, digest, [], None, None
    # plan 1 does not check for escaped quotes: such rows were translated as read
    check_escapes = quoted and escape_parser is None and context.plan_version > 1 and num_fields is not None
    if escape_parser is not None or (quoted and b'"' in content):
        is_open, _ = _scan_quotes(raw, CLOSED, delimiter_bytes, escape_parser)
        if is_open:
            lines: list[bytes] = []
            more, over_limit = _read_continuation(
                stream, raw, limit, delimiter_bytes, lines, is_open, escape_parser, context.plan_version
            )
            cells = None if more is None else _decode_cells(raw + more, delimiter, escape_parser)
            if over_limit and can_continue and scan is not None:
                hashed = context.digest.copy()
                hashed.update(raw)
                long = LongRow(context.rereader, start, raw, scan(), hashed)
                if ending_and_digest := continue_long_record(stream, long, context, num_fields):
                    return *ending_and_digest, [], RowError(too_long_message(limit), Status.TOO_LONG), long
            ragged = cells is not None and num_fields is not None and len(cells) != num_fields
            if more is None or ragged or (check_escapes and needs_escape(raw + more, delimiter, content)):
                if more is not None:
                    stream.push_back(_split_lines(more))
                text, row_error = _decode(content)
                problem = "opens a quote that is not closed correctly. Close it, or double the quotes inside the field."
                if is_open == UNQUOTED:
                    problem = (
                        "ends with an escaped line break, but the next lines do not complete the row. Fix the row."
                    )
                is_escape = check_escapes and any(b'\\"' in line for line in (raw, *lines))
                if is_escape:
                    problem = (
                        f"opens a quote that is not closed correctly, and has quotes after backslashes. {ESCAPE_HINT}"
                    )
                row_error = row_error or RowError(problem, needs_escape=is_escape)
                return raw, digest, split_cells(text, delimiter, escape_parser), row_error, None
            if context.hasher is not None:
                context.hasher.add(more)
            raw += more
            hashed = context.digest.copy()
            hashed.update(raw)
            digest = hashed.digest()
            content = raw[: len(raw) - len(line_ending(raw))]
        elif check_escapes and needs_escape(content, delimiter):
            text, row_error = _decode(content)
            problem = f"has quotes after backslashes inside a quoted field. {ESCAPE_HINT}"
            escaped = RowError(problem, needs_escape=True)
            return raw, digest, split_cells(text, delimiter, escape_parser), row_error or escaped, None
    text, row_error = _decode(content)
    cells = split_cells(text, delimiter, escape_parser, quoted and '"' in text)
    if row_error is None and num_fields is not None and len(cells) != num_fields:
        row_error = RowError(f"has {len(cells)} fields, but the file has {num_fields} columns. Fix or remove the row.")
    return raw, digest, cells, row_error, None


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


def _read_continuation(
    stream: ByteStream,
    first_line: bytes,
    limit: int,
    delimiter: bytes,
    lines: list[bytes],
    open_field: int,
    escape_parser: EscapeParser | None,
    plan_version: int,
) -> tuple[bytes | None, bool]:
    """Read lines up to the end of the open field.

    Args:
        stream: The input, positioned after the first line.
        first_line: The line that leaves a field open.
        limit: Maximum size of the record in bytes.
        delimiter: The bytes between two cells.
        lines: Filled with the lines that are read; used for error messages.
        open_field: QUOTED or UNQUOTED.
        escape_parser: Parser of files with source.escape, else None.
        plan_version: Version of the job's plan.

    Returns:
        The lines as one string of bytes, or None if the field does not end correctly; the lines are then pushed back.
        Second, True if the reason is that the record exceeds the limit.
    """
    size, clean = len(first_line), True
    while open_field and clean:
        line = stream.readline(limit + 2 - size) if size < limit else b""
        if line:
            lines.append(line)
            size += len(line)
        if not line and open_field == UNQUOTED and stream.at_end():
            break  # the escaped line break is the last byte of the file
        if not line or size - (len(line_ending(line)) if plan_version > 1 else 0) > limit:
            stream.push_back(lines)
            return None, size >= limit and not stream.at_end()
        open_field, clean = _scan_quotes(line, open_field, delimiter, escape_parser)
    if not clean:
        stream.push_back(lines)
        return None, False
    return b"".join(lines), False


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
