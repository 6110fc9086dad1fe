"""Assemble one translated file from its parts, prove it, and record what was proved.

The source is read a second time, and each row's digest compared with the one its translation was made from, so that a
file that changed meanwhile is never mixed. Memory is bounded by one shard. A file appears as a whole, by rename, and is
followed by `.hymt/f<id>/file.json`, which outlives the parts. Does not know the job around it.
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
from hymt_batch.fs import Fs, NewFile, hash_file, remove, replace, stat_or_none, write_atomic
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Document, Input, Preamble, Row, ShardRecord, Status
from hymt_batch.storage_error import write_error
from hymt_batch.write import formats
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
)  # not sent to the model
LoadedShard = tuple[list[PartHeader], dict[int, Row]]


def out_format(input: Input, config: WriteConfig) -> str:
    return input.format if config.format.value == "input" else str(config.format.value)


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a file is assembled from."""

    input: Input
    shards: ShardTable  # of every shard
    load_shard: Callable[[ShardRecord], LoadedShard]  # headers and rows of a shard, verified
    read_documents: Callable[[Input], Iterator[Document]]
    preamble: Callable[[Input], Preamble]
    config: WriteConfig
    identity: str
    check_lease: Callable[[], None]  # raises when nothing may be published any more
    make_folder: Callable[[Path], None]  # makes a folder that lasts
    preserve_foreign: Callable[
        [str], None
    ]  # keeps what stands in the file's place, unless its sha256 is this or the job's own


def assemble(fs: Fs, folder: Path, assembly: Assembly) -> JsonDict:
    """Write and publish one translated file and its errors file; the record of both.

    Raises:
        InputChangedError: A row is not what its translation was made from.
        StoppedError: The store refused.
    """
    input, before = assembly.input, stat_files(assembly.input)
    final, errors = manifest.translated_path(folder, input.out_rel), manifest.errors_path(folder, input.rel)
    tally = _Tally()
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(NewFile(fs, tmp_path(final)))
            bad: NewFile | None = None
            num_bad = 0
            kind = out_format(input, assembly.config)
            head, rows = assembly.preamble(input), partial(_read_documents, assembly)
            writer = formats.open_writer(input, kind, head, assembly.config, cast(BinaryIO, out), rows)
            for document, row in _documents_and_rows(assembly, tally):
                writer.write(document, row)
                if row.status is not Status.OK:
                    if bad is None:
                        assembly.make_folder(errors.parent)
                        bad = stack.enter_context(NewFile(fs, tmp_path(errors)))
                    bad.write(formats.error_line(document, row, assembly.config.raw_errors))
                    num_bad += 1
            writer.close()
            source = hash_input(input)
            if stat_files(input) != before:
                raise input_changed_error(f"{input.rel} was written to while it was read")
            output: JsonDict = {"rows": tally.num_rows, "bytes": out.size, "sha256": out.sync_and_close()}
            problems = {"rows": num_bad, "bytes": bad.size, "sha256": bad.sync_and_close()} if bad else None
            assembly.preserve_foreign(output["sha256"])
            assembly.check_lease()
            if bad:
                replace(fs, bad.path, errors)
                fs.fsync_dir(errors.parent)
            elif stat_or_none(fs, errors):  # of an earlier, worse run
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
        "format": kind,
        "rows": tally.num_rows,
        "input": source,
        "output": output,
        "errors": problems,
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
    log.info("published file=%r rows=%d errors=%d bytes=%d", input.out_rel, tally.num_rows, num_bad, out.size)
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
        """Of a shard. Where one of them is not written in the end, nothing is published."""
        found = rows.values()
        for status, count in Counter([row.status for row in found]).items():
            self.counts[status.value] += count
        self.flags.update(chain.from_iterable([row.flags for row in found if row.flags]))
        self.tokens["source"] += sum([row.num_source_tokens for row in found])
        self.tokens["new"] += sum([row.num_new_tokens for row in found])


def _documents_and_rows(assembly: Assembly, tally: _Tally) -> Iterator[tuple[Document, Row]]:
    """Every document with its row, in order; nothing more and nothing less than the shards hold."""
    name, wrong, documents = assembly.input.rel, RowRanges(), _read_documents(assembly)
    for record in assembly.shards:
        headers, rows = assembly.load_shard(record)
        for header in headers:
            tally.add_part(header)
        tally.add_rows(rows)
        for number in range(record.first_row, record.first_row + record.num_rows):
            document, row = next(documents, None), rows.pop(number)
            if document is None or document.row_index != number or document.digest != row.digest:
                wrong.add(number)
            elif not wrong.ranges:  # after a changed row we read on, to name them all, but write nothing
                tally.num_rows += 1
                yield document, _output_row(document, row, tally)
    if wrong.ranges:
        raise input_changed_error(f"{name} {wrong}")
    if (extra := next(documents, None)) is not None:
        raise input_changed_error(f"{name} goes on after row {extra.row_index}")


def _output_row(document: Document, row: Row, tally: _Tally) -> Row:
    """The row as it is written: one that cannot take the added fields is a bad row, whatever its translation is."""
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
    """The record of a published file, or None where there is none or a broken one (it is made again from the parts).

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        record = manifest.load(fs, record_path(folder, input))
        shard_table_of(record)
        if (record["rel"], record["out_rel"]) != (input.rel, input.out_rel):
            raise manifest.StateDamagedError("it is of another file")
        return record
    except manifest.StateMissingError:
        return None
    except manifest.StatePermissionError as denied:
        raise PermissionError(errno.EACCES, str(denied), str(record_path(folder, input))) from None
    except (manifest.StateDamagedError, KeyError, TypeError, ValueError) as error:
        log.warning("file_record file_id=%s ignored=%r", input.file_id, str(error))
        return None


def shard_table_of(record: JsonDict) -> ShardTable:
    """Of a file's record; a list of them in the folders of earlier versions."""
    found = record["shards"]
    if isinstance(found, str):
        return ShardTable.unpack(found)
    records = [decode_shard_record(fields) for fields in found]
    if any(one.index >= len(records) for one in records):
        raise ValueError("not the shards of one file")
    return ShardTable(records)


def describe_damage(fs: Fs, path: Path, expected: JsonDict | None) -> str:
    """How a published file differs from its record; "" when it does not. `wanted` None: it should not be there.

    Raises:
        PermissionError: This user may not read it.
    """
    found = stat_or_none(fs, path)
    if expected is None:
        return "" if found is None else "should not be there"
    if found is None:
        return "is missing"
    if found.kind != "file":
        return "is a folder" if found.kind == "dir" else "is a link or no file"
    if found.size != expected["bytes"]:
        return f"has {found.size} bytes, recorded are {expected['bytes']}"
    try:
        return "" if hash_file(fs, path)[1] == expected["sha256"] else "does not match its checksum"
    except PermissionError:
        raise  # it may be whole
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def is_intact(fs: Fs, folder: Path, record: JsonDict) -> bool:
    """Whether the published file and its errors file are whole."""
    output = describe_damage(fs, manifest.translated_path(folder, record["out_rel"]), record["output"])
    errors = describe_damage(fs, manifest.errors_path(folder, record["rel"]), record["errors"])
    for name, what in ((record["out_rel"], output), (f"{record['rel']}.errors.jsonl", errors)):
        if what:
            log.warning("published file=%r damage=%r", name, what)
    return not output and not errors
