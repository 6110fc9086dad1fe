"""Which rows of the published files of a job are not as they were published; reads, and changes nothing.

A file whose checksum differs is written again in memory from the row records, and both are compared as they go. A
format that writes rows in groups (parquet) tells the file alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from hymt_batch.errors import InputChangedError, PreflightError
from hymt_batch.formats import registry
from hymt_batch.formats.bytestream import READ_ERRORS
from hymt_batch.formats.compressed_stream import compression_of, open_published
from hymt_batch.formats.field_rows import ends_row
from hymt_batch.formats.joined_row import join_row
from hymt_batch.formats.writer import open_writer
from hymt_batch.fs import OS_FS
from hymt_batch.records import Document, Input, Row
from hymt_batch.run.finished_rows import FinishedJob
from hymt_batch.write import file_record
from hymt_batch.write.published_file import out_format

MAX_ROWS = 20
"""Most rows that are named of one file."""

HEADER = "what precedes its first row"
TRAILER = "what follows its last row"


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A published file that is not as the manifest has it."""

    path: str  # within the folder
    what: str  # how it differs
    rows: list[str] = field(default_factory=list)  # ids of its rows that differ, at most MAX_ROWS; HEADER, TRAILER


def find_changed_files(finished: FinishedJob) -> list[ChangedFile]:
    """Compare the outputs of a job, and the lists of rows beside them, with the checksums of its manifest.

    Raises:
        PreflightError: This user may not read one.
    """
    fs, found = OS_FS.within(finished.folder), list[ChangedFile]()
    inputs = {f"translated/{input.out_rel}": input for input in finished.inputs}
    recorded = finished.manifest
    for output in (*recorded["outputs"], *recorded["errors"], *recorded.get("review", ())):
        path = finished.folder / output["path"]
        try:
            what = file_record.describe_damage(fs, path, output)
        except PermissionError:
            fix = "Run this as the user who ran the job, or give this user permission."
            raise PreflightError(f"{path} cannot be read", fix=fix) from None
        if what:
            changed = ChangedFile(output["path"], what)
            found.append(changed)
            if path.is_file() and output["path"] in inputs:
                # what no compression has, and a changed input, leave no rows to tell
                with contextlib.suppress(*READ_ERRORS, InputChangedError):
                    is_as_long = path.stat().st_size == output["bytes"]
                    for row in _changed_rows(finished, inputs[output["path"]], path, is_as_long=is_as_long):
                        changed.rows.append(row)
    return found


def _changed_rows(finished: FinishedJob, input: Input, path: Path, *, is_as_long: bool) -> Iterator[str]:
    """Yield the rows of a changed file that differ: all while those behind them can be compared, else the first one."""
    target = out_format(input, finished.write_config)
    if registry.get(target).name == "parquet":
        return
    compression = compression_of(input.out_rel)
    plain = replace(input, out_rel=input.out_rel.rpartition(".")[0]) if compression else input
    with open_published(path) as published:
        compared = _Compared(published, is_aligned=is_as_long or bool(compression))
        yield from _compare(finished, plain, target, compared)


def _compare(finished: FinishedJob, input: Input, target: str, compared: _Compared) -> Iterator[str]:
    num_named = 0
    writer = open_writer(
        input,
        target,
        finished.preamble(input),
        finished.write_config,
        cast(BinaryIO, compared),
        lambda: (document for document, _ in finished.read(input)),
        is_buffered=False,
    )
    texts: list[tuple[Document, Row]] = []
    if compared.take_difference():
        num_named += 1
        yield HEADER
    for document, row in finished.read(input):
        texts.append((document, row))
        if not ends_row(document):
            continue
        joined, written = join_row(texts)
        texts.clear()
        writer.write(joined, written)
        if compared.take_difference() and num_named < MAX_ROWS:
            num_named += 1
            yield joined.id
            if not compared.is_aligned:
                return
    writer.close()
    if compared.take_difference() or compared.has_more:
        yield TRAILER


class _Compared:
    """Takes the bytes of an output, and compares them with those of the published file."""

    def __init__(self, published: BinaryIO, *, is_aligned: bool) -> None:
        self._published, self._differs = published, False
        self.is_aligned = is_aligned  # what is written next belongs to what is read next

    def write(self, data: Any) -> int:
        expected = bytes(data)
        found = self._published.read(len(expected))
        if found != expected:
            self._differs = True
            self.is_aligned = self.is_aligned and len(found) == len(expected) and found[-1:] == expected[-1:]
        return len(expected)

    @property
    def has_more(self) -> bool:
        return bool(self._published.read(1))

    def take_difference(self) -> bool:
        """Return whether bytes differed since the last call."""
        differs, self._differs = self._differs, False
        return differs
