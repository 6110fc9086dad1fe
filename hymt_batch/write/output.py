"""The output folder of one job: open it, commit parts, finish files, finalize.

What a part is, how it is committed, who may write and how a file is assembled have modules of their own beside this
one. Does not know the model, nor how parts are planned.
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
    published_file,
    set_aside,
    stop_reason,
)
from hymt_batch.write import path_check as places
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
    record: JsonDict  # without its shards
    shards: ShardTable


class Output:
    """An output folder, held by this process until the end of the `with` block."""

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
        self.identity = identity  # of the folder's job, in the words of this version
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
        self._published: dict[str, _Published] = {}  # file_id -> its finished file
        self._complete_shards: dict[str, ShardTable] = {}  # file_id -> its complete shards
        self._bare_manifest: JsonDict | None = None  # the manifest of a finished job whose state is gone
        self._own_sha256s: dict[str, str] = {}  # file_id -> sha256 of a file that this job made, and that is made again

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
        """Settle whose folder it is, take the lease, and see what is done. Before that, nothing is touched.

        Args:
            place: The folder asked for; with fork, `folder` tells the one that was found.
            identity: Every setting that changes the text; a nested dict of plain values.
            environment: What may change a text by rounding; recorded in each part.
            inputs: In the order of the manifest.
            config: How translations are stored.
            read: A fresh pass over an input's documents, in row order.
            preamble: What stands before an input's first row.
            overwrite: Start over, whatever the folder holds.
            on_mismatch: "refuse" or "fork".
            on_input_change: "refuse", "redo" or "fork".
            own: Keys of the identity that the folder's job decided when it was made, such as "batch.part_rows";
                `identity` has what a new folder gets. `self.identity` tells what holds.
            aliases: Other identities with which this very job may have been made, for a folder that lost its job.json.
            lease_ttl_s: A holder silent for so long is taken for dead; 0 takes no lease (safe, but work is done twice).
            lease_beat_s: Seconds between two signs of life.
            fs: The store.

        Raises:
            IdentityError: The folder belongs to a job with other settings.
            InputChangedError: Files were added, removed or changed.
            LeaseError: Another process works there.
            PreflightError: The store cannot hold the output.
        """
        fs = fs.within(job_folder)
        places.check_names(inputs, job_folder)
        wanted = ownership.RequestedJob(
            manifest.new_job(identity, inputs, environment),
            frozenset(auto_keys),
            tuple(map(manifest.json_roundtrip, aliases)),
        )
        held: Lease | None = None
        try:
            places.check_state(fs, job_folder)
            job_folder = ownership.choose_folder(
                fs,
                job_folder,
                wanted,
                overwrite=overwrite,
                on_mismatch=on_mismatch,
                on_input_change=on_input_change,
                describe_changes=lambda other, job: describe_changes(
                    fs, other, wanted.with_identity(job.identity), read
                ),
            )
            places.check_state(fs, job_folder)
            places.check_inputs(fs, job_folder, inputs)
            folders = DurableFolders(fs, job_folder)
            for name in (".hymt/lease", ".hymt/quarantine", "translated"):
                folders.ensure(job_folder / name)
            if lease_ttl_s > 0:
                held = lease.acquire(fs, job_folder, ttl_s=lease_ttl_s, beat_s=lease_beat_s)
            stop_reason.clear(fs, job_folder)
            if held:
                cleanup.remove_leftovers(fs, job_folder, inputs)
            check_storage(fs, job_folder)
            job = ownership.create_or_open_job(
                fs, job_folder, wanted, overwrite=overwrite, on_input_change=on_input_change
            )
            differences = manifest.diff(job.environment, wanted.job.environment)
            # what an earlier version did not record is no change that anybody made
            if added := [one for one in differences if one[1] is manifest.MISSING]:
                log.info("environment is now recorded with:\n%s", manifest.format_diff(added))
            if others := [one for one in differences if one[1] is not manifest.MISSING]:
                log.warning("environment differs from the job's first run:\n%s", manifest.format_diff(others))
            output = cls(
                job_folder,
                job,
                identity=identity_versions.upgrade(job.identity, wanted.job.identity),
                environment=wanted.job.environment,
                inputs=inputs,
                config=config,
                read=read,
                preamble=preamble,
                redo=on_input_change == "redo",
                held_lease=held,
                fs=fs,
            )
            output._load_published()
            open_inputs = [i for i in inputs if i.file_id not in output._published]
            if open_inputs:
                check_space(fs, job_folder, open_inputs, config.min_free)
                places.check_writable(fs, job_folder, open_inputs)
            if not output.is_complete:
                input_locations.save(fs, job_folder, inputs)
            return output
        except BaseException as error:
            told: BaseException = output_folder_error(job_folder, error) if isinstance(error, OSError) else error
            try:
                if held and isinstance(error, (OSError, PreflightError)):
                    held.check()  # whoever took over swept away what we were trying out: that is the cause
                if held and isinstance(error, Exception):
                    stop_reason.write(fs, job_folder, *stop_reason.describe(told))
            finally:
                if held:
                    held.release()
            if told is not error:
                raise told from error
            raise

    def set_environment(self, environment: JsonDict) -> None:
        """Record another environment in the parts to come, once it is settled."""
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
        """Keep why this run stops, unless another one goes on in the folder."""
        with contextlib.suppress(StoppedError):
            self._part_store.check_lease()
            stop_reason.write(self._fs, self.folder, code, reason)

    def close(self, *, orderly: bool = True) -> None:
        """Give the lease back; what is committed stays. Unless `orderly`, the parts under way are to blame."""
        if not self._exited:  # within the `with` block: the process ends at once
            self._exited = True
            self._save_stop_reason(ExitCode.STOPPED, "a signal stopped it at once" if orderly else "a step did not end")
        if orderly:
            self.attempts.remove_own()
        if self._lease:
            self._lease.release()
            self._lease = None

    def _load_published(self) -> None:
        """Which files are published and whole, of inputs that are what they were."""
        self._bare_manifest = manifest_only.read_if_complete(
            self._fs, self.folder, self._job.identity, self._inputs, redo=self._redo
        )
        if self._bare_manifest is not None:
            log.warning("%s: %s", self.folder.name, manifest_only.STATE_LOST_NOTE)
            self.is_complete = True
            return
        made = set_aside.recorded_sha256s(self._fs, self.folder)
        for input in self._inputs:
            record = published_file.read_record(self._fs, self.folder, input)
            if record is None or record["identity"] != self._job.identity_sha256:
                self._own_sha256s.update({input.file_id: made[input.out_rel]} if input.out_rel in made else {})
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
        else:  # it proves files that are about to be replaced
            remove(self._fs, path)
        self._fs.fsync_dir(self.folder)  # whoever wrote it may have been killed before it did so

    def _set_published(self, input: Input, record: JsonDict) -> None:
        shards = published_file.shard_table_of(record)
        self._published[input.file_id] = _Published({k: v for k, v in record.items() if k != "shards"}, shards)
        self._complete_shards.pop(input.file_id, None)

    def _file_records(self) -> list[JsonDict]:
        return [self._published[i.file_id].record for i in self._inputs]

    def is_one_line(self, input: Input) -> bool:
        """Whether the output of an input cannot hold a line break inside a translation."""
        return published_file.out_format(input, self._config) in ("text", "tsv")

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """What a complete shard was made of, so that a run can skip it; None while any of its parts is missing."""
        published = self._published.get(input.file_id)
        return published.shards.get(shard_index) if published else self._part_store.shard_record(input, shard_index)

    def has(self, shard: Shard, part: Part) -> bool:
        """Whether a part is committed, whole, and made of these very rows.

        Raises:
            InputChangedError: It was made of other rows, and on_input_change is not redo.
        """
        if (published := self._published.get(shard.input.file_id)) is None:
            return self._part_store.has(shard, part)
        record = published.shards.get(shard.index)
        if record is None or (record.sha256, record.first_row) != (shard.sha256, shard.first_row):
            if self._redo:
                # two runs without a lease, while the input changed: the rows are right, but the record names the
                # shards of an earlier reading, and so would stop every run; without it the file is assembled anew
                with wrap_os_errors(f"the record of {shard.input.rel}"):
                    self._own_sha256s[shard.input.file_id] = published.record["output"]["sha256"]
                    remove(self._fs, published_file.record_path(self.folder, shard.input))
                    self._fs.fsync_dir(published_file.record_path(self.folder, shard.input).parent)
            again = "run the same command again; if it says this again, set on_input_change=redo"
            raise input_changed_error(f"{shard.name} is not what it was when this run began", again)
        return True

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """Publish a part: the one commit point. When this returns, a power loss does not undo it.

        Raises:
            StoppedError: The lease is lost, or the store refused three times.
        """
        self._part_store.commit(shard, part, rows, degraded)
        self.attempts.end(shard, part)

    def finish_shard(self, shard: Shard) -> None:
        """Call when all parts of a shard are committed; the last one of a file publishes the file. Idempotent."""
        if shard.input.file_id in self._published or shard.index in self._complete_shards.get(shard.input.file_id, ()):
            return
        if missing := self._part_store.missing_parts(shard):
            raise MissingError(f"{shard.name} is not complete: its parts {missing} are not committed.")
        self.finish_skipped_shard(shard.input, make_shard_record(shard))

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        """`finish` for a shard that was skipped on the word of `record()`."""
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
            load_shard=lambda one: self._reader.load_shard(input.file_id, one),
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
                made = published_file.assemble(self._fs, self.folder, assembly)
        except StoppedError:
            # another process may have published the file, and removed its parts, before we came to it
            found = published_file.read_record(self._fs, self.folder, input)
            if (
                found is None
                or found["identity"] != self._job.identity_sha256
                or not published_file.is_intact(self._fs, self.folder, found)
            ):
                raise
            made = found
        self._set_published(input, made)

    def _preserve_foreign(self, input: Input, sha256: str) -> None:
        ours = (sha256, self._own_sha256s.pop(input.file_id, None))
        set_aside.preserve_foreign(self._fs, self.folder, input.out_rel, ours, self._folders.ensure)

    def finalize(self) -> Summary:
        """Write the manifest, when every file is published, and then remove the parts. Killed anywhere: run again.

        Raises:
            MissingError: A file is not complete; names what is missing.
        """
        if self._bare_manifest is not None:
            return manifest_only.summarize(self.folder, self._bare_manifest, time.monotonic() - self._opened_at)
        missing = [self._describe_missing(i) for i in self._inputs if i.file_id not in self._published]
        if missing:
            more = [f"  and {len(missing) - 20} more files"] if len(missing) > 20 else []
            lines = "\n".join(missing[:20] + more)
            raise MissingError(f"{self.folder.name} is not complete. Run the same command again to make:\n{lines}")
        if not self.is_complete:
            with wrap_os_errors("manifest.json"):
                # published by a run that was killed before it synced the names? The manifest must not be there first
                for place in dict.fromkeys(place for i in self._inputs for place in self._published_folders(i)):
                    self._fs.fsync_dir(place)
                self._part_store.check_lease()
                write_atomic(self._fs, self.folder / "manifest.json", manifest.build(self._job, self._file_records()))
            self.is_complete = True
        self.attempts.clear()
        stop_reason.clear(self._fs, self.folder)
        for input in self._inputs:  # last of all: nothing needs the parts any more
            cleanup.try_remove_parts(self._fs, manifest.file_state_folder(self.folder, input.file_id))
        return summarize(
            self.folder, self._file_records(), time.monotonic() - self._opened_at, self._part_store.num_rows_committed
        )

    def _published_folders(self, input: Input) -> Iterator[Path]:
        """Folders of a published file and of what is known of it."""
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
