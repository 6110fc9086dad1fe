"""Cut files into shards, and skip finished shards whose bytes still have the recorded hash.

The cut is a pure function of the rows and of two limits: a shard ends after the row that reaches either limit.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hymt_batch.formats import text
from hymt_batch.formats.bytestream import ByteStream
from hymt_batch.formats.delimited.reader import read_rows as read_delimited_rows
from hymt_batch.formats.jsonl.reader import read_rows as read_jsonl_rows
from hymt_batch.formats.long_rows import InputRereader
from hymt_batch.formats.parquet import tables
from hymt_batch.formats.row_reader import ReadContext, RowReader, Rows, ShardHasher
from hymt_batch.records import PLAN_VERSION, Document, Input, Shard, ShardRecord
from hymt_batch.source.preamble_reader import PreambleCache, is_table
from hymt_batch.source.settings import SourceConfig

HASH_BYTES = 1 << 20
READERS: dict[str, RowReader] = {
    "text": text.read_rows,
    "jsonl": read_jsonl_rows,
    "csv": read_delimited_rows,
    "tsv": read_delimited_rows,
}


@dataclass(frozen=True, slots=True)
class SkippedShard:
    """A finished shard whose bytes still have the recorded hash, so that its rows were not parsed."""

    input: Input
    record: ShardRecord


def read_documents(
    input: Input,
    config: SourceConfig,
    *,
    cursor: int = 0,
    first_row: int = 0,
    full: bool = False,
    max_rows: int | None = None,
    reserved: tuple[str, ...] = (),
    plan_version: int = PLAN_VERSION,
    preambles: PreambleCache | None = None,
) -> Rows:
    """Yield documents and the cursor after each.

    Args:
        input: The file.
        config: The settings.
        cursor: Where to start; 0 means the first row.
        first_row: Index of the row at the cursor.
        full: Keep raw bytes and parsed fields.
        max_rows: Stop after this number of rows; None reads all.
        reserved: Fields that the output adds; see row_reader.ReadContext.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        preambles: Preambles of the job's inputs.
    """
    preambles = preambles or PreambleCache(config)
    if is_table(input):
        table = tables.Table(input)
        preambles.of_table(table)
        yield from _take(
            tables.read_rows(table, config, ReadContext(first_row or cursor, full, plan_version=plan_version)), max_rows
        )
        return
    with contextlib.closing(InputRereader(input)) as rereader, ByteStream(input) as stream:
        preamble = preambles.of_stream(stream)
        stream.seek(max(cursor, preamble.num_bytes))
        context = ReadContext(
            first_row, full, None, reserved, preamble.header, preamble.fields, plan_version, rereader if full else None
        )
        yield from _take(READERS[input.format](stream, config, context), max_rows)


def _take(rows: Rows, max_rows: int | None) -> Rows:
    if max_rows is None:
        yield from rows
        return
    if max_rows > 0:
        for num_rows, item in enumerate(rows, 1):
            yield item
            if num_rows == max_rows:
                return


def cut_shards(
    inputs: Iterable[Input],
    config: SourceConfig,
    *,
    shard_rows: int,
    shard_bytes: int,
    get_record: Callable[[Input, int], ShardRecord | None],
    reserved: tuple[str, ...] = (),
    plan_version: int = PLAN_VERSION,
    preambles: PreambleCache | None = None,
) -> Iterator[Shard | SkippedShard]:
    """Cut the inputs into shards, in order; source.limit counts rows over all inputs.

    An empty file gives one empty shard, so that its output is written too. Files beyond the limit give none.

    Args:
        inputs: The inputs.
        config: The settings.
        shard_rows: Maximum number of documents of a shard.
        shard_bytes: A shard ends after the row that reaches this many raw bytes (tables: bytes of text).
        get_record: Returns the record of a finished shard by its index, or None. If the bytes still have the recorded
            hash, the shard is skipped; if not, it is parsed, so that the caller can compare the digests of the rows.
        reserved: Fields that the output adds; see row_reader.ReadContext.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        preambles: Preambles of the job's inputs.
    """
    left, preambles = config.limit, preambles or PreambleCache(config)
    for input in inputs:
        if left is not None and left <= 0:
            return
        file = _FileCutter(input, preambles, reserved, left, plan_version)
        try:
            index = 0
            while not file.exhausted:
                record = get_record(input, index)
                if record is not None and record.index == index and file.skip(record):
                    yield SkippedShard(input, record)
                else:
                    yield file.read_shard(index, shard_rows, shard_bytes)
                index += 1
            left = file.rows_left
        finally:
            file.close()


class _FileCutter:
    """A position in one file, from which the next shard is either skipped or read."""

    def __init__(
        self,
        input: Input,
        preambles: PreambleCache,
        reserved: tuple[str, ...],
        rows_left: int | None,
        plan_version: int,
    ) -> None:
        self.plan_version = plan_version
        self.input, self.config, self.reserved, self.rows_left = input, preambles.config, reserved, rows_left
        self._table: tables.Table | None = None
        self._stream: ByteStream | None = None
        if is_table(input):
            self._table = tables.Table(input)
            self.preamble = preambles.of_table(self._table)
        else:
            with contextlib.ExitStack() as opened:
                self._stream = opened.enter_context(ByteStream(input))
                self.preamble = preambles.of_stream(self._stream)
                opened.pop_all()  # no error: keep the stream open
        self.cursor, self.next_row, self.exhausted = self.preamble.num_bytes, 0, False
        self._hasher = ShardHasher(self.preamble.header)
        self._rows: Rows | None = None

    def read_shard(self, index: int, shard_rows: int, shard_bytes: int) -> Shard:
        first_row, start = self.next_row, self.cursor
        documents: list[Document] = []
        max_rows = shard_rows if self.rows_left is None else min(shard_rows, self.rows_left)
        for document, cursor in self._open_rows():
            documents.append(document)
            self.cursor = cursor
            if len(documents) >= max_rows or self._hasher.num_bytes >= shard_bytes:
                break
        self._advance(len(documents))
        return Shard(
            self.input, index, first_row, documents, start, self.cursor, self._hasher.take_hash(), self.exhausted
        )

    def skip(self, record: ShardRecord) -> bool:
        """Move past a finished shard if its bytes are unchanged; return whether they are."""
        if record.start != self.cursor or record.first_row != self.next_row or record.end < record.start:
            return False
        if self.rows_left is not None and record.num_rows > self.rows_left:
            return False
        row, rows_left = self.next_row, self.rows_left
        is_same = self._skip_bytes(record) if self._stream else self._skip_rows(record)
        if is_same:
            self.cursor = record.end
            self._advance(record.num_rows)
            is_same = self.exhausted == record.last
        if not is_same:
            self.cursor, self.next_row, self.rows_left, self.exhausted = record.start, row, rows_left, False
            self._close_rows()
        return is_same

    def close(self) -> None:
        self._close_rows()
        if self._stream:
            self._stream.close()

    def _advance(self, num_rows: int) -> None:
        self.next_row += num_rows
        if self.rows_left is not None:
            self.rows_left -= num_rows
        at_end = self._stream.at_end() if self._stream else self._table is None or self.next_row >= self._table.num_rows
        self.exhausted = at_end or self.rows_left == 0

    def _open_rows(self) -> Rows:
        if self._rows is None:
            self._hasher.take_hash()
            context = ReadContext(
                self.next_row,
                False,
                self._hasher,
                self.reserved,
                self.preamble.header,
                self.preamble.fields,
                self.plan_version,
            )
            if self._stream:
                self._stream.seek(self.cursor)
                self._rows = READERS[self.input.format](self._stream, self.config, context)
            elif self._table:
                self._rows = tables.read_rows(self._table, self.config, context)
        assert self._rows is not None
        return self._rows

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def _skip_bytes(self, record: ShardRecord) -> bool:
        assert self._stream is not None
        self._close_rows()
        self._stream.seek(record.start)
        sha = hashlib.sha256(self.preamble.header)
        while self._stream.position < record.end:
            block = self._stream.read(min(HASH_BYTES, record.end - self._stream.position))
            if not block:
                return False
            sha.update(block)
        return sha.hexdigest() == record.sha256

    def _skip_rows(self, record: ShardRecord) -> bool:
        rows = self._open_rows()
        num_rows = sum(1 for _ in zip(range(record.num_rows), rows, strict=False))
        return num_rows == record.num_rows and self._hasher.take_hash() == record.sha256
