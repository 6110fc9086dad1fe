"""Cut files into shards, and skip those whose bytes a finished run has already hashed.

The cut is a pure function of the rows and the two bounds: a shard ends after the row that reaches either of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hymt_batch.errors import ConfigError
from hymt_batch.records import PLAN, Document, Input, Preamble, Shard, ShardRecord
from hymt_batch.source import delimited, jsonl, tables, text
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.rows import Context, Reader, Rows, Tally
from hymt_batch.source.settings import SourceConfig

HASH_BYTES = 1 << 20
BOM = b"\xef\xbb\xbf"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
READERS: dict[str, Reader] = {
    "text": text.rows,
    "jsonl": jsonl.rows,
    "csv": delimited.rows,
    "tsv": delimited.rows,
}


@dataclass(frozen=True, slots=True)
class SkippedShard:
    """A shard that is done: its bytes hash to what its record says, so that its rows were not parsed."""

    input: Input
    record: ShardRecord


def is_table(input: Input) -> bool:
    return input.format == "parquet" or bool(input.dataset)


def preamble(input: Input, config: SourceConfig, reserved: tuple[str, ...] = ()) -> Preamble:
    """Read what stands before the first row, and refuse a file that does not fit the settings.

    Args:
        reserved: Fields that the output adds, so that the input must not have them.

    Raises:
        ConfigError: A named column is missing (jsonl: in all of the first rows), a reserved one is there, or the
            file is no UTF-8 text at all.
        PreflightError: The file cannot be read.
    """
    if is_table(input):
        table = tables.Table(input)
        tables.check(table, config)
        return _unreserved(input, Preamble(fields=tuple(table.schema.names), schema=table.schema), reserved)
    with ByteStream(input) as stream:
        start = stream.read(len(BOM))
        if start.startswith(UTF16):
            raise ConfigError(
                f"{input.path} is UTF-16, and rows are read as UTF-8. Convert it:"
                f" iconv -f UTF-16 -t UTF-8 {input.path!r} > utf8.txt, and set source.path=utf8.txt."
            )
        bom = start if start == BOM else b""
        stream.move(len(bom))
        first = stream.readline(config.max_row_bytes + 2)
        newline = b"\r\n" if first.endswith(b"\r\n") else b"\n"
        stream.push_back([first])
        if input.format == "jsonl":
            jsonl.check_head(stream, config, reserved)
        if input.format in ("csv", "tsv"):
            header, fields = delimited.read_header(stream, config)
            split = delimited.delimiter(config, input.format)
            head = Preamble(bom, header, fields, newline, split, config.escape or "")
            return _unreserved(input, head, reserved if config.header else ())
    return Preamble(bom=bom, newline=newline)


def _unreserved(input: Input, head: Preamble, reserved: tuple[str, ...]) -> Preamble:
    for name in reserved:
        if name in head.fields:
            jsonl.refuse_reserved(input.path, name)
    return head


def documents(
    input: Input,
    config: SourceConfig,
    *,
    cursor: int = 0,
    row: int = 0,
    full: bool = False,
    max_rows: int | None = None,
    reserved: tuple[str, ...] = (),
    plan: int = PLAN,
) -> Rows:
    """Yield a file's documents from a cursor on, each with the cursor after it, in bounded memory.

    Args:
        cursor: 0, or one that was given out with the document before.
        row: Index of the row at the cursor.
        full: Keep the raw bytes and the parsed fields too, for the finishing pass.
        max_rows: Stop after so many rows.
        reserved: jsonl fields that the output adds: a row that has one is an error row.
        plan: Version of the job's plan; see records.PLAN.
    """
    head = preamble(input, config)
    left = max_rows
    if is_table(input):
        table = tables.rows(tables.Table(input), config, Context(row or cursor, full, plan=plan))
        yield from _first(table, left)
        return
    context = Context(row, full, None, reserved, head.header, head.fields, plan)
    with ByteStream(input, max(cursor, head.num_bytes)) as stream:
        yield from _first(READERS[input.format](stream, config, context), left)


def _first(rows: Rows, max_rows: int | None) -> Rows:
    if max_rows is None:
        yield from rows
        return
    if max_rows > 0:
        for number, item in enumerate(rows, 1):
            yield item
            if number == max_rows:
                return


def shards(
    inputs: Iterable[Input],
    config: SourceConfig,
    *,
    shard_rows: int,
    shard_bytes: int,
    done: Callable[[Input, int], ShardRecord | None],
    reserved: tuple[str, ...] = (),
    plan: int = PLAN,
) -> Iterator[Shard | SkippedShard]:
    """Cut the inputs into shards, in order; `source.limit` counts rows over all inputs.

    An empty file gives one empty shard, so that it is published too. Files beyond the limit give none.

    Args:
        shard_rows: Most documents of a shard.
        shard_bytes: A shard ends after the row that reaches so many raw bytes (tables: bytes of text).
        done: Record of a finished shard of that index, if there is one. Where its bytes still hash alike the shard
            is skipped; where they do not it is parsed, for the caller to compare the rows' digests.
        plan: Version of the job's plan; see records.PLAN.
    """
    left = config.limit
    for input in inputs:
        if left is not None and left <= 0:
            return
        file = _File(input, config, reserved, left, plan)
        try:
            index = 0
            while not file.ended:
                record = done(input, index)
                if record is not None and record.index == index and file.skip(record):
                    yield SkippedShard(input, record)
                else:
                    yield file.take(index, shard_rows, shard_bytes)
                index += 1
            left = file.left
        finally:
            file.close()


class _File:
    """A place in one file, from which the next shard is either skipped or taken."""

    def __init__(
        self, input: Input, config: SourceConfig, reserved: tuple[str, ...], left: int | None, plan: int
    ) -> None:
        self.plan = plan
        self.input, self.config, self.reserved, self.left = input, config, reserved, left
        self.head = preamble(input, config)
        self.cursor, self.row, self.ended = self.head.num_bytes, 0, False
        self._tally = Tally(self.head.header)
        self._rows: Rows | None = None
        self._table = tables.Table(input) if is_table(input) else None
        self._stream = None if self._table else ByteStream(input, self.cursor)

    def take(self, index: int, shard_rows: int, shard_bytes: int) -> Shard:
        first, start = self.row, self.cursor
        found: list[Document] = []
        most = shard_rows if self.left is None else min(shard_rows, self.left)
        for document, cursor in self._open():
            found.append(document)
            self.cursor = cursor
            if len(found) >= most or self._tally.num_bytes >= shard_bytes:
                break
        self._advance(len(found))
        return Shard(self.input, index, first, found, start, self.cursor, self._tally.cut(), self.ended)

    def skip(self, record: ShardRecord) -> bool:
        """Move past a finished shard if its bytes are still the same; else stay."""
        if record.start != self.cursor or record.first_row != self.row or record.end < record.start:
            return False
        if self.left is not None and record.num_rows > self.left:
            return False
        row, left = self.row, self.left
        same = self._skip_bytes(record) if self._stream else self._skip_rows(record)
        if same:
            self.cursor = record.end
            self._advance(record.num_rows)
            same = self.ended == record.last
        if not same:
            self.cursor, self.row, self.left, self.ended = record.start, row, left, False
            self._close_rows()
        return same

    def close(self) -> None:
        self._close_rows()
        if self._stream:
            self._stream.close()

    def _advance(self, num_rows: int) -> None:
        self.row += num_rows
        if self.left is not None:
            self.left -= num_rows
        at_end = self._stream.at_end() if self._stream else self._table is None or self.row >= self._table.num_rows
        self.ended = at_end or self.left == 0

    def _open(self) -> Rows:
        if self._rows is None:
            self._tally.cut()
            context = Context(
                self.row, False, self._tally, self.reserved, self.head.header, self.head.fields, self.plan
            )
            if self._stream:
                self._stream.move(self.cursor)
                self._rows = READERS[self.input.format](self._stream, self.config, context)
            elif self._table:
                self._rows = tables.rows(self._table, self.config, context)
        assert self._rows is not None
        return self._rows

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def _skip_bytes(self, record: ShardRecord) -> bool:
        assert self._stream is not None
        self._close_rows()
        self._stream.move(record.start)
        sha = hashlib.sha256(self.head.header)
        while self._stream.position < record.end:
            block = self._stream.read(min(HASH_BYTES, record.end - self._stream.position))
            if not block:
                return False
            sha.update(block)
        return sha.hexdigest() == record.sha256

    def _skip_rows(self, record: ShardRecord) -> bool:
        rows = self._open()
        num_rows = sum(1 for _ in zip(range(record.num_rows), rows, strict=False))
        return num_rows == record.num_rows and self._tally.cut() == record.sha256
