"""Read what precedes the rows of a file, and check that the file fits the settings; once for each file of a job."""

from __future__ import annotations

import hashlib
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.delimited.reader import read_header, resolve_delimiter
from hymt_batch.formats.jsonl.reader import check_head, refuse_reserved
from hymt_batch.formats.parquet import tables
from hymt_batch.records import Input, Preamble
from hymt_batch.source.settings import SourceConfig

BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
MAX_SCHEMAS = 256  # distinct preambles in the cache; a file with a further one is read again at each use


def is_table(input: Input) -> bool:
    return input.format == "parquet" or bool(input.dataset)


def read_preamble(input: Input, config: SourceConfig, reserved: tuple[str, ...] = ()) -> Preamble:
    """Read what precedes the first row, and reject a file that does not fit the settings.

    Args:
        input: The file.
        config: The settings.
        reserved: Fields that the output adds; the input must not have them.

    Raises:
        ConfigError: A column that a setting names is missing (jsonl: in all of the first rows), the file has a reserved
            column, or the file is UTF-16.
        PreflightError: The file cannot be read.
        StoppedError: The disk fails.
    """
    if is_table(input):
        return read_table_preamble(tables.Table(input), config, reserved)
    with ByteStream(input) as stream:
        return read_stream_preamble(stream, config, reserved)


def read_table_preamble(table: tables.Table, config: SourceConfig, reserved: tuple[str, ...]) -> Preamble:
    """Do the same as `read_preamble` for an open table."""
    tables.check_columns(table, config)
    return _check_reserved(table.input, Preamble(fields=tuple(table.schema.names), schema=table.schema), reserved)


def read_stream_preamble(stream: ByteStream, config: SourceConfig, reserved: tuple[str, ...]) -> Preamble:
    """Do the same as `read_preamble` for a stream at its start; the stream is not moved back to it."""
    input = stream.input
    start = stream.read(len(BOM))
    if start.startswith(UTF16):
        raise ConfigError(
            f"{input.path} is UTF-16, but input must be UTF-8. Convert it:"
            f" iconv -f UTF-16 -t UTF-8 {input.path!r} > utf8.txt, and set source.path=utf8.txt."
        )
    bom = start if start == BOM else b""
    *lines, torn = start[len(bom) :].split(b"\n")
    stream.push_back([line + b"\n" for line in lines] + ([torn] if torn else []))
    first = stream.readline(config.max_row_bytes + 2)
    newline = b"\r\n" if first.endswith(b"\r\n") else b"\n"
    stream.push_back([first])
    if input.format == "jsonl":
        check_head(stream, config, reserved)
    if input.format in ("csv", "tsv"):
        header, fields = read_header(stream, config)
        delimiter = resolve_delimiter(config, input.format)
        head = Preamble(bom, header, fields, newline, delimiter, config.escape or "")
        return _check_reserved(input, head, reserved if config.header else ())
    return Preamble(bom=bom, newline=newline)


def _check_reserved(input: Input, preamble: Preamble, reserved: tuple[str, ...]) -> Preamble:
    for name in reserved:
        if name in preamble.fields:
            refuse_reserved(input.path, name)
    return preamble


class PreambleCache:
    """Caches the preambles of a job's inputs, and how many rows of the last input are within source.limit.

    Equal preambles share one object, because a job may have 100,000 files.

    Args:
        config: The settings.
        reserved: Fields that the output adds; the inputs must not have them.

    Raises:
        ConfigError, PreflightError, StoppedError: Raised by a call; see `read_preamble`.
    """

    def __init__(self, config: SourceConfig, reserved: tuple[str, ...] = ()) -> None:
        self.config, self._reserved = config, reserved
        self._by_input: dict[str, Preamble] = {}  # key: relative name of the input
        self._interned: dict[Any, Preamble] = {}
        self.limited_rows: dict[str, int] = {}  # name of the last input -> its rows within source.limit

    def __call__(self, input: Input) -> Preamble:
        if (preamble := self._by_input.get(input.rel)) is not None:
            return preamble
        return self._remember(input, read_preamble(input, self.config, self._reserved))

    def of_stream(self, stream: ByteStream) -> Preamble:
        """Return the preamble of an open input, and move its stream to the first row."""
        preamble = self._by_input.get(stream.input.rel)
        if preamble is None:
            preamble = self._remember(stream.input, read_stream_preamble(stream, self.config, self._reserved))
        stream.seek(preamble.num_bytes)
        return preamble

    def of_table(self, table: tables.Table) -> Preamble:
        """Return the preamble of an open table."""
        preamble = self._by_input.get(table.input.rel)
        return preamble or self._remember(table.input, read_table_preamble(table, self.config, self._reserved))

    def _remember(self, input: Input, preamble: Preamble) -> Preamble:
        if preamble.schema is None:
            key: Any = (preamble.bom, preamble.header, preamble.newline, preamble.delimiter, preamble.fields)
        else:
            key = hashlib.sha256(preamble.schema.serialize()).digest()
            if len(self._interned) >= MAX_SCHEMAS and key not in self._interned:
                return preamble
        self._by_input[input.rel] = preamble = self._interned.setdefault(key, preamble)
        return preamble
