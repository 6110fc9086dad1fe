"""Look at rows of a finished job beside their sources: how long translations are, and examples of each flag.

Of a large job it looks at some shards, spread over all of it, so that time and memory do not grow with the job.
"""

from __future__ import annotations

import contextlib
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hymt_batch.check import assemble
from hymt_batch.check.settings import CheckConfig, OnFail, flags_of
from hymt_batch.formats import registry
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Document, Input, Row, ShardRecord, Status
from hymt_batch.report.sources import SourceReader
from hymt_batch.write import file_record, identity_versions, input_locations, output_settings, place_ids
from hymt_batch.write.pass_rows import LaterRows, PassRows, is_as_good
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.state_file import StateFileDamagedError

MAX_ROWS = 16_384
MAX_FILES = 100
MAX_EXAMPLES = 3  # of a flag
MAX_TEXT_CHARS = 600
MAX_LANGUAGES = 8
BLANK = "blank"


@dataclass(frozen=True, slots=True)
class Example:
    """A row that a flag or a status is about."""

    id: str
    status: str
    flags: tuple[str, ...]
    source: str | None  # None if it is not known
    translation: str
    message: str = ""


class Reservoir:
    """Keeps some of the examples that it is shown, each with the same probability; equal jobs keep the same ones."""

    def __init__(self) -> None:
        self.kept: list[Example] = []
        self._num_seen, self._random = 0, random.Random(0)

    def place(self) -> int | None:
        """Count an example; return where it is to be kept, None if it is not."""
        self._num_seen += 1
        if len(self.kept) < MAX_EXAMPLES:
            return len(self.kept)
        place = self._random.randrange(self._num_seen)
        return place if place < MAX_EXAMPLES else None

    def keep(self, place: int, example: Example) -> None:
        self.kept[place : place + 1] = [example]


@dataclass(slots=True)
class Measured:
    """What was seen of a job's rows."""

    num_rows: int = 0  # rows that were looked at
    num_files: int = 0
    ratios: dict[str, array[float]] = field(
        default_factory=dict
    )  # target language of the row, "" for that of the job -> characters per source character
    examples: dict[str, Reservoir] = field(default_factory=dict)  # by flag
    attempts: Counter[int] = field(default_factory=Counter)  # rows that were decoded more than once, by attempts
    num_unread: int = 0  # inputs that are gone or have changed


@dataclass(frozen=True, slots=True)
class _File:
    input: Input
    record: JsonDict
    shards: ShardTable


def measure(fs: Fs, folder: Path, job: JobRecord, records: Mapping[str, JsonDict]) -> Measured:
    """Look at rows of the published files.

    Args:
        fs: The file system.
        folder: The output folder.
        job: Its job.
        records: The records of some or all published files, by the relative names of their inputs.
    """
    measured, files = Measured(), list(_read_files(fs, folder, job, records))
    paths = input_locations.find(fs, folder, [file.input.rel for file in files], [])
    sources, rows = SourceReader(job, paths), RecordStore(fs, folder, job.identity_sha256, job.layout)
    config, later = check_config(job), PassRows(fs, folder, job, refuse_damage=lambda what: None)
    wanted = _spread([(file, shard) for file in files for shard in file.shards])
    with contextlib.closing(sources):
        for file, shard in wanted:
            try:
                recorded = rows.read(file.input.file_id, shard.index)
                of_passes = later.load(file.input.file_id, shard)
            except (StateFileDamagedError, OSError):
                continue
            if recorded is not None:
                of_shard = _ShardRows(file, shard, recorded[1].rows, of_passes)
                _add_shard(measured, sources, of_shard, config, has_names=place_ids.are_needed(job, file.input))
    measured.num_files = len({file.input.rel for file, _ in wanted})
    measured.num_unread = len(sources.unread)
    return measured


def check_config(job: JobRecord) -> CheckConfig:
    """Return the settings by which the flags of a job's outputs are derived."""
    settings = identity_versions.with_added_output(output_settings.settings_of(job))
    flag = flags_of(settings, identity_versions.loop_repeats_of(job.identity))
    kinds = settings.get("check.fail_kinds", CheckConfig().fail_kinds)
    on_fail = OnFail(settings.get("check.on_fail", OnFail.keep.value))
    return CheckConfig(codes=bool(settings.get("check.codes")), on_fail=on_fail, fail_kinds=kinds, flag=flag)


def _read_files(fs: Fs, folder: Path, job: JobRecord, records: Mapping[str, JsonDict]) -> Iterator[_File]:
    """Yield the files to look at, with their shards: for each flag some that have it, the others spread evenly."""
    inputs = [input for input in job.inputs if input.rel in records]
    if len(inputs) > MAX_FILES:
        having: dict[str, list[str]] = {}
        for input in inputs:
            for flag in records[input.rel]["flags"]:
                if len(names := having.setdefault(flag, [])) < MAX_EXAMPLES:
                    names.append(input.rel)
        chosen = {name for flag, names in having.items() if flag != BLANK for name in names}
        step = -(-len(inputs) // MAX_FILES)
        chosen |= {input.rel for input in inputs[::step]}
        inputs = [input for input in inputs if input.rel in chosen]
    for input in inputs:
        record = file_record.read_record(fs, folder, input, job.layout)
        if record is not None:
            yield _File(input, record, file_record.shard_table_of(record))


def _spread(shards: Sequence[tuple[_File, ShardRecord]]) -> list[tuple[_File, ShardRecord]]:
    """Return shards that have about MAX_ROWS rows together, evenly spread over all; at least one."""
    total = sum(shard.num_rows for _, shard in shards)
    if total <= MAX_ROWS:
        return list(shards)
    num = max(1, len(shards) * MAX_ROWS // total)
    return [shards[index * len(shards) // num] for index in range(num)]


@dataclass(frozen=True, slots=True)
class _ShardRows:
    """A shard as it was decoded."""

    file: _File
    shard: ShardRecord
    rows: Sequence[Row]
    later: LaterRows  # of passes


def _add_shard(
    measured: Measured, sources: SourceReader, of_shard: _ShardRows, config: CheckConfig, *, has_names: bool
) -> None:
    file = of_shard.file
    documents = sources.documents(file.input, file.record, file.shards, of_shard.shard.index)
    one_line = registry.get(file.record["format"]).one_line and not _has_several_texts(sources, file)
    measured.num_rows += len(of_shard.rows)
    for row in of_shard.rows:
        document = documents.get(row.row_index)
        if document is not None and document.digest != row.digest:
            document = None
            sources.unread.add(file.input.rel)
        shaped = _shape(document, row, one_line, config)
        for _, candidate in of_shard.later.get(row.row_index, ()):
            again = replace(_shape(document, candidate, one_line, config), row_index=row.row_index)
            if candidate.digest == row.digest and is_as_good(again, shaped):  # as when the file was assembled
                shaped = again
        if shaped.attempts > 1:
            measured.attempts[shaped.attempts] += 1
        for flag in shaped.flags:
            if flag != BLANK:
                _add_example(measured, flag, file.input, document, shaped, has_names=has_names)
        is_ok = shaped.status is Status.OK and BLANK not in shaped.flags
        if is_ok and document is not None and document.text and shaped.text:
            ratios = measured.ratios.setdefault(document.tgt_lang or "", array("f"))
            ratios.append(len(shaped.text) / len(document.text))


def _shape(document: Document | None, row: Row, one_line: bool, config: CheckConfig) -> Row:
    return row if document is None else assemble.shape_row(document, row, one_line, config)


def _has_several_texts(sources: SourceReader, file: _File) -> bool:
    preamble = sources.preamble(file.input) if registry.of_input(file.input).has_fields else None
    return bool(preamble and preamble.text_fields)


def _add_example(
    measured: Measured, flag: str, input: Input, document: Document | None, row: Row, *, has_names: bool
) -> None:
    reservoir = measured.examples.setdefault(flag, Reservoir())
    if (place := reservoir.place()) is None:
        return
    reservoir.keep(
        place,
        Example(
            document.id if document is not None else f"{input.rel}{' text ' if has_names else '#'}{row.row_index + 1}",
            row.status.value,
            row.flags,
            (document.text or "")[: MAX_TEXT_CHARS + 1] if document is not None else None,
            row.text[: MAX_TEXT_CHARS + 1],
            row.message[: MAX_TEXT_CHARS + 1],
        ),
    )
