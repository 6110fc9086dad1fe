"""Update a job whose inputs changed: record what changed, close the generations of changed files, tell the counts.

`on_input_change=update` decodes new files, and of changed files the rows that their earlier version does not have. The
order of the steps decides what a killed run leaves: what changes is recorded in `job.json` first, then the manifest is
removed, then files that are gone are retired, then the generations of changed files are closed. Call it under the
lease. Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.errors import InputChangedError
from hymt_batch.fs import hash_file, remove, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import FileChanges, JobRecord, JsonDict
from hymt_batch.records import Input
from hymt_batch.state_layout import StateLayout
from hymt_batch.write import adopted_identity, changed_inputs, closed_rows, file_record, identity_versions, retired
from hymt_batch.write.input_changes import hash_input
from hymt_batch.write.ownership import RequestedJob
from hymt_batch.write.record_store import RecordStore
from hymt_batch.write.settings import Retire, WriteConfig
from hymt_batch.write.storage import DurableFolders

log = logging.getLogger(__name__)

NO_ROWS_FIX = (
    "Set on_input_change=redo once to translate the changed files again; keep write.keep_rows=true, and later updates "
    "find their rows."
)


class InputUpdate:
    """The update of one run; does nothing unless the run asks for it."""

    def __init__(
        self, fs: Fs, folder: Path, requested: RequestedJob, config: WriteConfig, check_lease: Callable[[], None]
    ) -> None:
        self._fs, self._folder, self._config, self._check_lease = fs, folder, config, check_lease
        self._inputs, self._is_on = requested.job.inputs, requested.on_input_change == "update"
        self._hashes: dict[str, JsonDict] = {}  # by file id
        self._requested, self._to_close = requested, list[Input]()
        self.changes: FileChanges | None = None  # None for a job that is translated for the first time

    def hash_of(self, input: Input) -> JsonDict:
        """Return size and sha256 of an input, which is read once for it."""
        if not self._is_on:
            return hash_input(input)
        if input.file_id not in self._hashes:
            self._hashes[input.file_id] = hash_input(input)
        return self._hashes[input.file_id]

    def begin(self, job: JobRecord) -> JobRecord:
        """Find what changed, and record it before anything is removed; see `record_changes`."""
        if not self._is_on:
            self._to_close = self._with_earlier_identity(job)
            return job
        reread = {input.rel for input in changed_inputs.read_differently(job.inputs, self._inputs)}
        changed = [input for input in self._inputs if self._is_changed(job, input, input.rel in reread)]
        is_finished = stat_or_none(self._fs, self._folder / "manifest.json") is not None
        requested = self._requested
        adopted = job
        if identity_versions.differences(job.identity, requested.job.identity, requested.auto_keys):
            adopted = adopted_identity.adopt(job, requested.job, requested.auto_keys)
        updated = record_changes(self._fs, self._folder, job, adopted, self._inputs, changed)
        # these at once: what is left of their state is removed when the job takes the new inputs
        self._close([i for i in changed if i.rel in reread], job.layout)
        changed = [input for input in changed if input.rel not in reread]
        self._to_close = list(dict.fromkeys([*changed, *self._with_earlier_identity(updated)]))
        self.changes = FileChanges() if is_finished and updated is job else updated.changes
        return updated

    def _is_changed(self, job: JobRecord, input: Input, is_reread: bool) -> bool:
        """Return whether a file is published, and its input has other bytes now or is read in another way."""
        record = file_record.read_record(self._fs, self._folder, input, job.layout)
        if record is None or (record["input"] == self.hash_of(input) and not is_reread):
            return False
        return record["identity"] == job.identity_sha256 or adopted_identity.is_earlier(job, record["identity"])

    def _with_earlier_identity(self, job: JobRecord) -> list[Input]:
        """Return the files that were published before their job went on with another identity."""
        earlier = []
        for input in self._inputs if job.earlier else ():
            record = file_record.read_record(self._fs, self._folder, input, job.layout)
            if record is not None and adopted_identity.is_earlier(job, record["identity"]):
                earlier.append(input)
        return earlier

    @property
    def keep_removed(self) -> Callable[[str], None] | None:
        """Keeps an output in retired/ before it is removed; None for a run that is no update."""
        return self._keep_removed if self._is_on else None

    def _keep_removed(self, out_rel: str) -> None:
        if self._config.retire is not Retire.none:
            retired.keep(self._fs, self._folder, out_rel, DurableFolders(self._fs, self._folder).ensure)

    def close_changed(self, job: JobRecord) -> None:
        """Close the generations of the files of a job that are made anew, as `begin` found them."""
        if self._to_close:
            self._close(self._to_close, job.layout)

    def _close(self, inputs: Sequence[Input], layout: StateLayout) -> None:
        closed_rows.close(self._fs, self._folder, inputs, layout, self._check_lease)


def record_changes(
    fs: Fs, folder: Path, job: JobRecord, adopted: JobRecord, inputs: Sequence[Input], changed: Sequence[Input]
) -> JobRecord:
    """Record in `job.json` which inputs differ from those of the published files, and remove the manifest.

    An update that was not finished goes on: its changes are kept.

    Args:
        fs: The file system.
        folder: The output folder.
        job: Its job.
        adopted: The same job, with another identity if it goes on with one.
        inputs: The inputs of this run.
        changed: Those of them that are published and changed.

    Returns:
        The job as it is recorded now; unchanged if no input differs.

    Raises:
        InputChangedError: The rows of a changed file were not kept. Nothing was changed.
    """
    wanted, known = {input.rel for input in inputs}, {input.rel for input in job.inputs}
    new = [input.rel for input in inputs if input.rel not in known]
    gone = [input.rel for input in job.inputs if input.rel not in wanted]
    if not (new or gone or changed or adopted is not job):
        return job
    for input in changed:
        if reason := _reason_against_update(fs, folder, job, input):
            raise InputChangedError(
                f"on_input_change=update cannot update {input.rel}, which changed: {reason}", fix=NO_ROWS_FIX
            )
    after = _manifest_sha256(fs, folder)
    earlier = job.changes if job.changes is not None and after in ("", job.changes.after) else FileChanges(after=after)
    changes = FileChanges(
        after=earlier.after,
        new=_merged(earlier.new, new, gone),
        changed=_merged(earlier.changed, [input.rel for input in changed], gone),
        retired=_merged(earlier.retired, [rel for rel in gone if rel not in earlier.new], new),
    )
    if changes != job.changes or adopted is not job:
        job = replace(adopted, changes=changes)
        manifest.replace_job(fs, folder, job)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    log.info("update folder=%s new=%d changed=%d retired=%d", folder.name, len(new), len(changed), len(gone))
    return job


def _merged(earlier: Sequence[str], now: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    left_out = frozenset(without)
    return tuple(sorted({*(rel for rel in earlier if rel not in left_out), *now}))


def _manifest_sha256(fs: Fs, folder: Path) -> str:
    """Return the sha256 of the manifest, by which a finished job is recognised; "" if there is none."""
    path = folder / "manifest.json"
    return "" if stat_or_none(fs, path) is None else hash_file(fs, path)[1]


def _reason_against_update(fs: Fs, folder: Path, job: JobRecord, input: Input) -> str:
    """Return why nothing is known of the rows of a published file; "" if something is."""
    record = file_record.read_record(fs, folder, input, job.layout)
    records = RecordStore(fs, folder, job.identity_sha256, job.layout)
    shards = [shard for shard in file_record.shard_table_of(record) if shard.num_rows] if record else []
    found = [shard for shard in shards if stat_or_none(fs, records.path(input.file_id, shard.index)) is not None]
    return "its rows were not kept (write.keep_rows=false)" if shards and not found else ""
