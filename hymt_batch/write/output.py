"""The output folder of one job: open it, commit parts, finish files, finalize.

The part format, the commit of a part, the lease and the assembly of a file are in the modules beside this one.
Independent of the model and of how parts are planned.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import DeviceError, ExitCode, HymtError, MissingError, PreflightError, StoppedError
from hymt_batch.formats import registry
from hymt_batch.fs import OS_FS, Fs, has_content, remove, stat_or_none, write_atomic
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Document, Input, Part, Preamble, Row, Shard, ShardRecord
from hymt_batch.storage_error import output_folder_error
from hymt_batch.write import (
    cleanup,
    identity_versions,
    input_locations,
    lease,
    manifest_only,
    ownership,
    path_check,
    published_file,
    set_aside,
    stop_reason,
)
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.input_changes import describe_changed_shards, hash_input, input_changed_error
from hymt_batch.write.lease import Lease
from hymt_batch.write.part_reader import PartReader, describe_changes
from hymt_batch.write.part_store import PartStore, make_shard_record
from hymt_batch.write.published_file import Assembly
from hymt_batch.write.settings import OnError, WriteConfig, WriteFormat
from hymt_batch.write.shard_table import ShardTable
from hymt_batch.write.storage import DurableFolders, check_space, check_storage, wrap_os_errors
from hymt_batch.write.summary import Summary, summarize

log = logging.getLogger(__name__)

__all__ = ["OnError", "Output", "Summary", "WriteConfig", "WriteFormat"]


@dataclass(frozen=True, slots=True)
class _Published:
    record: JsonDict  # the record without its "shards" field
    shards: ShardTable


class Output:
    """An output folder, leased by this process until the end of the `with` block."""

    def __init__(
        self,
        job_folder: Path,
        job: JobRecord,
        *,
        identity: JsonDict,
        environment: JsonDict,
        inputs: Sequence[Input],
        config: WriteConfig,
        read: Callable[[Input], Iterator[Document]],
        preamble: Callable[[Input], Preamble],
        redo: bool,
        held_lease: Lease | None,
        fs: Fs,
    ) -> None:
        """Use `open`."""
        self.folder, self.is_complete, self._exited = job_folder, False, False
        self.identity = identity  # identity of the folder's job, upgraded to this version's keys
        self._job, self._inputs, self._config, self._read_documents, self._preamble = (
            job,
            tuple(inputs),
            config,
            read,
            preamble,
        )
        self._redo, self._lease, self._fs, self._opened_at = redo, held_lease, fs, time.monotonic()
        self._reader, self._folders = PartReader(fs, job_folder, job.identity_sha256), DurableFolders(fs, job_folder)
        self._part_store = PartStore(
            fs, self._reader, self._folders, job.identity_sha256, environment, redo=redo, lease=held_lease
        )
        self.attempts = AttemptMarkers(fs, job_folder)
        self._published: dict[str, _Published] = {}  # file_id -> the published file
        self._complete_shards: dict[str, ShardTable] = {}  # file_id -> its complete shards
        self._bare_manifest: JsonDict | None = None  # manifest of a finished job without .hymt state
        self._own_sha256s: dict[str, str] = {}  # file_id -> sha256 of a file that this job will replace

    @classmethod
    def open(
        cls,
        job_folder: Path,
        *,
        identity: JsonDict,
        environment: JsonDict,
        inputs: Sequence[Input],
        config: WriteConfig,
        read: Callable[[Input], Iterator[Document]],
        preamble: Callable[[Input], Preamble],
        overwrite: bool = False,
        on_mismatch: str = "refuse",
        on_input_change: str = "refuse",
        auto_keys: Collection[str] = (),
        aliases: Sequence[JsonDict] = (),
        lease_ttl_s: float = 180.0,
        lease_beat_s: float = 20.0,
        fs: Fs = OS_FS,
    ) -> Output:
        """Check that the folder belongs to this job, take the lease and load what is already committed.

        Nothing is written before the folder's identity is checked.

        Args:
            job_folder: The requested folder. With fork, the folder in use may be another one: see `self.folder`.
            identity: Every setting that changes the text; a nested dict of plain values.
            environment: Settings that may change a translation through rounding errors; recorded in each part.
            inputs: In the order of the manifest.
            config: How translations are stored.
            read: Starts a new pass over an input's documents, in row order.
            preamble: Returns what precedes an input's first row.
            overwrite: Start over, whatever the folder holds.
            on_mismatch: "refuse" or "fork".
            on_input_change: "refuse", "redo" or "fork".
            auto_keys: Keys of the identity whose values are fixed when the folder is created, such as
                "batch.part_rows". `identity` has the values for a new folder, `self.identity` those in effect.
            aliases: Other identities with which this same job may have been created; used if job.json is lost.
            lease_ttl_s: Seconds without a heartbeat after which a holder is considered dead; 0 disables the lease
                (safe, but two runs may do the same work).
            lease_beat_s: Seconds between two heartbeats.
            fs: The file system.

        Raises:
            IdentityError: The folder belongs to a job with other settings.
            InputChangedError: Files were added, removed or changed.
            LeaseError: Another process uses the folder.
            PreflightError: The file system cannot hold the output.
        """
        fs = fs.within(job_folder)
        path_check.check_names(inputs, job_folder)
        requested = ownership.RequestedJob(
            manifest.new_job(identity, inputs, environment),
            frozenset(auto_keys),
            tuple(map(manifest.json_roundtrip, aliases)),
        )
        held_lease: Lease | None = None
        try:
            path_check.check_state(fs, job_folder)
            job_folder = ownership.choose_folder(
                fs,
                job_folder,
                requested,
                overwrite=overwrite,
                on_mismatch=on_mismatch,
                on_input_change=on_input_change,
                describe_changes=lambda candidate, job: describe_changes(
                    fs, candidate, requested.with_identity(job.identity), read
                ),
            )
            path_check.check_state(fs, job_folder)
            path_check.check_inputs(fs, job_folder, inputs)
            folders = DurableFolders(fs, job_folder)
            for name in (".hymt/lease", ".hymt/quarantine", "translated"):
                folders.ensure(job_folder / name)
            if lease_ttl_s > 0:
                held_lease = lease.acquire(fs, job_folder, ttl_s=lease_ttl_s, beat_s=lease_beat_s)
            stop_reason.clear(fs, job_folder)
            if held_lease:
                cleanup.remove_leftovers(fs, job_folder, inputs)
            check_storage(fs, job_folder)
            job = ownership.create_or_open_job(
                fs, job_folder, requested, overwrite=overwrite, on_input_change=on_input_change
            )
            differences = manifest.diff(job.environment, requested.job.environment)
            # keys that an earlier version did not record are new, not changed
            if newly_recorded := [difference for difference in differences if difference[1] is manifest.MISSING]:
                log.info("environment now also records:\n%s", manifest.format_diff(newly_recorded))
            if changed := [difference for difference in differences if difference[1] is not manifest.MISSING]:
                log.warning("environment differs from the job's first run:\n%s", manifest.format_diff(changed))
            output = cls(
                job_folder,
                job,
                identity=identity_versions.upgrade(job.identity, requested.job.identity),
                environment=requested.job.environment,
                inputs=inputs,
                config=config,
                read=read,
                preamble=preamble,
                redo=on_input_change == "redo",
                held_lease=held_lease,
                fs=fs,
            )
            output._load_published()
            open_inputs = [i for i in inputs if i.file_id not in output._published]
            if open_inputs:
                check_space(fs, job_folder, open_inputs, config.min_free)
                path_check.check_writable(fs, job_folder, open_inputs)
            if not output.is_complete:
                input_locations.save(fs, job_folder, inputs)
            return output
        except BaseException as error:
            reported_error: BaseException = (
                output_folder_error(job_folder, error) if isinstance(error, OSError) else error
            )
            try:
                if held_lease and isinstance(error, (OSError, PreflightError)):
                    held_lease.check()  # if another process took over and removed our probes, report that
                if held_lease and isinstance(error, Exception):
                    stop_reason.write(fs, job_folder, *stop_reason.describe(reported_error))
            finally:
                if held_lease:
                    held_lease.release()
            if reported_error is not error:
                raise reported_error from error
            raise

    def set_environment(self, environment: JsonDict) -> None:
        """Set the environment that is recorded in all parts committed from now on."""
        self._part_store.set_environment(environment)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        orderly = error is None or isinstance(error, HymtError)
        self._exited = True
        if isinstance(error, (Exception, KeyboardInterrupt)):
            self._save_stop_reason(*stop_reason.describe(error))
        self.close(orderly=orderly and not isinstance(error, DeviceError))

    def _save_stop_reason(self, code: ExitCode, reason: str) -> None:
        """Write why this run stops, unless another run took over the folder."""
        with contextlib.suppress(StoppedError):
            self._part_store.check_lease()
            stop_reason.write(self._fs, self.folder, code, reason)

    def close(self, *, orderly: bool = True) -> None:
        """Release the lease; everything committed stays.

        Args:
            orderly: Remove this run's attempt markers. False keeps them: a part in progress may have caused the stop.
        """
        if not self._exited:  # called inside the `with` block: the process is about to exit
            self._exited = True
            self._save_stop_reason(ExitCode.STOPPED, "a signal stopped it at once" if orderly else "a step did not end")
        if orderly:
            self.attempts.remove_own()
        if self._lease:
            self._lease.release()
            self._lease = None

    def _load_published(self) -> None:
        """Find the files that are published and intact, and whose inputs did not change."""
        self._bare_manifest = manifest_only.read_if_complete(
            self._fs, self.folder, self._job.identity, self._inputs, redo=self._redo
        )
        if self._bare_manifest is not None:
            log.warning("%s: %s", self.folder.name, manifest_only.STATE_LOST_NOTE)
            self.is_complete = True
            return
        recorded_sha256s = set_aside.recorded_sha256s(self._fs, self.folder)
        for input in self._inputs:
            record = published_file.read_record(self._fs, self.folder, input)
            if record is None or record["identity"] != self._job.identity_sha256:
                self._own_sha256s.update(
                    {input.file_id: recorded_sha256s[input.out_rel]} if input.out_rel in recorded_sha256s else {}
                )
                continue
            unchanged = hash_input(input) == record["input"]
            if not unchanged and not self._reader.has_any(input.file_id):
                if not self._redo:
                    raise input_changed_error(
                        describe_changed_shards(input, list(published_file.shard_table_of(record)))
                    )
            elif unchanged and published_file.is_intact(self._fs, self.folder, record):
                self._set_published(input, record)
                continue
            self._own_sha256s[input.file_id] = record["output"]["sha256"]
            remove(self._fs, published_file.record_path(self.folder, input))
        path = self.folder / "manifest.json"
        if stat_or_none(self._fs, path) is None:
            return
        if len(self._published) == len(self._inputs):
            self.is_complete = has_content(self._fs, path, manifest.build(self._job, self._file_records()))
        else:  # some of the files that it describes will be replaced
            remove(self._fs, path)
        self._fs.fsync_dir(self.folder)  # the process that wrote it may have been killed before this sync

    def _set_published(self, input: Input, record: JsonDict) -> None:
        shards = published_file.shard_table_of(record)
        self._published[input.file_id] = _Published({k: v for k, v in record.items() if k != "shards"}, shards)
        self._complete_shards.pop(input.file_id, None)

    def _file_records(self) -> list[JsonDict]:
        return [self._published[i.file_id].record for i in self._inputs]

    def is_one_line(self, input: Input) -> bool:
        """True if the output format of an input cannot hold a line break inside a translation."""
        return registry.get(published_file.out_format(input, self._config)).one_line

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """Return the record of a complete shard, so that a run can skip it; None while any of its parts is missing."""
        published = self._published.get(input.file_id)
        return published.shards.get(shard_index) if published else self._part_store.shard_record(input, shard_index)

    def has(self, shard: Shard, part: Part) -> bool:
        """True if a part is committed, intact, and was decoded from exactly these rows.

        Raises:
            InputChangedError: The part was decoded from other rows, and on_input_change is not "redo".
        """
        if (published := self._published.get(shard.input.file_id)) is None:
            return self._part_store.has(shard, part)
        record = published.shards.get(shard.index)
        if record is None or (record.sha256, record.first_row) != (shard.sha256, shard.first_row):
            if self._redo:
                # If two runs without a lease work while the input changes, the committed rows may be those of the new
                # input, but the file's record lists the shards of the old one, and every later run would stop here.
                # Remove the record, so that the file is assembled again.
                with wrap_os_errors(f"the record of {shard.input.rel}"):
                    self._own_sha256s[shard.input.file_id] = published.record["output"]["sha256"]
                    remove(self._fs, published_file.record_path(self.folder, shard.input))
                    self._fs.fsync_dir(published_file.record_path(self.folder, shard.input).parent)
            fix = "run the same command again; if you see this error again, set on_input_change=redo"
            raise input_changed_error(f"{shard.name} changed after this run began", fix)
        return True

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """Commit a part: the only commit point of a job. After it returns, the part survives a power loss.

        Raises:
            StoppedError: The lease is lost, or the file system failed three times.
        """
        self._part_store.commit(shard, part, rows, degraded)
        self.attempts.end(shard, part)

    def finish_shard(self, shard: Shard) -> None:
        """Mark a shard whose parts are all committed as complete; the last shard of a file publishes it. Idempotent."""
        if shard.input.file_id in self._published or shard.index in self._complete_shards.get(shard.input.file_id, ()):
            return
        if missing := self._part_store.missing_parts(shard):
            raise MissingError(f"{shard.name} is not complete: its parts {missing} are not committed.")
        self.finish_skipped_shard(shard.input, make_shard_record(shard))

    def finish_if_complete(self, shard: Shard) -> None:
        """Finish a shard if its last part is committed; see `finish_shard`."""
        if self._part_store.has_all(shard):
            self.finish_shard(shard)

    @property
    def all_published(self) -> bool:
        """True once every file is published."""
        return len(self._published) == len(self._inputs)

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        """Do what `finish_shard` does, for a shard that was skipped because `shard_record` returned its record."""
        if input.file_id in self._published:
            return
        complete = self._complete_shards.setdefault(input.file_id, ShardTable())
        complete.add(record)
        self._part_store.forget_shard(input.file_id, record.index)
        if not complete.is_complete:
            return
        assembly = Assembly(
            input=input,
            shards=complete,
            load_shard=lambda shard_record: self._reader.load_shard(input.file_id, shard_record),
            read_documents=self._read_documents,
            preamble=self._preamble,
            config=self._config,
            identity=self._job.identity_sha256,
            check_lease=self._part_store.check_lease,
            make_folder=self._folders.ensure,
            preserve_foreign=lambda sha256: self._preserve_foreign(input, sha256),
        )
        try:
            with wrap_os_errors(f"translated/{input.out_rel}"):
                self._folders.ensure(manifest.translated_path(self.folder, input.out_rel).parent)
                file_record = published_file.assemble(self._fs, self.folder, assembly)
        except StoppedError:
            # another process may have published the file in the meantime, and removed its parts
            other_record = published_file.read_record(self._fs, self.folder, input)
            if (
                other_record is None
                or other_record["identity"] != self._job.identity_sha256
                or not published_file.is_intact(self._fs, self.folder, other_record)
            ):
                raise
            file_record = other_record
        self._set_published(input, file_record)

    def _preserve_foreign(self, input: Input, sha256: str) -> None:
        ours = (sha256, self._own_sha256s.pop(input.file_id, None))
        set_aside.preserve_foreign(self._fs, self.folder, input.out_rel, ours, self._folders.ensure)

    def finalize(self) -> Summary:
        """Write the manifest once every file is published, then remove the parts. Can be repeated after a kill.

        Raises:
            MissingError: A file is not complete; the message lists the missing shards.
        """
        if self._bare_manifest is not None:
            return manifest_only.summarize(self.folder, self._bare_manifest, time.monotonic() - self._opened_at)
        missing = [self._describe_missing(i) for i in self._inputs if i.file_id not in self._published]
        if missing:
            more = [f"  and {len(missing) - 20} more files"] if len(missing) > 20 else []
            lines = "\n".join(missing[:20] + more)
            raise MissingError(f"{self.folder.name} is not complete. Run the same command again to translate:\n{lines}")
        if not self.is_complete:
            with wrap_os_errors("manifest.json"):
                # A run may have been killed after it published a file and before it synced the folder. Sync the folders
                # first: after a power loss the manifest must not exist without the published files.
                for published_folder in dict.fromkeys(
                    published_folder for i in self._inputs for published_folder in self._published_folders(i)
                ):
                    self._fs.fsync_dir(published_folder)
                self._part_store.check_lease()
                write_atomic(self._fs, self.folder / "manifest.json", manifest.build(self._job, self._file_records()))
            self.is_complete = True
        self.attempts.clear()
        stop_reason.clear(self._fs, self.folder)
        for input in self._inputs:  # last, because nothing needs the parts from here on
            cleanup.try_remove_parts(self._fs, manifest.file_state_folder(self.folder, input.file_id))
        return summarize(
            self.folder, self._file_records(), time.monotonic() - self._opened_at, self._part_store.num_rows_committed
        )

    def _published_folders(self, input: Input) -> Iterator[Path]:
        """Folders of a published file, its record and its errors file."""
        yield manifest.translated_path(self.folder, input.out_rel).parent
        yield manifest.file_state_folder(self.folder, input.file_id)
        if self._published[input.file_id].record["errors"]:
            yield manifest.errors_path(self.folder, input.rel).parent

    def _describe_missing(self, input: Input) -> str:
        complete = self._complete_shards.get(input.file_id, ShardTable())
        last = complete.last_index
        end = complete.end if last is None else last
        gaps = [str(index) for index in range(end) if index not in complete]
        if last is None:
            gaps.append(f"{end} to the end")
        return f"  {input.rel}: shards {', '.join(gaps[:20])}{' and more' if len(gaps) > 20 else ''}"
