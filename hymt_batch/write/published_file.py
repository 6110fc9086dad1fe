"""Assemble one translated file from the records of its rows, publish it, and write its own record.

The source is read a second time, and the digest of each row is compared with that of the row that was translated, so
that the output never mixes two versions of a file. Memory is bounded by one shard. A file is published complete, by
rename; its record `.hymt/f<id>/file.json` is written next. A published file is a view of its row records: with other
output settings it is assembled from them again. Independent of jobs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from hymt_batch.formats import registry
from hymt_batch.formats.field_rows import ends_row, file_row
from hymt_batch.formats.format import Kind, Writer
from hymt_batch.formats.joined_row import join_row
from hymt_batch.formats.writer import open_writer, output_encoding
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict
from hymt_batch.records import UNLISTED_STATUSES, Document, Input, Preamble, Row, ShardRecord, Status
from hymt_batch.state_layout import StateLayout
from hymt_batch.storage_error import write_error
from hymt_batch.write.error_line import error_line
from hymt_batch.write.input_changes import (
    RowRanges,
    changed_row,
    hash_input,
    input_changed_error,
    input_unreadable_error,
    stat_files,
)
from hymt_batch.write.open_files import OpenFiles
from hymt_batch.write.pass_rows import LaterRows
from hymt_batch.write.review_line import needs_review, review_line
from hymt_batch.write.row_record import ShardRows
from hymt_batch.write.row_shaper import RowShaper
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.tally import Tally

if TYPE_CHECKING:
    from hymt_batch.write.settings import WriteConfig

log = logging.getLogger(__name__)

NOT_SENT_STATUSES = frozenset(
    {Status.BAD_ROW, Status.BAD_ENCODING, Status.BAD_LANGUAGE, Status.TOO_LONG}
)  # statuses of rows that were not sent to the model


def out_format(input: Input, config: WriteConfig) -> str:
    return input.format if config.format.value == "input" else str(config.format.value)


def is_one_line(input: Input, config: WriteConfig, preamble: Preamble) -> bool:
    """True if the output of an input cannot hold a line break inside a translation; an object of several texts can."""
    return registry.get(out_format(input, config)).one_line and not preamble.text_fields


@dataclass(frozen=True, slots=True)
class InputAccess:
    """How the rows of an input become rows of an output."""

    read_documents: Callable[[Input], Iterator[Document]]  # starts a pass over an input's documents, in row order
    preamble: Callable[[Input], Preamble]  # returns what precedes an input's first row
    shape_row: Callable[[Document, Row, bool], Row] = lambda document, row, one_line: row
    """Derives flags from measurements, and folds line breaks if a row of the output is one line."""
    shape_earlier_row: Callable[[Document, Row, bool], Row] | None = None
    """Does so with the flags of a job that an earlier version began; None: as `shape_row` does."""

    def of_earlier_version(self) -> InputAccess:
        """Return how the rows of a job that an earlier version began become rows of an output."""
        return self if self.shape_earlier_row is None else replace_fields(self, shape_row=self.shape_earlier_row)


class FileRows(Protocol):
    """What gives the rows of a file; an `Assembly` has more, to publish it."""

    @property
    def input(self) -> Input: ...
    @property
    def shards(self) -> ShardTable: ...  # the records of all shards
    @property
    def load_rows(self) -> Callable[[ShardRecord], ShardRows]: ...  # returns the verified rows of a shard
    @property
    def load_later_rows(self) -> Callable[[ShardRecord], LaterRows]: ...  # returns the rows of passes for a shard
    @property
    def access(self) -> InputAccess: ...
    @property
    def config(self) -> WriteConfig: ...


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything needed to assemble one translated file."""

    input: Input
    shards: ShardTable  # the records of all shards
    load_rows: Callable[[ShardRecord], ShardRows]  # returns the verified rows of a shard
    access: InputAccess
    config: WriteConfig
    layout: StateLayout  # where the record of the file lies
    identity: str
    settings_sha256: str  # of the output settings; "" if the identity has them
    check_lease: Callable[[], None]  # raises if the lease is lost, so that nothing may be published
    make_folder: Callable[[Path], None]  # creates a folder that survives a power loss
    has_lists: bool  # an earlier run may have written lists of rows
    # keeps the file at the output path in set_aside/, unless its sha256 is this one or that of the job's own file;
    # returns whether anything is at that path
    preserve_foreign: Callable[[str], bool]
    load_later_rows: Callable[[ShardRecord], LaterRows]  # returns the rows of passes for a shard
    passes: Sequence[int]  # numbers of the finished passes that have rows of the file

    def before_publication(self, sha256: str) -> bool:
        """Keep a foreign file at the output path; return whether anything is there. Raise if the lease is lost."""
        is_there = self.preserve_foreign(sha256)
        self.check_lease()
        return is_there


def assemble(fs: Fs, folder: Path, assembly: Assembly) -> JsonDict:
    """Write and publish one translated file and the lists of rows beside it.

    Returns:
        The record of both files, for `file_record.save_record`.

    Raises:
        InputChangedError: A row differs from the one that was translated.
        StoppedError: The file system failed.
    """
    input, tally = assembly.input, Tally()
    try:
        with contextlib.ExitStack() as stack:
            files = OpenFiles(fs, folder, input, assembly.make_folder, stack, has_lists=assembly.has_lists)
            failure = _failure(assembly)
            input_record = _write(files, assembly, tally, is_failed=bool(failure))
            published = files.publish(None if failure else tally.num_output_rows, assembly.before_publication)
    except OSError as error:
        raise write_error(f"translated/{input.out_rel}", error) from error
    record: JsonDict = {
        "identity": assembly.identity,
        "rel": input.rel,
        "out_rel": input.out_rel,
        "format": out_format(input, assembly.config),
        "rows": tally.num_output_rows,
        **({"texts": tally.num_rows} if assembly.access.preamble(input).text_fields else {}),
        "input": input_record,
        **published,
        **({"failed": failure} if failure else {}),
        **tally.to_record(),
    }
    if assembly.passes:
        record["passes"] = [tally.describe_pass(number) for number in assembly.passes]
    if assembly.settings_sha256:
        record["settings_sha256"] = assembly.settings_sha256
    record["shards"] = assembly.shards.pack()
    assembly.make_folder(assembly.layout.file_state(folder, input.file_id))
    errors = record["errors"]["rows"] if record["errors"] else 0
    size = record["output"]["bytes"] if record["output"] else 0
    log.debug("published file=%r rows=%d errors=%d bytes=%d", input.out_rel, tally.num_rows, errors, size)
    return record


def _failure(assembly: Assembly) -> str:
    """Return why a file is not of its format; "" if it is. Such a file has one row, and no output."""
    if registry.get(assembly.input.format).kind is not Kind.SPLICED:
        return ""
    shards = iter(assembly.shards)
    first, second = next(shards, None), next(shards, None)
    if first is None or second is not None or first.num_rows != 1:
        return ""
    row = assembly.load_rows(first).contents.rows[0]
    return row.message if row.status is Status.FAILED_FILE else ""


class _NoWriter:
    """Writes nothing: a failed file has no output."""

    def write(self, document: Document, row: Row) -> None: ...

    def close(self) -> None: ...


def _write(files: OpenFiles, assembly: Assembly, tally: Tally, *, is_failed: bool) -> JsonDict:
    """Write all rows to the temporary files, and return size and hash of the input, which did not change meanwhile."""
    input, files_before = assembly.input, stat_files(assembly.input)
    preamble, rows = assembly.access.preamble(input), partial(_read_documents, assembly)
    out = cast(BinaryIO, files.out)
    writer: Writer = _NoWriter()
    if not is_failed:
        writer = open_writer(input, out_format(input, assembly.config), preamble, assembly.config, out, rows)
    lists_flags = assembly.config.review and not registry.get(out_format(input, assembly.config)).has_fields
    texts: list[tuple[Document, Row]] = []  # of the row that is written next
    for document, row in documents_and_rows(assembly, tally):
        texts.append((document, row))
        if ends_row(document):
            writer.write(*join_row(texts))
            tally.num_output_rows += 1
            texts.clear()
        if row.status not in UNLISTED_STATUSES:
            is_transcoded = bool(input.encoding)
            files.write_error(error_line(document, row, assembly.config.raw_errors, is_transcoded=is_transcoded))
        if lists_flags and needs_review(row):
            files.write_review(review_line(document, row))
    writer.close()
    input_record = hash_input(input, files_before)
    if stat_files(input) != files_before:
        raise input_changed_error(f"{input.rel} was modified while it was being read")
    return input_record


def documents_and_rows(assembly: FileRows, tally: Tally) -> Iterator[tuple[Document, Row]]:
    """Yield each document with its row as it is written, in order.

    Args:
        assembly: The file, with its committed rows.
        tally: Counts what the file has.

    Raises:
        InputChangedError: The documents are not exactly those of the shards.
    """
    name, changed_rows, documents = assembly.input.rel, RowRanges(), _read_documents(assembly)
    shaper = row_shaper(assembly)
    last_document: Document | None = None
    for record in assembly.shards:
        shard_rows, later_rows = assembly.load_rows(record), assembly.load_later_rows(record)
        tally.add_shard(shard_rows)
        for row in shard_rows.contents.rows:
            document = next(documents, None)
            last_document = document or last_document
            if document is None or document.row_index != row.row_index or document.digest != row.digest:
                changed_rows.add(changed_row(document, row.row_index, last_document))
            elif not changed_rows.ranges:  # after a changed row keep reading, to name all of them, but write nothing
                if row.row_index in later_rows:
                    shaped_row, committed, number = shaper.best(document, row, later_rows[row.row_index])
                    tally.add_later_rows(later_rows[row.row_index], row, committed, number)
                else:
                    shaped_row = shaper.shape(document, row)
                if shaped_row.status is not row.status:
                    tally.move(row.status, shaped_row.status)
                tally.add_row(document, shaped_row)
                yield document, _output_row(document, shaped_row, tally)
    if changed_rows.ranges:
        raise input_changed_error(f"{name} {changed_rows}")
    if (extra := next(documents, None)) is not None:
        raise input_changed_error(f"{name} has more rows after row {file_row(extra)}")


def row_shaper(assembly: FileRows) -> RowShaper:
    """Return how the rows of a file are written."""
    input, config = assembly.input, assembly.config
    preamble = assembly.access.preamble(input)
    one_line = is_one_line(input, config, preamble)
    target = registry.get(out_format(input, config))
    return RowShaper(
        assembly.access.shape_row,
        one_line,
        target,
        registry.of_input(input).fit_lines if config.wrap_cues and not one_line else None,
        output_encoding(preamble, target, config),
        target.escapes_characters or bool(preamble.text_fields),  # several texts are an object in JSON
    )


def _output_row(document: Document, row: Row, tally: Tally) -> Row:
    """Return the row to write. A row that cannot take the added fields becomes a bad row, even if it was translated."""
    if document.status is not Status.BAD_ROW or row.status in NOT_SENT_STATUSES:
        return row
    tally.move(row.status, Status.BAD_ROW)
    return replace_fields(row, status=Status.BAD_ROW, text="", message=document.message)


def _read_documents(assembly: FileRows) -> Iterator[Document]:
    try:
        yield from assembly.access.read_documents(assembly.input)
    except OSError as error:
        raise input_unreadable_error(assembly.input, error) from None
