"""Cut files into shards, and skip finished shards whose bytes still have the recorded hash.

The cut is a pure function of the rows and of two limits: a shard ends after the row that reaches either limit. Where
rows have several text fields, each text is a document; such a shard is skipped only after its rows were parsed, because
its record does not tell how many rows they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hymt_batch.formats import registry
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.formats.format import Addressing, Kind
from hymt_batch.formats.language_sample import LanguageSample
from hymt_batch.formats.long_rows import InputRereader
from hymt_batch.formats.row_reader import ReadContext, Rows, ShardHasher
from hymt_batch.records import PLAN_VERSION, Document, Input, Shard, ShardRecord
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig


@dataclass(frozen=True, slots=True)
class SkippedShard:
    """A finished shard whose bytes still have the recorded hash, so that its rows were not parsed."""

    input: Input
    record: ShardRecord


def read_documents(
    input: Input,
    config: SourceConfig,
    *,
    full: bool = False,
    max_rows: int | None = None,
    reserved: tuple[str, ...] = (),
    plan_version: int = PLAN_VERSION,
    preambles: PreambleCache | None = None,
    language_sample: LanguageSample | None = None,
) -> Rows:
    """Yield the documents of a file and the cursor after each.

    Args:
        input: The file.
        config: The settings.
        full: Keep raw bytes and parsed fields.
        max_rows: Number of rows that are selected; None selects all. Reading stops after them, except in a spliced
            format, where the other places follow with the status not_selected.
        reserved: Fields that the output adds; see row_reader.ReadContext.
        plan_version: Version of the job's plan; see records.PLAN_VERSION.
        preambles: Preambles of the job's inputs.
        language_sample: Counts what the rows write in their language fields.
    """
    preambles, file_format = preambles or PreambleCache(config), registry.of_input(input)
    with (
        contextlib.closing(InputRereader(input)) as rereader,
        contextlib.closing(preambles.open_input(input)) as file,
    ):
        preamble = preambles.of_open(file)
        context = ReadContext(
            full=full,
            reserved=reserved,
            header=preamble.header,
            fields=preamble.fields,
            plan_version=plan_version,
            rereader=rereader if full else None,
            num_selected=max_rows,
            language_sample=language_sample,
        )
        rows = file.rows(config, context, preamble.num_bytes)
        yield from rows if file_format.kind is Kind.SPLICED else _first_rows(rows, max_rows)


def _first_rows(rows: Rows, max_rows: int | None) -> Rows:
    """Yield the documents of the first rows; of all rows for None."""
    num_rows = 0
    while max_rows is None or num_rows < max_rows:
        if (document_and_cursor := next(rows, None)) is None:
            return
        num_rows += ends_row(document_and_cursor[0])
        yield document_and_cursor


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
        file = FileCutter(input, preambles, reserved, left, plan_version)
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


class FileCutter:
    """A position in one file, from which the next shard is either skipped or read."""

    def __init__(
        self,
        input: Input,
        preambles: PreambleCache,
        reserved: tuple[str, ...],
        rows_left: int | None,
        plan_version: int,
        new_hasher: Callable[[bytes], ShardHasher] = ShardHasher,
    ) -> None:
        """Open a file at its first row.

        Args:
            input: The file.
            preambles: Preambles of the job's inputs.
            reserved: Fields that the output adds; see row_reader.ReadContext.
            rows_left: Rows from here on that are within source.limit; None for all.
            plan_version: Version of the job's plan; see records.PLAN_VERSION.
            new_hasher: Makes the hash of the shards, given the header of the file.
        """
        self.plan_version, self._num_selected = plan_version, rows_left
        self._is_whole = registry.of_input(input).kind is Kind.SPLICED  # is read to its end, whatever source.limit is
        self.input, self.config, self.reserved, self.rows_left = input, preambles.config, reserved, rows_left
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(contextlib.closing(registry.of_input(input).open_input(input)))
            self.preamble = preambles.of_open(self._file)
            opened.pop_all()  # no error: keep the file open
        self.cursor, self.next_row, self.exhausted = self.preamble.num_bytes, 0, False
        self._rows_before = 0  # rows before the cursor; `next_row` counts their documents
        self._hasher = new_hasher(self.preamble.header)
        self._rows: Rows | None = None

    def read_shard(self, index: int, shard_rows: int, shard_bytes: int) -> Shard:
        first_row, start = self.next_row, self.cursor
        documents: list[Document] = []
        num_rows, max_rows = 0, None if self._is_whole else self.rows_left
        for document, cursor in self._open_rows():
            documents.append(document)
            self.cursor = cursor
            if document.field is not None and not document.field.is_last:
                continue
            num_rows += 1
            if len(documents) >= shard_rows or num_rows == max_rows or self._hasher.num_bytes >= shard_bytes:
                break
        self._advance(len(documents), num_rows)
        return Shard(
            self.input, index, first_row, documents, start, self.cursor, self._hasher.take_hash(), self.exhausted
        )

    @property
    def can_seek(self) -> bool:
        """True if reading can begin at any shard, given its record."""
        has_cursors = registry.of_input(self.input).addressing is not Addressing.START
        return has_cursors and not self.preamble.text_fields  # else a record does not tell how many rows it has

    def seek(self, record: ShardRecord) -> None:
        """Move to the first row of a shard, without reading what comes before it; see `can_seek`."""
        if (record.start, record.first_row) == (self.cursor, self.next_row):
            return
        self._close_rows()
        if self.rows_left is not None:
            self.rows_left = max(0, self.rows_left + self._rows_before - record.first_row)
        self.cursor, self.next_row, self._rows_before = record.start, record.first_row, record.first_row

    def skip(self, record: ShardRecord) -> bool:
        """Move past a finished shard if its bytes are unchanged; return whether they are."""
        if record.start != self.cursor or record.first_row != self.next_row or record.end < record.start:
            return False
        max_rows = None if self._is_whole else self.rows_left
        if max_rows is not None and record.num_rows > max_rows and not self.preamble.text_fields:
            return False
        position = self.next_row, self._rows_before, self.rows_left
        num_rows = self._num_same_rows(record)
        is_same = num_rows is not None and (max_rows is None or num_rows <= max_rows)
        if num_rows is not None and is_same:
            self.cursor = record.end
            self._advance(record.num_rows, num_rows)
            is_same = self.exhausted == record.last
        if not is_same:
            self.cursor, self.exhausted = record.start, False
            self.next_row, self._rows_before, self.rows_left = position
            self._close_rows()
        return is_same

    def close(self) -> None:
        self._close_rows()
        self._file.close()

    def _advance(self, num_documents: int, num_rows: int) -> None:
        self.next_row += num_documents
        self._rows_before += num_rows
        if self.rows_left is not None:
            self.rows_left = max(0, self.rows_left - num_rows)
        self.exhausted = (self.rows_left == 0 and not self._is_whole) or self._file.at_end(self._rows_before)

    def _open_rows(self) -> Rows:
        if self._rows is None:
            self._hasher.take_hash()
            context = ReadContext(
                first_row=self.next_row,
                first_file_row=self._rows_before,
                hasher=self._hasher,
                reserved=self.reserved,
                header=self.preamble.header,
                fields=self.preamble.fields,
                plan_version=self.plan_version,
                num_selected=self._num_selected,
            )
            self._rows = self._file.rows(self.config, context, self.cursor)
        return self._rows

    def _close_rows(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def _num_same_rows(self, record: ShardRecord) -> int | None:
        """Move past the rows of a shard, and return their number; None if they do not have the recorded hash."""
        if not self.preamble.text_fields:
            sha256 = self._file.hash_bytes(record.start, record.end, self.preamble.header)
            if sha256 is not None:
                self._close_rows()  # the file is at another row now
                return record.num_rows if sha256 == record.sha256 else None
        rows = self._open_rows()
        ends = [ends_row(document) for _, (document, _) in zip(range(record.num_rows), rows, strict=False)]
        is_whole = len(ends) == record.num_rows and all(ends[-1:])
        return sum(ends) if is_whole and self._hasher.take_hash() == record.sha256 else None
