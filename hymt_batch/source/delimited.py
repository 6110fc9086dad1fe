"""csv and tsv: one row a record. csv knows quotes (and line breaks in them), tsv is split on tabs alone.

A quote that does not close must not swallow the file: a record of several lines counts only if its quotes are in
order and it has the header's number of fields; else its first line alone is an error row. One that exceeds
source.max_row_bytes is an error row as a whole (plan 1: its first line).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hymt_batch.errors import ConfigError
from hymt_batch.records import Document, Status, ending
from hymt_batch.scan import RecordScan
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.longrow import LongRow
from hymt_batch.source.rows import Codes, Context, RowError, Rows, failed, go_on, not_utf8, read_line, too_long
from hymt_batch.source.settings import SourceConfig, SourceFormat


def delimiter(config: SourceConfig, format: str) -> str:
    return config.delimiter or ("\t" if format == SourceFormat.tsv.value else ",")


def rows(stream: ByteStream, config: SourceConfig, context: Context) -> Rows:
    """Read records from the stream's position; with `context.full` a document's values are its cells by column.

    A record with another number of cells keeps those it has: missing ones are empty, and the last column holds what is
    left over.
    """
    input, row, full, fields = stream.input, context.row, context.full, context.fields
    split = delimiter(config, input.format)
    quoted = input.format == SourceFormat.csv.value
    codes = Codes(config)
    column = _column(fields, config.text_field)
    source, target = (None if name is None else _column(fields, name) for name in codes.fields)
    looks = full or (quoted and context.plan > 1)
    scan = partial(RecordScan, split.encode(), column, quoted) if looks else None
    while True:
        raw, digest, cells, wrong, long = _record(stream, config, context, split, quoted, len(fields), scan)
        if not raw and wrong is None:
            return
        document = None
        if wrong is None and cells:
            try:
                langs = codes.get((_cell(cells, source), _cell(cells, target))) if any(codes.fields) else (None, None)
                kept = raw if full else b""
                values = dict(zip(fields, cells, strict=True)) if full else None
                document = Document(f"{input.rel}#{row + 1}", row, cells[column], digest, kept, *langs, values=values)
            except RowError as error:
                wrong = error
        elif wrong is None:  # a blank line
            document = Document(f"{input.rel}#{row + 1}", row, "", digest, raw if full else b"")
        if document is None and wrong is not None:
            text, values = None, None
            if full and cells:
                text = cells[column] if len(cells) == len(fields) else None
                values = dict(zip(fields, _fitted(cells, len(fields), split), strict=True))
            kept, long = (raw, long) if full else (b"", None)
            document = failed(input, row, digest, wrong, raw=kept, text=text, values=values, long=long)
        assert document is not None
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
    raw, _, cells, wrong, _ = _record(stream, config, Context(), split, quoted, None)
    if wrong is not None and config.header:
        raise ConfigError(f"The header of {input.path} cannot be read: it {wrong}")
    if not raw and wrong is None:
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
    over_lines = quoted and context.plan > 1 and scan is not None
    wrong: RowError | None
    raw, digest, long = read_line(stream, limit, context, scan)
    if long is not None:
        if over_lines and isinstance(long.scan, RecordScan) and long.scan.is_open:
            raw, digest = go_on(stream, long, context, num_fields) or (raw, digest)
        return raw, digest, [], RowError(too_long(limit), Status.TOO_LONG), long
    content = raw[: len(raw) - len(ending(raw))]
    if not content:
        return raw, digest, [], None, None
    if quoted and b'"' in content:
        is_open, _ = _scan(raw, False, mark)
        if is_open:
            more, over = _continuation(stream, raw, limit, mark, context.plan)
            cells = None if more is None else _decode_cells(raw + more, split)
            if over and over_lines and scan is not None:
                hashed = context.digest.copy()
                hashed.update(raw)
                long = LongRow(context.again, start, raw, scan(), hashed)
                if found := go_on(stream, long, context, num_fields):
                    return *found, [], RowError(too_long(limit), Status.TOO_LONG), long
            if more is None or (cells is not None and num_fields is not None and len(cells) != num_fields):
                if more is not None:
                    stream.push_back(_lines(more))
                text, wrong = _decoded(content)
                quote = RowError(
                    "opens a quote that does not close in order. Close it, or double quotes inside a field."
                )
                return raw, digest, _cells(text, split), wrong or quote, None
            if context.tally is not None:
                context.tally.add(more)
            raw += more
            hashed = context.digest.copy()
            hashed.update(raw)
            digest = hashed.digest()
            content = raw[: len(raw) - len(ending(raw))]
    text, wrong = _decoded(content)
    cells = _cells(text, split) if quoted and '"' in text else text.split(split)
    if wrong is None and num_fields is not None and len(cells) != num_fields:
        wrong = RowError(f"has {len(cells)} fields where the file has {num_fields} columns. Mend or remove the row.")
    return raw, digest, cells, wrong, None


def _decoded(content: bytes) -> tuple[str, RowError | None]:
    """A record as text, with U+FFFD for bytes that are no UTF-8, and what is said of those."""
    try:
        return content.decode(), None
    except UnicodeDecodeError as error:
        return content.decode("utf-8", "replace"), RowError(not_utf8(error), Status.BAD_ENCODING)


def _fitted(cells: list[str], num: int, split: str) -> list[str]:
    """As many cells as there are columns."""
    if len(cells) > num:
        return [*cells[: num - 1], split.join(cells[num - 1 :])]
    return cells + [""] * (num - len(cells))


def _decode_cells(raw: bytes, split: str) -> list[str] | None:
    """Cells of a record for counting; None if it is no UTF-8, which is reported elsewhere."""
    try:
        return _cells(raw[: len(raw) - len(ending(raw))].decode(), split)
    except UnicodeDecodeError:
        return None


def _lines(data: bytes) -> list[bytes]:
    *lines, torn = data.split(b"\n")
    return [line + b"\n" for line in lines] + ([torn] if torn else [])


def _continuation(stream: ByteStream, first: bytes, limit: int, mark: bytes, plan: int) -> tuple[bytes | None, bool]:
    """Read the lines up to where the open quote closes.

    Returns:
        The lines; or None, and they are given back, if it does not close in order; and whether that is because they
        exceed the limit.
    """
    lines: list[bytes] = []
    size, is_open, clean = len(first), True, True
    while is_open and clean:
        line = stream.readline(limit + 2 - size) if size < limit else b""
        if line:
            lines.append(line)
            size += len(line)
        if not line or size - (len(ending(line)) if plan > 1 else 0) > limit:
            stream.push_back(lines)
            return None, size >= limit and not stream.at_end()
        is_open, clean = _scan(line, True, mark)
    if not clean:
        stream.push_back(lines)
        return None, False
    return b"".join(lines), False


def _scan(line: bytes, is_open: bool, mark: bytes) -> tuple[bool, bool]:
    """Follow the quotes through one line: is one open at its end, and did each close before a delimiter?"""
    clean, at = True, 0
    while True:
        if is_open:
            at = line.find(b'"', at)
            if at < 0:
                return True, clean
            if line[at + 1 : at + 2] == b'"':
                at += 2
                continue
            at += 1
            is_open = False
            if line[at : at + 2] not in (b"", b"\n", b"\r\n") and not line.startswith(mark, at):
                clean = False
        elif line.startswith(b'"', at):
            is_open = True
            at += 1
            continue
        at = line.find(mark, at)
        if at < 0:
            return False, clean
        at += len(mark)


def _cells(text: str, split: str) -> list[str]:
    """Cells of one record; a quote counts at the start of a cell only, as in the standard library's csv."""
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
