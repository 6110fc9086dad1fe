"""A pass while it is decoded: commits the parts of its rows in its own folder, and publishes nothing.

The process holds the lease of the job's folder. A pass that was stopped goes on with what it has committed. Explained
in docs/architecture.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from hymt_batch.fs import list_names
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, state_folder
from hymt_batch.records import Input, Shard, ShardRecord
from hymt_batch.state_layout import FLAT, StateLayout, shard_parents
from hymt_batch.write import passes
from hymt_batch.write.attempts import AttemptMarkers
from hymt_batch.write.cleanup import shard_folders
from hymt_batch.write.job_output import JobOutput, OpenedFolder
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.part import make_shard_record
from hymt_batch.write.passes import FILE_ID, PassRecord
from hymt_batch.write.published_file import InputAccess
from hymt_batch.write.settings import WriteConfig
from hymt_batch.write.storage import DurableFolders


class PassOutput(JobOutput):
    """The rows of one pass, whose folder belongs to the owner of the job's folder."""

    def __init__(
        self,
        fs: Fs,
        folder: Path,
        record: PassRecord,
        layout: StateLayout,
        access: InputAccess,
        check_lease: Callable[[], None],
        epoch: int,
        close_job: Callable[..., None],
    ) -> None:
        """Open a pass that was created.

        Args:
            fs: The file system.
            folder: The output folder of the job.
            record: The pass.
            layout: That of the job.
            access: How the inputs of the job are read.
            check_lease: Raises if this process must not write any more.
            epoch: Epoch of the lease, recorded in parts.
            close_job: Releases the folder of the job; see `Output.close`.
        """
        path = passes.pass_folder(folder, record.number)
        remove_leftovers(fs, path)
        job = JobRecord(record.identity, (record.input,), record.environment, "", layout=layout.of_pass)
        opened = OpenedFolder(path, job, RequestedJob(job), access, WriteConfig(), fs)
        super().__init__(opened, check_lease, epoch)
        self.record, self._close_job = record, close_job
        DurableFolders(fs, path).ensure(state_folder(path) / "quarantine")
        self.attempts = AttemptMarkers(fs, path, layout.of_pass)
        self._num_rows_recorded = 0
        self._recorded: set[int] = set()  # indices of shards

    @property
    def num_rows_committed(self) -> int:
        """Number of rows that this run committed."""
        return self._store.num_rows_committed

    @property
    def is_complete(self) -> bool:
        return self._num_rows_recorded == self.record.num_rows

    def close(self, *, orderly: bool = True, why: str = "") -> None:
        """Release the folder of the job; see `JobOutput.close`."""
        if orderly:
            self.attempts.remove_own()
        self._close_job(orderly=orderly, why=why)

    def is_one_line(self, input: Input) -> bool:
        """Return False: the rows of a pass are of several files, and are shaped when these are assembled."""
        return False

    def shard_record(self, index: int) -> ShardRecord | None:
        """Return the record of a complete shard, so that a run can skip it; None while any of its parts is missing."""
        return self._store.shard_record(self.record.input, index)

    def finish_shard(self, shard: Shard) -> None:
        self.finish_skipped_shard(shard.input, make_shard_record(shard))

    def finish_skipped_shard(self, input: Input, record: ShardRecord) -> None:
        if record.index in self._recorded:
            return
        self._store.finish_shard(FILE_ID, record)
        self._recorded.add(record.index)
        self._num_rows_recorded += record.num_rows

    def end(self) -> None:
        """Remove what a pass needs only while it is decoded; call it when all its rows are recorded."""
        self.attempts.clear()


def remove_leftovers(fs: Fs, path: Path) -> None:
    """Remove temporary files of killed processes from the folder of a pass; call it under the lease."""
    state = FLAT.file_state(path, FILE_ID)
    with contextlib.suppress(OSError):  # they do no harm
        for parent in (path, state_folder(path), *shard_parents(fs, state), *shard_folders(fs, state)):
            for name in list_names(fs, parent):
                if name.startswith(".tmp-"):
                    with contextlib.suppress(OSError):
                        fs.unlink(parent / name)
