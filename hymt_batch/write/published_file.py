"""Assemble one translated file from its parts, verify it, and write its record.

The source is read a second time, and the digest of each row is compared with that of the row that was translated, so
that the output never mixes two versions of a file. Memory is bounded by one shard. A file is published complete, by
rename; its record `.hymt/f<id>/file.json` is written next, and is kept when the parts are removed. Independent of jobs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from hymt_batch import manifest
from hymt_batch.formats.writer import open_writer
from hymt_batch.fs import Fs, NewFile, hash_file, remove, replace, stat_or_none, write_atomic
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Input, Preamble, Row, ShardRecord, Status
from hymt_batch.storage_error import write_error
from hymt_batch.write.error_line import error_line
from hymt_batch.write.input_changes import (
    RowRanges,
    hash_input,
    input_changed_error,
    input_unreadable_error,
    stat_files,
)
from hymt_batch.write.part import PartHeader, decode_shard_record
from hymt_batch.write.shard_table import ShardTable

if TYPE_CHECKING:
    from hymt_batch.write.settings import WriteConfig

log = logging.getLogger(__name__)

TMP_PREFIX = ".tmp-final-"
NOT_SENT_STATUSES = frozenset(
    {Status.BAD_ROW, Status.BAD_ENCODING, Status.BAD_LANGUAGE, Status.TOO_LONG}
)  # statuses of rows that were not sent to the model
LoadedShard = tuple[list[PartHeader], dict[int, Row]]


def out_format(input: Input, config: WriteConfig) -> str:
    return input.format if config.format.value == "input" else str(config.format.value)


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything needed to assemble one translated file."""

    input: Input
    shards: ShardTable  # the records of all shards
    load_shard: Callable[[ShardRecord], LoadedShard]  # returns the verified headers and rows of a shard
    read_documents: Callable[[Input], Iterator[Document]]
    preamble: Callable[[Input], Preamble]
    config: WriteConfig
    identity: str
    check_lease: Callable[[], None]  # raises if the lease is lost, so that nothing may be published
    make_folder: Callable[[Path], None]  # creates a folder that survives a power loss
    # keeps the file at the output path in set_aside/, unless its sha256 is this one or that of the job's own file
    preserve_foreign: Callable[[str], None]


def assemble(fs: Fs, folder: Path, assembly: Assembly) -> JsonDict:
    """Write and publish one translated file and its errors file.

    Returns:
        The record of both files, as written to `file.json`.

    Raises:
        InputChangedError: A row differs from the one that was translated.
        StoppedError: The file system failed.
    """
    input, files_before = assembly.input, stat_files(assembly.input)
    final, errors = manifest.translated_path(folder, input.out_rel), manifest.errors_path(folder, input.rel)
    tally = _Tally()
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(NewFile(fs, tmp_path(final)))
            errors_file: NewFile | None = None
            num_errors = 0
            output_format = out_format(input, assembly.config)
            preamble, rows = assembly.preamble(input), partial(_read_documents, assembly)
            writer = open_writer(input, output_format, preamble, assembly.config, cast(BinaryIO, out), rows)
            for document, row in _documents_and_rows(assembly, tally):
                writer.write(document, row)
                if row.status is not Status.OK:
                    if errors_file is None:
                        assembly.make_folder(errors.parent)
                        errors_file = stack.enter_context(NewFile(fs, tmp_path(errors)))
                    errors_file.write(error_line(document, row, assembly.config.raw_errors))
                    num_errors += 1
            writer.close()
            input_record = hash_input(input)
            if stat_files(input) != files_before:
                raise input_changed_error(f"{input.rel} was modified while it was being read")
            output: JsonDict = {"rows": tally.num_rows, "bytes": out.size, "sha256": out.sync_and_close()}
            errors_record = (
                {"rows": num_errors, "bytes": errors_file.size, "sha256": errors_file.sync_and_close()}
                if errors_file
                else None
            )
            assembly.preserve_foreign(output["sha256"])
            assembly.check_lease()
            if errors_file:
                replace(fs, errors_file.path, errors)
                fs.fsync_dir(errors.parent)
            elif stat_or_none(fs, errors):  # left by an earlier run that had errors
                remove(fs, errors)
                fs.fsync_dir(errors.parent)
            replace(fs, out.path, final)
            fs.fsync_dir(final.parent)
    except OSError as error:
        raise write_error(f"translated/{input.out_rel}", error) from error
    record: JsonDict = {
        "identity": assembly.identity,
        "rel": input.rel,
        "out_rel": input.out_rel,
        "format": output_format,
        "rows": tally.num_rows,
        "input": input_record,
        "output": output,
        "errors": errors_record,
        "counts": +tally.counts,
        "flags": tally.flags,
        "tokens": tally.tokens,
        "degraded": tally.degraded,
        "environments": list(tally.environments.values()),
    }
    record = manifest.json_roundtrip(record)
    record["shards"] = assembly.shards.pack()
    assembly.make_folder(record_path(folder, input).parent)
    write_atomic(fs, record_path(folder, input), manifest.seal(record))
    log.info("published file=%r rows=%d errors=%d bytes=%d", input.out_rel, tally.num_rows, num_errors, out.size)
    return record


class _Tally:
    def __init__(self) -> None:
        self.num_rows = 0
        self.counts: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter(source=0, new=0)
        self.degraded: Counter[str] = Counter()
        self.environments: dict[bytes, JsonDict] = {}

    def add_part(self, header: PartHeader) -> None:
        self.degraded.update(header.degraded)
        self.environments[manifest.canonical_json(header.environment)] = header.environment

    def add_rows(self, rows: Mapping[int, Row]) -> None:
        """Add all rows of a shard. If one of them is not written in the end, the whole file is not published."""
        shard_rows = rows.values()
        for status, count in Counter([row.status for row in shard_rows]).items():
            self.counts[status.value] += count
        self.flags.update(chain.from_iterable([row.flags for row in shard_rows if row.flags]))
        self.tokens["source"] += sum([row.num_source_tokens for row in shard_rows])
        self.tokens["new"] += sum([row.num_new_tokens for row in shard_rows])


def _documents_and_rows(assembly: Assembly, tally: _Tally) -> Iterator[tuple[Document, Row]]:
    """Yield each document with its committed row, in order.

    Raises:
        InputChangedError: The documents are not exactly those of the shards.
    """
    name, changed_rows, documents = assembly.input.rel, RowRanges(), _read_documents(assembly)
    for record in assembly.shards:
        headers, rows = assembly.load_shard(record)
        for header in headers:
            tally.add_part(header)
        tally.add_rows(rows)
        for row_index in range(record.first_row, record.first_row + record.num_rows):
            document, row = next(documents, None), rows.pop(row_index)
            if document is None or document.row_index != row_index or document.digest != row.digest:
                changed_rows.add(row_index)
            elif not changed_rows.ranges:  # after a changed row keep reading, to name all of them, but write nothing
                tally.num_rows += 1
                yield document, _output_row(document, row, tally)
    if changed_rows.ranges:
        raise input_changed_error(f"{name} {changed_rows}")
    if (extra := next(documents, None)) is not None:
        raise input_changed_error(f"{name} has more rows after row {extra.row_index}")


def _output_row(document: Document, row: Row, tally: _Tally) -> Row:
    """Return the row to write. A row that cannot take the added fields becomes a bad row, even if it was translated."""
    if document.status is not Status.BAD_ROW or row.status in NOT_SENT_STATUSES:
        return row
    tally.counts[row.status.value] -= 1
    tally.counts[Status.BAD_ROW.value] += 1
    return replace_fields(row, status=Status.BAD_ROW, text="", message=document.message)


def _read_documents(assembly: Assembly) -> Iterator[Document]:
    try:
        yield from assembly.read_documents(assembly.input)
    except OSError as error:
        raise input_unreadable_error(assembly.input, error) from None


def tmp_path(path: Path) -> Path:
    return path.with_name(f"{TMP_PREFIX}{uuid.uuid4().hex}")


def record_path(folder: Path, input: Input) -> Path:
    return manifest.file_state_folder(folder, input.file_id) / "file.json"


def read_record(fs: Fs, folder: Path, input: Input) -> JsonDict | None:
    """Return the record of a published file; None if it is missing or damaged (it is rebuilt from the parts).

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        record = manifest.load(fs, record_path(folder, input))
        shard_table_of(record)
        if (record["rel"], record["out_rel"]) != (input.rel, input.out_rel):
            raise manifest.StateDamagedError("it belongs to another file")
        return record
    except manifest.StateMissingError:
        return None
    except manifest.StatePermissionError as denied:
        raise PermissionError(errno.EACCES, str(denied), str(record_path(folder, input))) from None
    except (manifest.StateDamagedError, KeyError, TypeError, ValueError) as error:
        log.warning("file_record file_id=%s ignored=%r", input.file_id, str(error))
        return None


def shard_table_of(record: JsonDict) -> ShardTable:
    """Return the shard table of a file's record; earlier versions stored it as a list of shard records."""
    shards = record["shards"]
    if isinstance(shards, str):
        return ShardTable.unpack(shards)
    records = [decode_shard_record(fields) for fields in shards]
    if any(shard_record.index >= len(records) for shard_record in records):
        raise ValueError("not the shards of one file")
    return ShardTable(records)


def describe_damage(fs: Fs, path: Path, expected: JsonDict | None) -> str:
    """Return how a published file differs from its record, "" if it does not.

    Args:
        fs: The file system.
        path: The published file.
        expected: Its "bytes" and "sha256"; None if the file should not exist.

    Raises:
        PermissionError: This user may not read it.
    """
    stat = stat_or_none(fs, path)
    if expected is None:
        return "" if stat is None else "should not be there"
    if stat is None:
        return "is missing"
    if stat.kind != "file":
        return "is a folder" if stat.kind == "dir" else "is a link or a special file"
    if stat.size != expected["bytes"]:
        return f"has {stat.size} bytes, but its record has {expected['bytes']}"
    try:
        return "" if hash_file(fs, path)[1] == expected["sha256"] else "does not match its checksum"
    except PermissionError:
        raise  # it may be intact
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def is_intact(fs: Fs, folder: Path, record: JsonDict) -> bool:
    """Return whether the published file and its errors file are intact; log the damage if not."""
    output = describe_damage(fs, manifest.translated_path(folder, record["out_rel"]), record["output"])
    errors = describe_damage(fs, manifest.errors_path(folder, record["rel"]), record["errors"])
    for name, damage in ((record["out_rel"], output), (f"{record['rel']}.errors.jsonl", errors)):
        if damage:
            log.warning("published file=%r damage=%r", name, damage)
    return not output and not errors
