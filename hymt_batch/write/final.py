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
from hymt_batch.fs import Fs, NewFile, exists, hash_file, remove, replace, write_atomic
from hymt_batch.manifest import Plain
from hymt_batch.records import Document, Input, Preamble, Row, ShardRecord, Status
from hymt_batch.store_error import stopped
from hymt_batch.write import formats
from hymt_batch.write.inputs import Rows, changed, hash_input, seen, unreadable
from hymt_batch.write.part import Header, record_of
from hymt_batch.write.shard_table import ShardTable

if TYPE_CHECKING:
    from hymt_batch.write.settings import WriteConfig

log = logging.getLogger(__name__)

TMP = ".tmp-final-"
READ = frozenset({Status.BAD_ROW, Status.BAD_ENCODING, Status.BAD_LANGUAGE, Status.TOO_LONG})  # not sent to the model
Loaded = tuple[list[Header], dict[int, Row]]


def out_format(input: Input, config: WriteConfig) -> str:
    return input.format if config.format.value == "input" else str(config.format.value)


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a file is assembled from."""

    input: Input
    records: ShardTable  # of every shard
    load: Callable[[ShardRecord], Loaded]  # headers and rows of a shard, verified
    read: Callable[[Input], Iterator[Document]]
    preamble: Callable[[Input], Preamble]
    config: WriteConfig
    identity: str
    check: Callable[[], None]  # raises when nothing may be published any more
    folders: Callable[[Path], None]  # makes a folder that lasts
    spare: Callable[[str], None]  # keeps what stands in the file's place, unless its sha256 is this or the job's own


def assemble(fs: Fs, folder: Path, job: Assembly) -> Plain:
    """Write and publish one translated file and its errors file; the record of both.

    Raises:
        InputChangedError: A row is not what its translation was made from.
        StoppedError: The store refused.
    """
    input, before = job.input, seen(job.input)
    final, errors = manifest.translated(folder, input.out_rel), manifest.errors_file(folder, input.rel)
    tally = _Tally()
    try:
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(NewFile(fs, tmp_beside(final)))
            bad: NewFile | None = None
            num_bad = 0
            kind = out_format(input, job.config)
            head, rows = job.preamble(input), partial(_documents, job)
            writer = formats.open_writer(input, kind, head, job.config, cast(BinaryIO, out), rows)
            for document, row in _pairs(job, tally):
                writer.write(document, row)
                if row.status is not Status.OK:
                    if bad is None:
                        job.folders(errors.parent)
                        bad = stack.enter_context(NewFile(fs, tmp_beside(errors)))
                    bad.write(formats.error_line(document, row, job.config.raw_errors))
                    num_bad += 1
            writer.close()
            source = hash_input(input)
            if seen(input) != before:
                raise changed(f"{input.rel} was written to while it was read")
            output: Plain = {"rows": tally.num_rows, "bytes": out.size, "sha256": out.settle()}
            problems = {"rows": num_bad, "bytes": bad.size, "sha256": bad.settle()} if bad else None
            job.spare(output["sha256"])
            job.check()
            if bad:
                replace(fs, bad.path, errors)
                fs.fsync_dir(errors.parent)
            elif exists(fs, errors):  # of an earlier, worse run
                remove(fs, errors)
                fs.fsync_dir(errors.parent)
            replace(fs, out.path, final)
            fs.fsync_dir(final.parent)
    except OSError as error:
        raise stopped(f"translated/{input.out_rel}", error) from error
    record: Plain = {
        "identity": job.identity,
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
    record = manifest.plain(record)
    record["shards"] = job.records.pack()
    job.folders(record_path(folder, input).parent)
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
        self.environments: dict[bytes, Plain] = {}

    def part(self, header: Header) -> None:
        self.degraded.update(header.degraded)
        self.environments[manifest.canonical(header.environment)] = header.environment

    def rows(self, rows: Mapping[int, Row]) -> None:
        """Of a shard. Where one of them is not written in the end, nothing is published."""
        found = rows.values()
        for status, count in Counter([row.status for row in found]).items():
            self.counts[status.value] += count
        self.flags.update(chain.from_iterable([row.flags for row in found if row.flags]))
        self.tokens["source"] += sum([row.num_source_tokens for row in found])
        self.tokens["new"] += sum([row.num_new_tokens for row in found])


def _pairs(job: Assembly, tally: _Tally) -> Iterator[tuple[Document, Row]]:
    """Every document with its row, in order; nothing more and nothing less than the shards hold."""
    name, wrong, documents = job.input.rel, Rows(), _documents(job)
    for record in job.records:
        headers, rows = job.load(record)
        for header in headers:
            tally.part(header)
        tally.rows(rows)
        for number in range(record.first_row, record.first_row + record.num_rows):
            document, row = next(documents, None), rows.pop(number)
            if document is None or document.row != number or document.digest != row.digest:
                wrong.add(number)
            elif not wrong.runs:  # after a changed row we read on, to name them all, but write nothing
                tally.num_rows += 1
                yield document, _written(document, row, tally)
    if wrong.runs:
        raise changed(f"{name} {wrong}")
    if (extra := next(documents, None)) is not None:
        raise changed(f"{name} goes on after row {extra.row}")


def _written(document: Document, row: Row, tally: _Tally) -> Row:
    """The row as it is written: one that cannot take the added fields is a bad row, whatever its translation is."""
    if document.status is not Status.BAD_ROW or row.status in READ:
        return row
    tally.counts[row.status.value] -= 1
    tally.counts[Status.BAD_ROW.value] += 1
    return replace_fields(row, status=Status.BAD_ROW, text="", message=document.message)


def _documents(job: Assembly) -> Iterator[Document]:
    try:
        yield from job.read(job.input)
    except OSError as error:
        raise unreadable(job.input, error) from None


def tmp_beside(path: Path) -> Path:
    return path.with_name(f"{TMP}{uuid.uuid4().hex}")


def record_path(folder: Path, input: Input) -> Path:
    return manifest.file_state(folder, input.file_id) / "file.json"


def read_record(fs: Fs, folder: Path, input: Input) -> Plain | None:
    """The record of a published file, or None where there is none or a broken one (it is made again from the parts).

    Raises:
        PermissionError: This user may not read it.
    """
    try:
        record = manifest.load(fs, record_path(folder, input))
        shards(record)
        if (record["rel"], record["out_rel"]) != (input.rel, input.out_rel):
            raise manifest.StateDamage("it is of another file")
        return record
    except manifest.StateMissing:
        return None
    except manifest.StateDenied as denied:
        raise PermissionError(errno.EACCES, str(denied), str(record_path(folder, input))) from None
    except (manifest.StateDamage, KeyError, TypeError, ValueError) as error:
        log.warning("file_record file_id=%s ignored=%r", input.file_id, str(error))
        return None


def shards(record: Plain) -> ShardTable:
    """Of a file's record; a list of them in the folders of earlier versions."""
    found = record["shards"]
    if isinstance(found, str):
        return ShardTable.unpack(found)
    records = [record_of(fields) for fields in found]
    if any(one.index >= len(records) for one in records):
        raise ValueError("not the shards of one file")
    return ShardTable(records)


def damage(fs: Fs, path: Path, wanted: Plain | None) -> str:
    """How a published file differs from its record; "" when it does not. `wanted` None: it should not be there.

    Raises:
        PermissionError: This user may not read it.
    """
    found = exists(fs, path)
    if wanted is None:
        return "" if found is None else "should not be there"
    if found is None:
        return "is missing"
    if found.kind != "file":
        return "is a folder" if found.kind == "dir" else "is a link or no file"
    if found.size != wanted["bytes"]:
        return f"has {found.size} bytes, recorded are {wanted['bytes']}"
    try:
        return "" if hash_file(fs, path)[1] == wanted["sha256"] else "does not match its checksum"
    except PermissionError:
        raise  # it may be whole
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def standing(fs: Fs, folder: Path, record: Plain) -> bool:
    """Whether the published file and its errors file are whole."""
    output = damage(fs, manifest.translated(folder, record["out_rel"]), record["output"])
    errors = damage(fs, manifest.errors_file(folder, record["rel"]), record["errors"])
    for name, what in ((record["out_rel"], output), (f"{record['rel']}.errors.jsonl", errors)):
        if what:
            log.warning("published file=%r damage=%r", name, what)
    return not output and not errors
