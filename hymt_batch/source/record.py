"""One csv or tsv record: where it ends, its cells, and what is wrong with it.

A quote that does not close must not swallow the file: a record of several lines counts only if its quotes are in
order and it has the header's number of fields; else its first line alone is an error row. One that exceeds
source.max_row_bytes is an error row as a whole (plan 1: its first line). Escaped quotes are read with source.escape
alone; without it, a record that needs it is an error row: see `escape`.
"""

from __future__ import annotations

from collections.abc import Callable

from hymt_batch.escape import CLOSED, FIX, QUOTED, UNQUOTED, Escapes, escapes, is_escaped
from hymt_batch.records import Status, ending
from hymt_batch.scan import RecordScan
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.longrow import LongRow
from hymt_batch.source.rows import Context, RowError, go_on, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig


def read(
    stream: ByteStream,
    config: SourceConfig,
    context: Context,
    split: str,
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
    mark, start = split.encode(), stream.position
    marks = escapes(split, quoted, config.escape)
    over_lines = (quoted or marks is not None) and context.plan > 1 and scan is not None
    wrong: RowError | None
    raw, digest, long = read_line(stream, limit, context, scan)
    if long is not None:
        if over_lines and isinstance(long.scan, RecordScan) and long.scan.is_open:
            raw, digest = go_on(stream, long, context, num_fields) or (raw, digest)
        return raw, digest, [], RowError(too_long(limit), Status.TOO_LONG), long
    content = raw[: len(raw) - len(ending(raw))]
    if not content:
        return raw, digest, [], None, None
    # plan 1: such rows were sent as they are
    doubts = quoted and marks is None and context.plan > 1 and num_fields is not None
    if marks is not None or (quoted and b'"' in content):
        is_open, _ = _scan(raw, CLOSED, mark, marks)
        if is_open:
            lines: list[bytes] = []
            more, over = _continuation(stream, raw, limit, mark, lines, is_open, marks, context.plan)
            cells = None if more is None else _decode_cells(raw + more, split, marks)
            if over and over_lines and scan is not None:
                hashed = context.digest.copy()
                hashed.update(raw)
                long = LongRow(context.again, start, raw, scan(), hashed)
                if found := go_on(stream, long, context, num_fields):
                    return *found, [], RowError(too_long(limit), Status.TOO_LONG), long
            ragged = cells is not None and num_fields is not None and len(cells) != num_fields
            if more is None or ragged or (doubts and is_escaped(raw + more, split, content)):
                if more is not None:
                    stream.push_back(_lines(more))
                text, wrong = _decoded(content)
                problem = "opens a quote that does not close in order. Close it, or double quotes inside a field."
                if is_open == UNQUOTED:
                    problem = "ends with an escaped line break, and does not go on in order. Fix or remove the row."
                if doubts and any(b'\\"' in line for line in (raw, *lines)):
                    problem = f"opens a quote that does not close in order, and has quotes behind backslashes. {FIX}"
                return raw, digest, cells_of(text, split, marks), wrong or RowError(problem), None
            if context.tally is not None:
                context.tally.add(more)
            raw += more
            hashed = context.digest.copy()
            hashed.update(raw)
            digest = hashed.digest()
            content = raw[: len(raw) - len(ending(raw))]
        elif doubts and is_escaped(content, split):
            text, wrong = _decoded(content)
            escaped = RowError(f"has quotes behind backslashes inside of a quoted field. {FIX}")
            return raw, digest, cells_of(text, split, marks), wrong or escaped, None
    text, wrong = _decoded(content)
    cells = cells_of(text, split, marks, quoted and '"' in text)
    if wrong is None and num_fields is not None and len(cells) != num_fields:
        wrong = RowError(f"has {len(cells)} fields where the file has {num_fields} columns. Fix or remove the row.")
    return raw, digest, cells, wrong, None


def _decoded(content: bytes) -> tuple[str, RowError | None]:
    """A record as text, with U+FFFD for bytes that are no UTF-8, and what is said of those."""
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        return content.decode("utf-8", "replace"), RowError(not_utf8(error), Status.BAD_ENCODING)


def _decode_cells(raw: bytes, split: str, marks: Escapes | None) -> list[str] | None:
    """Cells of a record for counting; None if it is no UTF-8, which is reported elsewhere."""
    try:
        return cells_of(raw[: len(raw) - len(ending(raw))].decode(), split, marks)
    except UnicodeDecodeError:
        return None


def _lines(data: bytes) -> list[bytes]:
    *lines, torn = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([torn] if torn else [])


def _continuation(
    stream: ByteStream,
    first: bytes,
    limit: int,
    mark: bytes,
    lines: list[bytes],
    is_open: int,
    marks: Escapes | None,
    plan: int,
) -> tuple[bytes | None, bool]:
    """Read the lines up to where the open field ends.

    Args:
        lines: Takes the lines that are read, for messages.

    Returns:
        The lines; or None, and they are given back, if the field does not end in order; and whether that is because
        they exceed the limit.
    """
    size, clean = len(first), True
    while is_open and clean:
        line = stream.readline(limit + 2 - size) if size < limit else b""
        if line:
            lines.append(line)
            size += len(line)
        if not line and is_open == UNQUOTED and stream.at_end():
            break  # the line break that was escaped is the file's last
        if not line or size - (len(ending(line)) if plan > 1 else 0) > limit:
            stream.push_back(lines)
            return None, size >= limit and not stream.at_end()
        is_open, clean = _scan(line, is_open, mark, marks)
    if not clean:
        stream.push_back(lines)
        return None, False
    return b"".join(lines), False


def _scan(line: bytes, is_open: int, mark: bytes, marks: Escapes | None) -> tuple[int, bool]:
    """Follow the quotes through one line: is one open at its end, and did each close before a delimiter?"""
    if marks is not None:
        return marks.scan(line, is_open)
    clean, at = True, 0
    while True:
        if is_open:
            at = line.find(b'"', at)
            if at < 0:
                return QUOTED, clean
            if line[at + 1 : at + 2] == b'"':
                at += 2
                continue
            at += 1
            is_open = CLOSED
            if line[at : at + 2] not in (b"", b"\n", b"\r\n") and not line.startswith(mark, at):
                clean = False
        elif line.startswith(b'"', at):
            is_open = QUOTED
            at += 1
            continue
        at = line.find(mark, at)
        if at < 0:
            return CLOSED, clean
        at += len(mark)


def cells_of(text: str, split: str, marks: Escapes | None, quoted: bool = True) -> list[str]:
    """Cells of one record; a quote counts at the start of a cell only, as in the standard library's csv."""
    if marks is not None:
        return marks.cells(text)
    if not quoted:
        return text.split(split)
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
        stop = text.find(split, at)
        cells.append(inside + (text[at:] if stop < 0 else text[at:stop]))
        if stop < 0:
            return cells
        at = stop + len(split)
