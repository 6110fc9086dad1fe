"""csv and tsv: one row a record. csv knows quotes (and line breaks in them), tsv is split on tabs alone.

A quote that does not close must not swallow the file: a record of several lines counts only if its quotes are in
order, it has the header's number of fields and fits source.max_row_bytes; else its first line alone is an error row.
Escaped quotes are read with source.escape alone; without it, a record that needs it is an error row: see `escape`.
"""

from __future__ import annotations

from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.records import Document, ending
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.escape import CLOSED, FIX, QUOTED, UNQUOTED, Escapes, escapes, is_escaped
from hymt_batch.source.rows import Codes, Context, Rows, failed, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig, SourceFormat


def delimiter(config: SourceConfig, format: str) -> str:
    return config.delimiter or ("\t" if format == SourceFormat.tsv.value else ",")


def rows(stream: ByteStream, config: SourceConfig, context: Context) -> Rows:
    """Read records from the stream's position; with `context.full` a document's values are its cells by column."""
    input, row, full, fields = stream.input, context.row, context.full, context.fields
    split = delimiter(config, input.format)
    quoted = input.format == SourceFormat.csv.value
    codes = Codes(config)
    column = _column(fields, config.text_field)
    source, target = (None if name is None else _column(fields, name) for name in codes.fields)
    while True:
        raw, digest, problem, cells = _record(stream, config, context, row, split, quoted, len(fields))
        if not raw and problem is None:
            return
        values: Any = dict(zip(fields, cells, strict=True)) if full and cells and not problem else None
        document = None
        if problem is None and cells:
            try:
                langs = codes.get((_cell(cells, source), _cell(cells, target))) if any(codes.fields) else (None, None)
                kept = raw if full else b""
                document = Document(f"{input.rel}#{row + 1}", row, cells[column], digest, kept, *langs, values=values)
            except ConfigError as error:
                problem = f"{input.rel}:{row + 1} {error}"
        elif problem is None:  # a blank line
            document = Document(f"{input.rel}#{row + 1}", row, "", digest, raw if full else b"")
        if document is None:
            long = cells is None
            document = failed(input, row, digest, problem or "", raw=raw, values=values, long=long)
        yield document, stream.position
        row += 1


def read_header(stream: ByteStream, config: SourceConfig) -> tuple[bytes, tuple[str, ...]]:
    """Read the header record, or without one count the first record's columns as "1", "2", ...

    Returns:
        The header's bytes (b"" without one) and the column names; () for an empty file.

    Raises:
        ConfigError: The header cannot be read, or lacks a column that the settings name.
    """
    input = stream.input
    split = delimiter(config, input.format)
    quoted = input.format == SourceFormat.csv.value
    raw, _, problem, cells = _record(stream, config, Context(), 0, split, quoted, None)
    if problem is not None and config.header:
        raise ConfigError(f"The header of {input.path} cannot be read: {problem}")
    if not raw and problem is None:
        return b"", ()
    if config.header:
        fields = tuple(cells or [""])
        check_columns(input.path, fields, config, _hint(fields, split))
        return raw, fields
    fields = tuple(str(number + 1) for number in range(len(cells or [""])))
    for key, name in _used(config):
        if name not in fields:
            raise ConfigError(
                f"{key}={name} is no column number of {input.path}: without a header its {len(fields)} columns are"
                f" 1 to {len(fields)}. Set {key}=1, or source.header=true."
            )
    return b"", fields


def check_columns(path: str, fields: tuple[str, ...], config: SourceConfig, hint: str = "") -> None:
    """Refuse a table that lacks a column which the settings name, or has it twice."""
    for key, name in _used(config):
        if name not in fields:
            shown = list(fields[:20])
            raise ConfigError(
                f"{path} has no column {name!r}. Its columns are {shown}. Set {key} to one of them.{hint}"
            )
        if fields.count(name) > 1:
            raise ConfigError(f"{path} has the column {name!r} twice. Rename one of them, or set {key} to another.")


def _used(config: SourceConfig) -> list[tuple[str, str]]:
    source, target = config.lang_fields
    named = [("text_field", config.text_field), ("src_lang_field", source), ("tgt_lang_field", target)]
    return [(f"source.{key}", name) for key, name in named if name]


def _hint(fields: tuple[str, ...], split: str) -> str:
    """Suggest another delimiter for a header that was not split at all."""
    if len(fields) == 1:
        for other, name in ((";", "';'"), ("\t", "tab"), (",", "','"), ("|", "'|'")):
            if other != split and other in fields[0]:
                return f" If {name} separates its columns: source.delimiter={name}."
    return ""


def _column(fields: tuple[str, ...], name: str) -> int:
    return fields.index(name) if name in fields else 0  # no fields: an empty file, which has no rows


def _cell(cells: list[str], column: int | None) -> str | None:
    return None if column is None else cells[column]


def _record(
    stream: ByteStream,
    config: SourceConfig,
    context: Context,
    row: int,
    split: str,
    quoted: bool,
    num_fields: int | None,
) -> tuple[bytes, bytes, str | None, list[str] | None]:
    """Read one record.

    Returns:
        Its bytes, digest, what is wrong with it, and its cells: [] for a blank line, None if it was too long.
    """
    input, limit = stream.input, config.max_row_bytes
    raw, digest, long = read_line(stream, limit, context)
    if long:
        return raw, digest, too_long(input, row, limit), None
    content = raw[: len(raw) - len(ending(raw))]
    if not content:
        return raw, digest, None, []
    where = f"{input.rel}:{row + 1}"
    marks = escapes(split, quoted, config.escape)
    # plan 1: such rows were sent as they are
    doubts = quoted and marks is None and context.plan > 1 and num_fields is not None
    if marks is not None or (quoted and b'"' in content):
        mark = split.encode()
        is_open, _ = _scan(raw, CLOSED, mark, marks)
        if is_open:
            lines: list[bytes] = []
            more = _continuation(stream, raw, limit, mark, lines, is_open, marks)
            cells = None if more is None else _decode_cells(raw + more, split, marks)
            wrong = cells is not None and num_fields is not None and len(cells) != num_fields
            if more is None or wrong or (doubts and is_escaped(raw + more, split, content)):
                if more is not None:
                    stream.push_back(_lines(more))
                problem = "opens a quote that does not close in order. Close it, or double quotes inside a field."
                if is_open == UNQUOTED:
                    problem = "ends with an escaped line break, and does not go on in order. Mend or remove the row."
                if doubts and any(b'\\"' in line for line in (raw, *lines)):
                    problem = f"opens a quote that does not close in order, and has quotes behind backslashes. {FIX}"
                return raw, digest, f"{where} {problem}", []
            if context.tally is not None:
                context.tally.add(more)
            raw += more
            hashed = context.digest.copy()
            hashed.update(raw)
            digest = hashed.digest()
            content = raw[: len(raw) - len(ending(raw))]
        elif doubts and is_escaped(content, split):
            return raw, digest, f"{where} has quotes behind backslashes inside of a quoted field. {FIX}", []
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        return raw, digest, not_utf8(input, row, error), []
    cells = _cells(text, split, marks) if marks is not None or (quoted and '"' in text) else text.split(split)
    if num_fields is not None and len(cells) != num_fields:
        problem = f"{where} has {len(cells)} fields where the file has {num_fields} columns. Mend or remove the row."
        return raw, digest, problem, []
    return raw, digest, None, cells


def _decode_cells(raw: bytes, split: str, marks: Escapes | None) -> list[str] | None:
    """Cells of a record for counting; None if it is no UTF-8, which is reported elsewhere."""
    try:
        return _cells(raw[: len(raw) - len(ending(raw))].decode(), split, marks)
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
) -> bytes | None:
    """Read the lines up to where the open field ends; give them back and return None if it does not in order.

    `lines` holds those that were read, for messages.
    """
    size, clean = len(first), True
    while is_open and clean:
        line = stream.readline(limit + 2 - size) if size < limit else b""
        if line:
            lines.append(line)
            size += len(line)
        if not line and is_open == UNQUOTED and stream.at_end():
            break  # the line break that was escaped is the file's last
        if not line or size > limit:
            stream.push_back(lines)
            return None
        is_open, clean = _scan(line, is_open, mark, marks)
    if not clean:
        stream.push_back(lines)
        return None
    return b"".join(lines)


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


def _cells(text: str, split: str, marks: Escapes | None) -> list[str]:
    """Cells of one record; a quote counts at the start of a cell only, as in the standard library's csv."""
    if marks is not None:
        return marks.cells(text)
    cells: list[str] = []
    at = 0
    while True:
        quoted = ""
        if text.startswith('"', at):
            close = at + 1
            while True:
                close = text.find('"', close)
                if close < 0 or not text.startswith('"', close + 1):
                    break
                close += 2
            close = len(text) if close < 0 else close
            quoted = text[at + 1 : close].replace('""', '"')
            at = min(close + 1, len(text))
        stop = text.find(split, at)
        cells.append(quoted + (text[at:] if stop < 0 else text[at:stop]))
        if stop < 0:
            return cells
        at = stop + len(split)
