"""One csv or tsv record: where it ends, its cells, and what is wrong with it.

A quote that does not close must not swallow the file: a record of several lines counts only if its quotes are in
order and it has the header's number of fields; else its first line alone is an error row. One that exceeds
source.max_row_bytes is an error row as a whole (plan 1: its first line). Escaped quotes are read with source.escape
alone; without it, a record that needs it is an error row: see `escape`.
"""

from __future__ import annotations

from collections.abc import Callable

from hymt_batch.csv_escape import CLOSED, ESCAPE_HINT, QUOTED, UNQUOTED, EscapeParser, get_escape_parser, needs_escape
from hymt_batch.records import Status, line_ending
from hymt_batch.scan import RecordScan
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.long_rows import LongRow
from hymt_batch.source.row_reader import (
    ReadContext,
    RowError,
    continue_long_record,
    not_utf8_message,
    read_line,
    too_long_message,
)
from hymt_batch.source.settings import SourceConfig


def read_record(
    stream: ByteStream,
    config: SourceConfig,
    context: ReadContext,
    delimiter: str,
    quoted: bool,
    num_fields: int | None,
    scan: Callable[[], RecordScan] | None = None,
) -> tuple[bytes, bytes, list[str], RowError | None, LongRow | None]:
    """Read one record.

    Returns:
        Its bytes, digest, cells ([] for a blank line, and where it is too long), what is wrong with it, and the row
        itself where it is too long.
    """
    limit = config.max_row_bytes
    mark, start = delimiter.encode(), stream.position
    marks = get_escape_parser(delimiter, quoted, config.escape)
    over_lines = (quoted or marks is not None) and context.plan_version > 1 and scan is not None
    wrong: RowError | None
    raw, digest, long = read_line(stream, limit, context, scan)
    if long is not None:
        if over_lines and isinstance(long.scan, RecordScan) and long.scan.is_open:
            raw, digest = continue_long_record(stream, long, context, num_fields) or (raw, digest)
        return raw, digest, [], RowError(too_long_message(limit), Status.TOO_LONG), long
    content = raw[: len(raw) - len(line_ending(raw))]
    if not content:
        return raw, digest, [], None, None
    # plan 1: such rows were sent as they are
    doubts = quoted and marks is None and context.plan_version > 1 and num_fields is not None
    if marks is not None or (quoted and b'"' in content):
        is_open, _ = _scan_quotes(raw, CLOSED, mark, marks)
        if is_open:
            lines: list[bytes] = []
            more, over = _read_continuation(stream, raw, limit, mark, lines, is_open, marks, context.plan_version)
            cells = None if more is None else _decode_cells(raw + more, delimiter, marks)
            if over and over_lines and scan is not None:
                hashed = context.digest.copy()
                hashed.update(raw)
                long = LongRow(context.rereader, start, raw, scan(), hashed)
                if found := continue_long_record(stream, long, context, num_fields):
                    return *found, [], RowError(too_long_message(limit), Status.TOO_LONG), long
            ragged = cells is not None and num_fields is not None and len(cells) != num_fields
            if more is None or ragged or (doubts and needs_escape(raw + more, delimiter, content)):
                if more is not None:
                    stream.push_back(_split_lines(more))
                text, wrong = _decode(content)
                problem = "opens a quote that does not close in order. Close it, or double quotes inside a field."
                if is_open == UNQUOTED:
                    problem = "ends with an escaped line break, and does not go on in order. Fix or remove the row."
                if doubts and any(b'\\"' in line for line in (raw, *lines)):
                    problem = (
                        f"opens a quote that does not close in order, and has quotes behind backslashes. {ESCAPE_HINT}"
                    )
                return raw, digest, split_cells(text, delimiter, marks), wrong or RowError(problem), None
            if context.hasher is not None:
                context.hasher.add(more)
            raw += more
            hashed = context.digest.copy()
            hashed.update(raw)
            digest = hashed.digest()
            content = raw[: len(raw) - len(line_ending(raw))]
        elif doubts and needs_escape(content, delimiter):
            text, wrong = _decode(content)
            escaped = RowError(f"has quotes behind backslashes inside of a quoted field. {ESCAPE_HINT}")
            return raw, digest, split_cells(text, delimiter, marks), wrong or escaped, None
    text, wrong = _decode(content)
    cells = split_cells(text, delimiter, marks, quoted and '"' in text)
    if wrong is None and num_fields is not None and len(cells) != num_fields:
        wrong = RowError(f"has {len(cells)} fields where the file has {num_fields} columns. Fix or remove the row.")
    return raw, digest, cells, wrong, None


def _decode(content: bytes) -> tuple[str, RowError | None]:
    """A record as text, with U+FFFD for bytes that are no UTF-8, and what is said of those."""
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        return content.decode("utf-8", "replace"), RowError(not_utf8_message(error), Status.BAD_ENCODING)


def _decode_cells(raw: bytes, delimiter: str, escape_parser: EscapeParser | None) -> list[str] | None:
    """Cells of a record for counting; None if it is no UTF-8, which is reported elsewhere."""
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
    """Read the lines up to where the open field ends.

    Args:
        lines: Takes the lines that are read, for messages.

    Returns:
        The lines; or None, and they are given back, if the field does not end in order; and whether that is because
        they exceed the limit.
    """
    size, clean = len(first_line), True
    while open_field and clean:
        line = stream.readline(limit + 2 - size) if size < limit else b""
        if line:
            lines.append(line)
            size += len(line)
        if not line and open_field == UNQUOTED and stream.at_end():
            break  # the line break that was escaped is the file's last
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
    """Follow the quotes through one line: is one open at its end, and did each close before a delimiter?"""
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
    """Cells of one record; a quote counts at the start of a cell only, as in the standard library's csv."""
    if escape_parser is not None:
        return escape_parser.split_cells(text)
    if not quoted:
        return text.split(delimiter)
    cells: list[str] = []
    at = 0
    while True:
        inside = ""
        if text.startswith('"', at):
            close = at + 1
            while True:
                close = text.find('"', close)
                if close < 0 or not text.startswith('"', close + 1):
                    break
                close += 2
            close = len(text) if close < 0 else close
            inside = text[at + 1 : close].replace('""', '"')
            at = min(close + 1, len(text))
        stop = text.find(delimiter, at)
        cells.append(inside + (text[at:] if stop < 0 else text[at:stop]))
        if stop < 0:
            return cells
        at = stop + len(delimiter)
