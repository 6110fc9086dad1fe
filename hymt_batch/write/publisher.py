"""Publish a job's files from its row records, and its manifest when all files are published.

A file is published when all its shards are complete. A published file whose output settings are no longer those of the
job is assembled from the same records again, without decoding. Only the process that owns the folder publishes.
Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import MissingError, StoppedError
from hymt_batch.fs import has_content, remove, stat_or_none, sync_if_any, write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Document, Input, Row, Shard, ShardRecord, SkippedFile, plural
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import cleanup, file_record, manifest_contents, published_file, retired, set_aside
from hymt_batch.write.changed_inputs import describe_change
from hymt_batch.write.closed_rows import ClosedRows
from hymt_batch.write.input_changes import hash_input, input_changed_error
from hymt_batch.write.kept_records import FileRecords, KeptRecord, RecordPool
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.part_store import PartStore
from hymt_batch.write.pass_rows import PassRows
from hymt_batch.write.published_file import Assembly, InputAccess
from hymt_batch.write.row_record import ShardRows
from hymt_batch.write.settings import Retire, WriteConfig
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Published:
    record: KeptRecord
    shards: ShardTable


class Publisher:
    """Publishes the files of one job, and knows which are published."""

    def __init__(
        self,
        fs: Fs,
        folder: Path,
        job: JobRecord,
        inputs: Sequence[Input],
        config: WriteConfig,
        access: InputAccess,
        store: PartStore,
        check_lease: Callable[[], None],
    ) -> None:
        """Open the publisher; reads nothing yet.

        Args:
            fs: The file system.
            folder: The output folder.
            job: The job of the folder.
            inputs: In the order of the manifest.
            config, access: How translations are stored; how the inputs are read a second time, and how rows are shaped.
            store: The parts and row records of the job.
            check_lease: Raises if this process must not publish any more.
        """
        self._fs, self._folder, self._job, self._inputs = fs, folder, job, tuple(inputs)
        self._config, self._access, self._store, self._check_lease = config, access, store, check_lease
        self._layout = job.layout
        self._folders = store.records.folders  # of the state of the same files
        self._identity_sha256, self._settings_sha256 = job.identity_sha256, job.settings_sha256  # needed for each file
        self.published: dict[str, _Published] = {}  # file id -> the published file; read-only for callers
        self._pool = RecordPool()
        self._pass_rows = PassRows(fs, folder, job)
        self._outdated: dict[str, str] = {}  # file id -> `out_rel` of a file with earlier output settings
        self._complete_shards: dict[str, ShardTable] = {}  # file id -> the shards of a file that have a row record
        self._own_sha256s: dict[str, str] = {}  # `out_rel` -> sha256 of a file that this job will replace
        self._to_retire: dict[str, str] = {}  # file id -> `out_rel` of an earlier version that is kept in retired/
        self._listed_skipped: tuple[SkippedFile, ...] = ()  # in the manifest
        self._has_manifest = self._redo = False
        self._has_lists = True  # an earlier run may have left lists of rows

    @cached_property
    def _output_names(self) -> frozenset[str]:
        return frozenset(input.out_rel for input in self._inputs)

    @property
    def all_published(self) -> bool:
        return len(self.published) == len(self._inputs)

    @property
    def is_finished(self) -> bool:
        """True if all files are published and the manifest describes them."""
        return self.all_published and self._has_manifest

    def unpublished_inputs(self) -> list[Input]:
        return [input for input in self._inputs if input.file_id not in self.published]

    def load_published(
        self,
        closed: ClosedRows,
        *,
        redo: bool,
        is_new: bool = False,
        hash_of: Callable[[Input], JsonDict] = hash_input,
    ) -> None:
        """Find the files that are published and intact, and whose inputs did not change.

        Args:
            closed: The closed generations of the job.
            redo: Decode the rows of changed inputs again.
            is_new: This run created the job: no file is published, unless another run has taken over and finished.
            hash_of: Returns size and sha256 of an input.

        Raises:
            InputChangedError: An input changed since it was decoded, and `redo` is false.
        """
        lists = (self._folder / name for name in ("errors", "review"))
        self._has_lists = any(stat_or_none(self._fs, path) is not None for path in lists)
        self._redo, recorded_sha256s = redo, set_aside.recorded_sha256s(self._fs, self._folder)
        path = self._folder / "manifest.json"
        if is_new and stat_or_none(self._fs, path) is None:
            return
        for input in self._inputs:
            record = file_record.read_record(self._fs, self._folder, input, self._layout)
            if record is None and (earlier := closed.record(input)) is not None:
                self._will_replace(input, earlier)
                continue
            if record is None or record["identity"] != self._identity_sha256:
                if (recorded := recorded_sha256s.get(input.out_rel)) is not None:
                    self._own_sha256s[input.out_rel] = recorded
                continue
            is_unchanged = hash_of(input) == record["input"]
            if (
                not is_unchanged
                and not redo
                and (change := describe_change(self._store.rows, input, record, self._access.read_documents))
            ):
                raise input_changed_error(change)
            if is_unchanged and file_record.is_current(record, self._job, input):
                if file_record.is_intact(self._fs, self._folder, record):
                    self._set_published(input, record, file_record.shard_table_of(record))
                    continue
            elif is_unchanged and (
                record.get("settings_sha256", "") != self._settings_sha256
                or not file_record.has_passes(record, self._job, input)
            ):
                self._outdated[input.file_id] = record["out_rel"]
                self._own_sha256s[record["out_rel"]] = file_record.output_sha256(record)
                continue
            self._own_sha256s[record["out_rel"]] = file_record.output_sha256(record)
            remove(self._fs, file_record.record_path(self._folder, input, self._layout))
        self._load_manifest(path)

    def _load_manifest(self, path: Path) -> None:
        """Find whether the manifest describes the published files; remove it if some of them will be replaced."""
        if stat_or_none(self._fs, path) is None:
            return
        if self.all_published:
            self._listed_skipped = listed = manifest.read_skipped(self._fs, self._folder) or ()
            self._has_manifest = has_content(
                self._fs, path, manifest_contents.build(self._job, self.file_records(), listed)
            )
        else:
            remove(self._fs, path)
        self._fs.fsync_dir(self._folder)  # the process that wrote it may have been killed before this sync

    def _will_replace(self, input: Input, earlier: JsonDict) -> None:
        """Note the earlier version of a file that an update makes anew; `earlier` is its record."""
        self._own_sha256s[earlier["out_rel"]] = file_record.output_sha256(earlier)
        if self._config.retire is Retire.all:
            self._to_retire[input.file_id] = earlier["out_rel"]

    def _set_published(self, input: Input, record: JsonDict, shards: ShardTable) -> None:
        self.published[input.file_id] = _Published(self._pool.keep(record, input.rel, input.out_rel), shards)
        self._complete_shards.pop(input.file_id, None)
        self._folders.forget_folder(self._layout.file_state(self._folder, input.file_id))
        self._outdated.pop(input.file_id, None)

    def file_records(self) -> FileRecords:
        """Return the records of all files, which must be published, in the order of the inputs."""
        return FileRecords([self.published[input.file_id].record for input in self._inputs])

    def is_published(self, input: Input) -> bool:
        return input.file_id in self.published

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """Return the record of a shard of a published file."""
        published = self.published.get(input.file_id)
        return published.shards.get(shard_index) if published else None

    def check_shard(self, shard: Shard, *, redo: bool) -> None:
        """Check that a shard of a published file is the one that was published.

        Raises:
            InputChangedError: The input changed after this run began.
        """
        record = self.shard_record(shard.input, shard.index)
        if record is not None and (record.sha256, record.first_row) == (shard.sha256, shard.first_row):
            return
        if redo:
            # If two runs without a lease work while the input changes, the committed rows may be those of the new
            # input, but the file's record lists the shards of the old one, and every later run would stop here.
            # Remove the record, so that the file is assembled again.
            with wrap_os_errors(f"the record of {shard.input.rel}"):
                published = self.published[shard.input.file_id].record.to_json()
                self._own_sha256s[shard.input.out_rel] = file_record.output_sha256(published)
                remove(self._fs, file_record.record_path(self._folder, shard.input, self._layout))
                self._fs.fsync_dir(file_record.record_path(self._folder, shard.input, self._layout).parent)
        fix = "run the same command again; if you see this error again, set on_input_change=redo"
        raise input_changed_error(f"{shard.name} changed after this run began", fix)

    def assemble_outdated(self) -> int:
        """Assemble the files that have earlier output settings, or lack a pass, again, and return their number.

        Decodes nothing.
        """
        num_assembled = 0
        for input in self._inputs:
            record = (
                file_record.read_record(self._fs, self._folder, input, self._layout)
                if input.file_id in self._outdated
                else None
            )
            if record is not None and self._store.finish_shards(input, shards := file_record.shard_table_of(record)):
                self._publish(input, shards)
                num_assembled += 1
        return num_assembled

    def complete_shard(self, input: Input, shard: ShardRecord) -> None:
        """Record that a shard has its row record; the last shard of a file publishes it. Idempotent."""
        if input.file_id in self.published:
            return
        complete = self._complete_shards.setdefault(input.file_id, ShardTable())
        if shard.index not in complete:
            complete.add(shard)
        if complete.is_complete:
            self._publish(input, complete)

    def has_complete_shard(self, input: Input, shard_index: int) -> bool:
        return input.file_id in self.published or shard_index in self._complete_shards.get(input.file_id, ())

    def add_pass(self, job: JobRecord) -> None:
        """Take over a job that got a new pass: the files that have rows of it are to be assembled again.

        The caller has removed the manifest, which describes the files as they are.
        """
        self._job, self._pass_rows = job, PassRows(self._fs, self._folder, job)
        self._has_manifest = False
        for input in self._inputs:
            published = self.published.get(input.file_id)
            if published is None or file_record.has_passes(record := published.record.to_json(), job, input):
                continue
            del self.published[input.file_id]
            self._outdated[input.file_id] = record["out_rel"]
            self._own_sha256s[record["out_rel"]] = file_record.output_sha256(record)

    def published_rows(self, input: Input) -> Iterator[tuple[Document, Row]]:
        """Yield the documents of a published file, each with its row as it is written, from the row records.

        Raises:
            InputChangedError: A row differs from the one that was translated.
            MissingError: The rows of a shard are lost.
        """
        shards = self.published[input.file_id].shards
        if lost := [shard.index for shard in shards if self._store.records.header(input.file_id, shard.index) is None]:
            raise MissingError(
                f"the rows of {input.rel} are not all there: the record of shard {lost[0]} is missing or damaged",
                fix="Remove the file from translated/ and run hymt-batch translate with the settings of the job, which "
                "translates the shard again.",
            )
        yield from published_file.documents_and_rows(self._assembly(input, shards), Tally())

    def record_of(self, input: Input) -> JsonDict:
        """Return the record of a published file."""
        return self.published[input.file_id].record.to_json()

    def _assembly(self, input: Input, shards: ShardTable) -> Assembly:
        return Assembly(
            input=input,
            shards=shards,
            load_rows=lambda shard: self._load_rows(input.file_id, shard),
            access=self._access,
            config=self._config,
            layout=self._layout,
            identity=self._identity_sha256,
            settings_sha256=self._settings_sha256,
            check_lease=self._check_lease,
            make_folder=self._folders.ensure,
            has_lists=self._has_lists,
            preserve_foreign=lambda sha256: self._preserve_foreign(input, sha256),
            load_later_rows=lambda shard: self._pass_rows.load(input.file_id, shard),
            passes=self._pass_rows.numbers(input.file_id),
        )

    def _publish(self, input: Input, shards: ShardTable) -> None:
        assembly = self._assembly(input, shards)
        try:
            with wrap_os_errors(f"translated/{input.out_rel}"):
                self._folders.ensure(manifest.translated_path(self._folder, input.out_rel).parent)
                record = published_file.assemble(self._fs, self._folder, assembly)
                self._remove_replaced_files(input)
                if self._redo:
                    self._store.records.remove_beyond(input.file_id, shards.end)
                file_record.save_record(self._fs, self._folder, input, record, self._layout)
        except StoppedError:
            # another process may have published the file in the meantime
            other_record = file_record.read_record(self._fs, self._folder, input, self._layout)
            if (
                other_record is None
                or not file_record.is_current(other_record, self._job, input)
                or not file_record.is_intact(self._fs, self._folder, other_record)
            ):
                raise
            record, shards = other_record, file_record.shard_table_of(other_record)
        self._set_published(input, record, shards)

    def _load_rows(self, file_id: str, shard: ShardRecord) -> ShardRows:
        loaded = self._store.records.load(file_id, shard.index)
        # under redo another run may have committed newer rows of the shard; each row is compared with the source
        if loaded is None or (loaded.shard != shard and not self._redo):
            raise PartReader.damaged_error(file_id, shard.index)
        return loaded

    def _preserve_foreign(self, input: Input, sha256: str) -> bool:
        if (earlier := self._to_retire.pop(input.file_id, None)) is not None:
            retired.keep(self._fs, self._folder, earlier, self._folders.ensure, sha256)
        ours = (sha256, self._own_sha256s.pop(input.out_rel, None))
        return set_aside.preserve_foreign(self._fs, self._folder, input.out_rel, ours, self._folders.ensure)

    def _remove_replaced_files(self, input: Input) -> None:
        """Remove the names that a file had under earlier output settings, once its new name is durable."""
        names = {*self._job.replaced_paths.get(input.file_id, ()), *filter(None, [self._outdated.get(input.file_id)])}
        for name in sorted(names - self._output_names) if names else ():
            path = manifest.translated_path(self._folder, name)
            stat = stat_or_none(self._fs, path)
            if stat is not None and stat.kind != "file":
                log.warning("translated/%s is not what this job wrote: it is left there", name)
                continue
            if stat is None and stat_or_none(self._fs, path) is None:  # one wrong answer must not leave the file there
                continue
            self._fs.fsync_dir(manifest.translated_path(self._folder, input.out_rel).parent)
            ours = (self._own_sha256s.get(name),)
            set_aside.preserve_foreign(self._fs, self._folder, name, ours, self._folders.ensure)
            self._check_lease()
            remove(self._fs, path)
            self._fs.fsync_dir(path.parent)
            cleanup.remove_empty_folders(self._fs, self._folder, path.parent)

    def finish(self, skipped: Sequence[SkippedFile] = ()) -> None:
        """Write the manifest once every file is published, or if it lists other skipped files. Can be repeated.

        Raises:
            MissingError: A file is not complete; the message lists the missing shards.
        """
        missing = [
            f"  {input.rel}: shards {self._complete_shards.get(input.file_id, ShardTable()).describe_gaps()}"
            for input in self.unpublished_inputs()
        ]
        if missing:
            missing[20:] = [f"  and {plural(len(missing) - 20, 'more file')}"] if len(missing) > 20 else []
            missing.insert(0, f"{self._folder.name} is not complete. To be translated:")
            raise MissingError("\n".join(missing), fix="Run the same command again to translate them.")
        if not self._has_manifest or (self._job.formats and self._listed_skipped != tuple(skipped)):
            with wrap_os_errors("manifest.json"):
                for input in self._inputs:  # the names of all files must be durable before the manifest is
                    self._fs.fsync_dir(self._layout.file_state(self._folder, input.file_id))
                for folder in sorted(self._published_folders()):
                    sync_if_any(self._fs, folder)  # perhaps no file has a list of rows there
                self._check_lease()
                contents = manifest_contents.build(self._job, self.file_records(), skipped)
                write_atomic(self._fs, self._folder / "manifest.json", contents)
            self._has_manifest = True
        if self._job.replaced_settings:
            with wrap_os_errors("job.json"):
                for input in self._inputs:  # a run for other settings may have been killed after it published a file
                    self._remove_replaced_files(input)
                self._check_lease()
                self._job = replace(self._job, replaced_settings=(), replaced_paths={})
                manifest.replace_job(self._fs, self._folder, self._job)

    def _published_folders(self) -> set[Path]:
        """Return the folders of all files and of their lists, from which a killed run may have removed a list."""
        return manifest.published_folders(self._folder, self._inputs)
