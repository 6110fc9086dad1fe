"""What the owner of an output folder and a task of a prepared job have in common: they commit parts of its shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import FileChanges, JobRecord, JsonDict
from hymt_batch.records import Input, Part, Prompt, Row, Shard, ShardRecord, Translation
from hymt_batch.sent_key import keys_of
from hymt_batch.write import identity_versions, output_settings, published_file
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.closed_rows import NOTHING_KNOWN, ClosedRows, KnownRows, RowKey
from hymt_batch.write.input_changes import hash_input
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.part_store import PartStore
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.run_store import RowSegments
from hymt_batch.write.settings import WriteConfig


@dataclass(frozen=True, slots=True)
class OpenedFolder:
    """An output folder whose job was checked, and how this run reads and writes in it."""

    path: Path
    job: JobRecord  # of the folder
    requested: RequestedJob  # of this run
    access: InputAccess  # how the inputs are read a second time, and how rows are shaped
    config: WriteConfig  # how translations are stored
    fs: Fs
    hash_of: Callable[[Input], JsonDict] = hash_input  # size and sha256 of an input
    changes: FileChanges | None = None  # of the update that this run makes or goes on with; None if it makes none


class JobOutput:
    """The committed parts of one job in one folder."""

    def __init__(self, opened: OpenedFolder, check_guard: Callable[[], None], epoch: int = 0) -> None:
        """Read nothing yet.

        Args:
            opened: The folder.
            check_guard: Raises if this process must not write any more.
            epoch: Epoch of the lease, recorded in parts.
        """
        self.folder, self._fs, self._job = opened.path, opened.fs, opened.job
        self.has_measures = identity_versions.has_measures(self._job.identity)
        self._access = opened.access if self.has_measures else opened.access.of_earlier_version()
        requested = opened.requested
        # with the keys of this version
        self.identity = identity_versions.upgrade(self._job.identity, requested.job.identity)
        self._config = output_settings.config_of_folder(opened.config, self._job)
        self._inputs, self._redo = requested.job.inputs, requested.accepts_changes
        self._store = PartStore(
            self._fs,
            self.folder,
            self._job.identity_sha256,
            self._job.layout,
            redo=self._redo,
            check_lease=check_guard,
            epoch=epoch,
        )
        self._closed_rows = ClosedRows(self._fs, self.folder, self._job)

    attempts: AttemptMarkers
    num_rows_known = 0  # rows that this run took from earlier versions of their files

    @property
    def job_record(self) -> JobRecord:
        """The job of the folder."""
        return self._job

    @property
    def fs(self) -> Fs:
        return self._fs

    @property
    def is_complete(self) -> bool:
        """True if nothing is left to decode."""
        raise NotImplementedError

    def close(self, *, orderly: bool = True, why: str = "") -> None:
        """Let others work in the folder; everything committed stays.

        Args:
            orderly: Remove this run's attempt markers. False keeps them: a part in progress may have caused the stop.
            why: Why the process is about to exit, if this is called inside the `with` block.
        """
        raise NotImplementedError

    def is_one_line(self, input: Input) -> bool:
        """True if the output format of an input cannot hold a line break inside a translation."""
        return published_file.is_one_line(input, self._config, self._access.preamble(input))

    def has(self, part: Part) -> bool:
        """True if a part, or a run of a divided row, is committed, intact, and was decoded from exactly these rows.

        Raises:
            InputChangedError: The part was decoded from other rows, and on_input_change refuses changes.
        """
        return self._store.runs.has(part) if part.run else self._store.has(part)

    def make_folders(self, inputs: Sequence[Input]) -> None:
        """Create the state folders of files that are about to be committed; see `PartStore.make_folders`."""
        self._store.make_folders(inputs)

    def commit(
        self,
        part: Part,
        rows: Sequence[Row],
        environment: JsonDict,
        degraded: Sequence[str] = (),
        other_environments: Sequence[JsonDict] = (),
    ) -> None:
        """Commit a part; see `PartStore.commit`."""
        self._store.commit(part, rows, environment, degraded, other_environments)
        self.attempts.end(part)

    def find_known(self, shard: Shard, prompts: Sequence[Prompt]) -> KnownRows:
        """Return the rows of a shard that the earlier version of its file has; they are not decoded.

        Args:
            shard: The shard.
            prompts: The prompts of its rows, in the order of the documents.
        """
        if not self._closed_rows.has_file(shard.input):
            return NOTHING_KNOWN
        documents, sent = shard.documents, keys_of(shard.documents, prompts)
        # several texts of a row have the digest of the row
        digests = {index: b"" if documents[index].field is not None else documents[index].digest for index in sent}
        return self._closed_rows.find(shard.input, {index: RowKey(sent[index], digests[index]) for index in sent})

    def commit_known(self, part: Part, rows: Sequence[Row], known: KnownRows) -> None:
        """Commit a part whose rows were not decoded: some are known, and the others were not sent.

        Args:
            part: The part.
            rows: One row for each of its documents.
            known: What is known of its shard.
        """
        first, *others = known.environments
        self._store.commit(part, rows, first, known.degraded, others)
        self._store.num_rows_committed -= len(rows)  # decoded by earlier runs
        self.num_rows_known += len(part.known)

    def commit_run(
        self, part: Part, translations: Sequence[Translation], environment: JsonDict, degraded: Sequence[str] = ()
    ) -> None:
        """Commit a run of a divided row; see `RunStore.commit`."""
        self._store.runs.commit(part, translations, environment, degraded)
        self.attempts.end(part)

    def has_all_runs(self, part: Part) -> bool:
        """True if all runs of a divided row are known to be committed; `part` is the part of the row."""
        return self._store.runs.has_all(part)

    def load_runs(self, part: Part) -> RowSegments | None:
        """Read all runs of a divided row, to join it; see `PartStore.load_runs`."""
        return self._store.load_runs(part)

    def finish_shard(self, shard: Shard) -> None:
        """Do what is due when all parts of a shard are committed. Idempotent."""
        raise NotImplementedError

    def finish_if_complete(self, shard: Shard) -> None:
        """Finish a shard if its last part is committed; see `finish_shard`."""
        if self._store.has_all(shard):
            self.finish_shard(shard)

    def finish_if_committed(self, input: Input, record: ShardRecord) -> bool:
        """Return whether a planned shard is complete; makes its row record if only that is missing."""
        is_committed = self._store.shard_record(input, record.index) == record
        if is_committed:
            self._store.finish_shard(input.file_id, record)
        self._store.forget_shard(input.file_id, record.index)
        return is_committed

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        """Do what `finish_shard` does, for a shard that was skipped because it is complete."""
        raise NotImplementedError
