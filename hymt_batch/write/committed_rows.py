"""What is committed of a file, in parts and row records: digests, rows and measurements. Changes nothing on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from hymt_batch.errors import InputChangedError
from hymt_batch.formats.field_rows import file_row
from hymt_batch.fs import stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Document, Input, Shard
from hymt_batch.state_layout import StateLayout
from hymt_batch.write import row_record
from hymt_batch.write.input_changes import RowRanges, changed_row, input_changed_error
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.run_reader import RunReader
from hymt_batch.write.state_file import StateFileDamagedError


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """The parts and row records of one identity in one folder."""

    fs: Fs
    reader: PartReader
    runs: RunReader
    records: RecordStore

    @classmethod
    def open(cls, fs: Fs, folder: Path, identity: str, layout: StateLayout) -> CommittedRows:
        """Open the rows of a job; reads nothing yet. `identity` is the sha256 of the job's identity."""
        return cls(
            fs,
            PartReader(fs, folder, identity, layout),
            RunReader(fs, folder, identity, layout),
            RecordStore(fs, folder, identity, layout),
        )

    def source_digests(self, file_id: str, shard_index: int) -> dict[int, bytes]:
        """Return row index -> digest of its source, over the record and the readable parts and runs of a shard."""
        return (
            self.records.digests(file_id, shard_index)
            | self.runs.source_digests(file_id, shard_index)
            | self.reader.source_digests(file_id, shard_index)
        )

    def has_any(self, file_id: str) -> bool:
        """Return whether a file has any part, run or record."""
        shard_indexes = {*self.records.shard_indexes(file_id), *self.reader.shard_indexes(file_id)}
        return any(self.has_rows(file_id, shard_index) for shard_index in shard_indexes)

    def has_rows(self, file_id: str, shard_index: int) -> bool:
        """Return whether a shard has a record, or any part or run."""
        if stat_or_none(self.fs, self.records.path(file_id, shard_index)) is not None:
            return True
        indexes = chain(self.reader.part_indexes(file_id, shard_index), self.runs.indexes(file_id, shard_index))
        return any(True for _ in indexes)

    def has_logprobs(self, file_id: str) -> bool:
        """Return whether every committed row or segment of a file that has a text has its log-probability."""
        recorded = set(self.records.shard_indexes(file_id))
        for shard_index in recorded:
            with contextlib.suppress(StateFileDamagedError, FileNotFoundError):
                if not row_record.read_header(self.fs, self.records.path(file_id, shard_index)).has_logprobs:
                    return False
        in_progress = set(self.reader.shard_indexes(file_id)) - recorded
        return all(
            row.mean_logprob is not None or not row.text
            for shard_index in in_progress
            for row in self.reader.rows(file_id, shard_index)
        ) and all(
            segment.mean_logprob is not None or not segment.text
            for shard_index in in_progress
            for _, segments in self.runs.read_all(file_id, shard_index)
            for segment in segments
        )

    def changed_error(self, shard: Shard) -> InputChangedError:
        """Return the error that lists the rows of a shard that differ from the rows that were decoded."""
        changed, digests = RowRanges(), self.source_digests(shard.input.file_id, shard.index)
        documents = {document.row_index: document for document in shard.documents}
        last = shard.documents[-1] if shard.documents else None
        for index, digest in sorted(digests.items()):
            document = documents.get(index)
            if document is None or document.digest != digest:
                changed.add(changed_row(document, index, last))
        if changed.ranges:
            return input_changed_error(f"{shard.input.rel} {changed}")
        for document in shard.documents[max(digests) + 1 - shard.first_row if digests else 0 :]:
            changed.add(file_row(document))
        return input_changed_error(f"{shard.input.rel} {changed} are new")

    def changed_rows(self, input: Input, documents: Iterator[Document]) -> tuple[RowRanges, int]:
        """Return the rows whose source differs from what was decoded, and the number of documents of the input.

        Args:
            input: The file.
            documents: A full pass over it.
        """
        changed, num_rows, file_id = RowRanges(), 0, input.file_id
        document = last = next(documents, None)
        for shard_index in sorted({*self.reader.shard_indexes(file_id), *self.records.shard_indexes(file_id)}):
            digests = self.source_digests(file_id, shard_index)
            last_row = max(digests, default=-1)
            while document is not None and document.row_index <= last_row:
                digest = digests.pop(document.row_index, document.digest)
                if digest != document.digest:
                    changed.add(file_row(document))
                num_rows, last, document = num_rows + 1, document, next(documents, None)
            for index in sorted(digests):
                changed.add(changed_row(None, index, last))
        while document is not None:
            num_rows, document = num_rows + 1, next(documents, None)
        return changed, num_rows
