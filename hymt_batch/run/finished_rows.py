"""The rows of a finished job, as it published them: each source beside its translation, status and flags.

They are derived as when a file is assembled: from the row records and the inputs, which are read again. Changes
nothing, takes no lease, and imports no heavy library.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.check import assemble
from hymt_batch.check.settings import CheckConfig, flags_of
from hymt_batch.errors import InputChangedError, MissingError, PreflightError
from hymt_batch.formats import registry
from hymt_batch.fs import OS_FS, hash_file
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict, StateDamagedError, StatePermissionError
from hymt_batch.records import Document, Input, Preamble, Row, ShardRecord
from hymt_batch.run import recorded_config
from hymt_batch.source import discovery, stream
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.write import (
    file_record,
    identity_versions,
    input_locations,
    manifest_only,
    output_settings,
    row_record,
)
from hymt_batch.write.pass_rows import LaterRows, PassRows
from hymt_batch.write.published_file import InputAccess, documents_and_rows, row_shaper
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.row_record import ShardRows
from hymt_batch.write.row_shaper import RowShaper
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.state_file import StateFileDamagedError
from hymt_batch.write.tally import Tally


@dataclass(frozen=True, slots=True)
class _FileRows:
    """See `published_file.FileRows`."""

    input: Input
    shards: ShardTable
    load_rows: Callable[[ShardRecord], ShardRows]
    load_later_rows: Callable[[ShardRecord], LaterRows]
    access: InputAccess
    config: WriteConfig


class FinishedJob:
    """A finished job in its folder.

    Attributes:
        folder: The output folder.
        job: The job, with its identity and output settings.
        manifest: The contents of `manifest.json`.
        manifest_sha256: Of the bytes of the manifest; another value means that the output changed.
        inputs: The inputs in the order of the manifest, with the paths where they are now.
        write_config: How its translations are stored.
    """

    def __init__(
        self,
        folder: Path,
        search_paths: Sequence[str] = (),
        fs: Fs = OS_FS,
        *,
        check_outputs: bool = True,
        locate_inputs: bool = True,
    ) -> None:
        """Open a folder; reads the manifest and the records of its files.

        Args:
            folder: The output folder.
            search_paths: Where the inputs are now; () for where the job read them.
            fs: The file system.
            check_outputs: Refuse a job whose published files are not those of its records.
            locate_inputs: False to read no input, but committed rows alone.

        Raises:
            MissingError: The job is not complete, or its output is damaged.
            PreflightError: Its rows were not kept, or this user may not read them.
            InputChangedError: An input is not where the job read it.
        """
        self.folder, self._fs = folder, fs.within(folder)
        self.manifest = _read_manifest(self._fs, folder)
        self.manifest_sha256 = hash_file(self._fs, folder / "manifest.json")[1]
        self.job = _read_job(self._fs, folder, self.manifest)
        self._records = RecordStore(self._fs, folder, self.job.identity_sha256, self.job.layout)
        self._pass_rows = PassRows(self._fs, folder, self.job, self._refuse_damage)
        self._shards = {
            input.rel: _published_shards(self._fs, folder, self.job, input, check_output=check_outputs)
            for input in self.job.inputs
        }
        self._source = recorded_config.source_config(self.job)
        values = identity_versions.with_added_output(output_settings.settings_of(self.job))
        write = recorded_config.from_settings(WriteConfig, "write", values)
        self.write_config = output_settings.config_of_folder(write, self.job)
        check = recorded_config.from_settings(CheckConfig, "check", values)
        self._check = replace(check, flag=flags_of(values, identity_versions.loop_repeats_of(self.job.identity)))
        self._plan_version = identity_versions.plan_version_of(self.job.identity)
        self._preambles = PreambleCache(self._source, self.write_config.added_fields, has_begun=lambda input: True)
        self.inputs = tuple(self._located(search_paths)) if locate_inputs else self.job.inputs
        self._by_id = {input.file_id: input for input in self.inputs}

    @property
    def tgt_lang(self) -> str:
        """The target language of the job; a row may name another one."""
        return str((self.job.identity.get("prompt") or {}).get("tgt_lang") or "")

    @property
    def limit(self) -> int | None:
        """The number of rows to which the job is limited; None if it has all of its inputs."""
        return self._source.limit

    def _located(self, search_paths: Sequence[str]) -> list[Input]:
        paths = input_locations.find(self._fs, self.folder, [input.rel for input in self.job.inputs], search_paths)
        if missing := [input.rel for input in self.job.inputs if input.rel not in paths]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputChangedError(
                f"the input {missing[0]}{more} is not where the job read it",
                why="The sources of the rows are read again.",
                fix="Set inputs=PATH, as in source.path=, to its new path.",
            )
        located = [
            replace(discovery.with_settings(input, self._source), path=paths[input.rel], tgt_lang=self.tgt_lang)
            for input in self.job.inputs
        ]
        return stream.apply_limit(located, self._source, self._preambles, self._plan_version)

    def read(self, input: Input) -> Iterator[tuple[Document, Row]]:
        """Yield each document of an input with its row as it is written, in order.

        Raises:
            InputChangedError: The input differs from what was translated.
            PreflightError: The rows of a shard were not kept.
        """
        return documents_and_rows(self._rows_of(input), Tally())

    def shaper(self, input: Input) -> RowShaper:
        """Return what makes the row that the output holds of a row that is decoded."""
        return row_shaper(self._rows_of(input))

    def preamble(self, input: Input) -> Preamble:
        """Return what precedes the first row of an input."""
        return self._preambles(input)

    def rows_of_passes(self, input: Input) -> set[int]:
        """Return the indices of the rows that a pass of `retry` decoded again."""
        if not self.job.passes_of(input.file_id):
            return set()
        return {row for shard in self._shards[input.rel] for row in self._pass_rows.load(input.file_id, shard)}

    def shards(self, file_id: str) -> list[ShardRecord]:
        """Return the shards of a file; [] if the job has no such file."""
        return list(self._shards[self._by_id[file_id].rel]) if file_id in self._by_id else []

    def committed_rows(self, file_id: str, shard: ShardRecord) -> tuple[ShardRows, LaterRows]:
        """Return the rows of a shard and of the passes for it, as they were committed."""
        return self._load_rows(self._by_id[file_id], shard), self._pass_rows.load(file_id, shard)

    def row_digests(self, passes: Collection[int]) -> Iterator[tuple[str, str]]:
        """Yield the sha256 of the rows of each shard, and of those of the passes with these numbers.

        Raises:
            MissingError: A record is missing or damaged.
        """
        for input in self.job.inputs:
            for shard in self._shards[input.rel]:
                yield f"{input.file_id} {shard.index}", self._digest(self._records.path(input.file_id, shard.index))
        for number, index, path in self._pass_rows.record_paths():
            if number in passes:
                yield f"pass {number} {index}", self._digest(path)

    def _digest(self, path: Path) -> str:
        try:
            return row_record.read_header(self._fs, path).payload_sha256
        except FileNotFoundError:
            raise rows_not_kept(self.folder) from None
        except StateFileDamagedError as damage:
            raise _not_complete(self.folder, f"{path.name} is damaged: {damage}") from None

    def _rows_of(self, input: Input) -> _FileRows:
        return _FileRows(
            input,
            self._shards[input.rel],
            partial(self._load_rows, input),
            partial(self._pass_rows.load, input.file_id),
            InputAccess(self._read_documents, self._preambles, self._shape_row),
            self.write_config,
        )

    def _shape_row(self, document: Document, row: Row, one_line: bool) -> Row:
        return assemble.shape_row(document, row, one_line, self._check, self.tgt_lang)

    def fields_of(self, input: Input) -> Callable[[Document], Mapping[str, Any] | None]:
        """Return what reads the fields of an input's documents, which `read` yields, in their order."""
        return registry.of_input(input).document_fields.new_reader().read

    def _read_documents(self, input: Input) -> Iterator[Document]:
        rows = stream.read_full_documents(
            input, self._source, self.inputs, self.write_config.added_fields, self._plan_version, self._preambles
        )
        return (document for document, _ in rows)

    def _load_rows(self, input: Input, shard: ShardRecord) -> ShardRows:
        try:
            recorded = self._records.read(input.file_id, shard.index)
        except StateFileDamagedError as damage:
            raise _not_complete(self.folder, f"the rows of {input.rel} are damaged: {damage}") from None
        if recorded is None:
            raise rows_not_kept(self.folder)
        return ShardRows(recorded[0].shard, recorded[0].counts, recorded[1])

    def _refuse_damage(self, what: str) -> None:
        raise _not_complete(self.folder, what)


def rows_not_kept(folder: Path) -> PreflightError:
    """Return the error for a folder without row records."""
    return PreflightError(
        f"{folder} has no record of its rows",
        why="The job ran with write.keep_rows=false, or its .hymt folder is missing.",
        fix="Translate again under another name with write.keep_rows=true (the default).",
    )


def _not_complete(folder: Path, why: str) -> MissingError:
    return MissingError(
        f"the job in {folder} is not complete",
        why=why,
        fix="Run the job again; `hymt-batch status` shows how far it is.",
    )


def _may_not_read(folder: Path, why: str) -> PreflightError:
    return PreflightError(
        f"{folder} cannot be read", why=why, fix="Run this as the user who ran the job, or give this user permission."
    )


def _read_manifest(fs: Fs, folder: Path) -> JsonDict:
    try:
        return manifest.read(fs, folder)
    except StatePermissionError as denied:
        raise _may_not_read(folder, str(denied)) from None
    except StateDamagedError as damage:
        raise _not_complete(folder, f"manifest.json: {damage}") from None


def _read_job(fs: Fs, folder: Path, value: JsonDict) -> JobRecord:
    """Return the job of a folder, whose manifest must be that of this job."""
    if manifest_only.has_no_state(fs, folder) and value["inputs"]:
        raise rows_not_kept(folder)
    try:
        job = manifest.read_job(fs, folder)
    except StatePermissionError as denied:
        raise _may_not_read(folder, str(denied)) from None
    except StateDamagedError as damage:
        raise _not_complete(folder, f".hymt/job.json: {damage}") from None
    if value["identity"] != job.identity or value.get("output_settings", {}) != job.output_settings:
        raise _not_complete(folder, "its manifest is that of another job")
    return job


def _published_shards(fs: Fs, folder: Path, job: JobRecord, input: Input, *, check_output: bool) -> ShardTable:
    """Return the shards of a published file, which must be intact with `check_output`."""
    record = file_record.read_record(fs, folder, input, job.layout)
    if record is None or not file_record.is_current(record, job, input):
        raise _not_complete(folder, f"{input.rel} is not published")
    path = manifest.translated_path(folder, input.out_rel)
    if check_output and (damage := file_record.describe_damage(fs, path, record["output"])):
        raise _not_complete(folder, f"translated/{input.out_rel} {damage}")
    return file_record.shard_table_of(record)
