"""The documents of a pass of `retry`, and the shards that they form: read from the inputs of the job, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from hymt_batch.batch import PartLimits
from hymt_batch.errors import InputChangedError
from hymt_batch.formats.field_rows import file_row
from hymt_batch.records import Document, Input, Shard, ShardRecord
from hymt_batch.source.shards import SkippedShard
from hymt_batch.write.passes import PassRecord

Read = Callable[[Input], Iterator[Document]]
CandidatesOf = Callable[[str, int, bytes], tuple[str, ...]]
"""Returns the candidate translations of a row, by the id of its file, its index within it and its digest."""


def no_candidates(file_id: str, row_index: int, digest: bytes) -> tuple[str, ...]:
    return ()


def selected_documents(
    record: PassRecord,
    inputs: Mapping[str, Input],
    read: Read,
    first: int = 0,
    candidates_of: CandidatesOf = no_candidates,
) -> Iterator[Document]:
    """Yield the documents of a pass from the row with the number `first` on, numbered within the pass.

    Args:
        record: The pass.
        inputs: The inputs of the job by their ids.
        read: Reads an input from its beginning.
        first: Number of the first row to yield.
        candidates_of: Returns the candidates of a document.

    Raises:
        InputChangedError: A row is not the one that was selected.
    """
    for file in record.files:
        base = record.first_rows[file.file_id]
        position = max(0, first - base)
        if position >= len(file.rows):
            continue
        documents: Iterable[Document] = read(inputs[file.file_id]) if file.file_id in inputs else ()
        changed: Document | None = None
        for document in documents:
            if document.row_index < file.rows[position]:
                continue
            if document.digest != file.digest(position):
                changed = document
                break
            # what only a writer needs is dropped: a shard is kept in memory
            candidates = candidates_of(file.file_id, document.row_index, document.digest)
            row_index = base + position
            yield replace(document, row_index=row_index, raw=b"", values=None, field=None, candidates=candidates)
            position += 1
            if position == len(file.rows):
                break
        if position < len(file.rows):
            row = file_row(changed) if changed is not None else file.rows[position] + 1
            raise InputChangedError(
                f"row {row} of {file.rel} changed since pass {record.number} selected it",
                fix="Set overwrite=true to drop the pass and to select the rows again.",
            )


def cut_shards(
    record: PassRecord,
    inputs: Mapping[str, Input],
    read: Read,
    limits: PartLimits,
    get_record: Callable[[int], ShardRecord | None],
    candidates_of: CandidatesOf = no_candidates,
) -> Iterator[list[Shard | SkippedShard]]:
    """Yield the shards of a pass, each as a group; of one that is recorded, nothing is read.

    Args:
        record: The pass.
        inputs, read: See `selected_documents`.
        limits: A shard ends with the row that reaches either limit.
        get_record: Returns the record of a complete shard by its index.
        candidates_of: See `selected_documents`.
    """
    first = index = 0
    documents: Iterator[Document] | None = None
    while first < record.num_rows:
        recorded = get_record(index)
        if recorded is not None and recorded.first_row == first:
            yield [SkippedShard(record.input, recorded)]
            documents = None
            first += recorded.num_rows
        else:
            documents = documents or selected_documents(record, inputs, read, first, candidates_of)
            of_shard = list(_take(documents, limits))
            end = first + len(of_shard)
            sha = hashlib.sha256(b"".join(document.digest for document in of_shard)).hexdigest()
            yield [Shard(record.input, index, first, of_shard, first, end, sha, end == record.num_rows)]
            first = end
        index += 1


def _take(documents: Iterator[Document], limits: PartLimits) -> Iterator[Document]:
    num_bytes = 0
    for document in islice(documents, limits.shard_rows):
        yield document
        num_bytes += len((document.text or "").encode("utf-8", "surrogatepass"))
        if num_bytes >= limits.shard_bytes:
            return
