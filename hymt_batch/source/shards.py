"""Cut files into shards, and skip those whose bytes a finished run has already hashed.

The cut is a pure function of the rows and the two bounds: a shard ends after the row that reaches either of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hymt_batch.records import PLAN, Document, Input, Shard, ShardRecord
from hymt_batch.source import delimited, jsonl, tables, text
from hymt_batch.source.bytestream import ByteStream
from hymt_batch.source.head import Heads, is_table
from hymt_batch.source.longrow import Again
from hymt_batch.source.rows import Context, Reader, Rows, Tally
from hymt_batch.source.settings import SourceConfig

HASH_BYTES = 1 << 20
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
    heads: Heads | None = None,
) -> Rows:
    """Yield documents and the cursor after each.

    Args:
        input: The file.
        config: The settings.
        cursor: Where to begin; 0 means the first row.
        row: Index of the row at the cursor.
        full: Keep raw bytes and parsed fields.
        max_rows: Stop after so many.
        reserved: Fields that the output adds: a row that has one is not written with them (plan 1: not translated).
        plan: Version of the job's plan; see records.PLAN.
        heads: Of the job's inputs.
    """
    heads = heads or Heads(config)
    if is_table(input):
        table = tables.Table(input)
        heads.of_table(table)
        yield from _first(tables.rows(table, config, Context(row or cursor, full, plan=plan)), max_rows)
        return
    with contextlib.closing(Again(input)) as again, ByteStream(input) as stream:
        head = heads.of_stream(stream)
        stream.move(max(cursor, head.num_bytes))
        context = Context(row, full, None, reserved, head.header, head.fields, plan, again if full else None)
        yield from _first(READERS[input.format](stream, config, context), max_rows)


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
    heads: Heads | None = None,
) -> Iterator[Shard | SkippedShard]:
    """Cut the inputs into shards, in order; `source.limit` counts rows over all inputs.

    An empty file gives one empty shard, so that it is published too. Files beyond the limit give none.

    Args:
        shard_rows: Most documents of a shard.
        shard_bytes: A shard ends after the row that reaches so many raw bytes (tables: bytes of text).
        done: Record of a finished shard of that index, if there is one. Where its bytes still hash alike the shard
            is skipped; where they do not it is parsed, for the caller to compare the rows' digests.
        plan: Version of the job's plan; see records.PLAN.
        heads: Of the job's inputs.
    """
    left, heads = config.limit, heads or Heads(config)
    for input in inputs:
        if left is not None and left <= 0:
            return
        file = _File(input, heads, reserved, left, plan)
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

    def __init__(self, input: Input, heads: Heads, reserved: tuple[str, ...], left: int | None, plan: int) -> None:
        self.plan = plan
        self.input, self.config, self.reserved, self.left = input, heads.config, reserved, left
        self._table: tables.Table | None = None
        self._stream: ByteStream | None = None
        if is_table(input):
            self._table = tables.Table(input)
            self.head = heads.of_table(self._table)
        else:
            with contextlib.ExitStack() as opened:
                self._stream = opened.enter_context(ByteStream(input))
                self.head = heads.of_stream(self._stream)
                opened.pop_all()  # it stays open
        self.cursor, self.row, self.ended = self.head.num_bytes, 0, False
        self._tally = Tally(self.head.header)
        self._rows: Rows | None = None

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
