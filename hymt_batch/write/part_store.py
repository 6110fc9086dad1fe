"""The parts and rows of a job that are committed: has, commit, and a record for each complete shard.

A part is committed by these steps: write a temporary file, sync it, publish it under its final name, sync the folder.
The first writer wins, so any number of processes may commit. When all parts of a shard are committed, a row record is
made of them, synced, and replaces them. A part that is a whole shard is committed as its row record at once.
Independent of how files and jobs are composed of shards. Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hymt_batch.errors import HymtError, StoppedError
from hymt_batch.fs import list_names, with_retries
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, json_roundtrip
from hymt_batch.records import ERROR_STATUSES, Input, Part, Row, Shard, ShardRecord
from hymt_batch.state_layout import StateLayout
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import cleanup, row_record, storage
from hymt_batch.write import part as parts
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.quarantine import quarantine
from hymt_batch.write.row_lines import encode_rows, rows_digest
from hymt_batch.write.row_record import RecordContents, RecordHeader
from hymt_batch.write.run_store import RowSegments, RunStore
from hymt_batch.write.state_file import StateFileDamagedError

log = logging.getLogger(__name__)


class PartStore:
    """The committed parts and the row records of one job in one folder."""

    def __init__(
        self,
        fs: Fs,
        folder: Path,
        identity: str,
        layout: StateLayout,
        *,
        redo: bool = False,
        check_lease: Callable[[], None] = lambda: None,
        epoch: int = 0,
    ) -> None:
        """Open the store; reads nothing yet.

        Args:
            fs: The file system.
            folder: The output folder.
            identity: sha256 of the job's identity; parts and records of other jobs are quarantined.
            layout: Where its parts and records lie.
            redo: Decode rows that changed in the input again, instead of refusing them.
            check_lease: Raises if this process must not write any more.
            epoch: Epoch of the lease, recorded in parts.
        """
        self._fs, self._folder, self._identity, self._layout = fs, folder, identity, layout
        self._redo, self._check_lease, self._epoch = redo, check_lease, epoch
        self.rows = CommittedRows.open(fs, folder, identity, layout)
        self._reader, self.records = self.rows.reader, self.rows.records
        self._folders = self.records.folders
        self.runs = RunStore(
            fs, folder, identity, self.rows, self._folders, redo=redo, check_lease=check_lease, epoch=epoch
        )
        self._committed: dict[tuple[str, int], set[int]] = {}  # (file_id, shard index) -> indices of committed parts
        self._num_parts: dict[tuple[str, int], int] = {}
        self._headers: dict[tuple[str, int], RecordHeader | None] = {}  # of the records of shards in progress
        self._recorded: set[tuple[str, int]] = set()  # shards in progress whose one part was committed as the record
        self._contents: tuple[tuple[str, int], RecordContents] | None = None  # of the last record that was asked for
        self._environment: tuple[JsonDict, JsonDict] = {}, {}  # the last one, and as a header holds it
        self.num_rows_committed = 0  # committed by this run
        self._without_parts: set[str] = set()  # ids of files in whose folders this run made a row record alone

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """Return what is recorded of a complete shard; None while any of its parts is missing."""
        with wrap_os_errors(f"the state of {input.rel}"):
            header = self._record_header(input.file_id, shard_index)
            return header.shard if header else self._reader.shard_record(input.file_id, shard_index)

    def _record_header(self, file_id: str, shard_index: int) -> RecordHeader | None:
        key = (file_id, shard_index)
        if key not in self._headers:
            self._headers[key] = self.records.header(*key)
        return self._headers[key]

    def _record_contents(self, file_id: str, shard_index: int) -> RecordContents:
        """Return what the record of a shard holds; the last one is kept, since each part of a shard asks for it."""
        key = (file_id, shard_index)
        if self._contents is None or self._contents[0] != key:
            loaded = self.records.load(*key)
            self._contents = (key, loaded.contents if loaded else RecordContents((), []))
        return self._contents[1]

    def make_folders(self, inputs: Iterable[Input]) -> None:
        """Create the state folders of files that are decoded together, which spares a sync for each of them.

        Raises:
            StoppedError: The file system failed three times.
        """
        folders = [self._layout.file_state(self._folder, input.file_id) for input in inputs]
        with_retries("the state of a unit", lambda: self._folders.ensure_all(folders))

    def has_made_folder(self, input: Input) -> bool:
        """True if this process created or used the state folder of a file that is not published yet."""
        return self._folders.knows(self._layout.file_state(self._folder, input.file_id))

    def has(self, part: Part) -> bool:
        """True if a part is committed, intact, and was decoded from exactly these rows.

        A part of the rows before the input changed stays until another one replaces it; any other part is quarantined.

        Raises:
            InputChangedError: The part was decoded from other rows, and on_input_change is not "redo".
        """
        shard = part.shard
        key = (shard.input.file_id, shard.index, part.index)
        with wrap_os_errors(shard.name):
            digest = rows_digest((shard.first_row + d, shard.documents[d].digest) for d in part.document_indices)
            if (committed_part := self._reader.verified_part(*key)) is None:
                return self._has_in_record(part, digest)
            if (committed_part.rows_digest, committed_part.num_parts) == (digest, part.num_parts):
                self._mark_committed(part)
                return True
            rows_changed = committed_part.shard.sha256 != shard.sha256
            if rows_changed and not self._redo:
                raise self.rows.changed_error(shard)
            self._reader.invalidate(*key)
            if not rows_changed:
                quarantine(self._fs, self._folder, self._reader.path(*key), "it was planned differently")
            return self._has_in_record(part, digest)

    def _has_in_record(self, part: Part, digest: str) -> bool:
        """Return whether the shard's record has the rows of a part; of a changed shard, the part is committed again."""
        shard = part.shard
        header = self._record_header(shard.input.file_id, shard.index)
        if header is None:
            return False
        if header.shard == parts.make_shard_record(shard):
            # the plan is a function of the rows: another program planned it; the record of an empty file has no part
            if shard.documents and header.num_parts != part.num_parts:
                return False
            self._mark_committed(part)
            return True
        if not self._redo:
            raise self.rows.changed_error(shard)
        contents = self._record_contents(shard.input.file_id, shard.index)
        recorded_part = next((recorded for recorded in contents.parts if recorded.rows_digest == digest), None)
        if recorded_part is None:
            return False
        first, rows = header.shard.first_row, contents.rows
        same_rows = [rows[shard.first_row + d - first] for d in part.document_indices]
        about = recorded_part.environment, recorded_part.degraded, recorded_part.other_environments
        self.commit(part, same_rows, *about)
        self.num_rows_committed -= len(same_rows)  # decoded by an earlier run
        return True

    def has_all(self, shard: Shard) -> bool:
        """True if all parts of a shard are known to be committed; False once the shard is forgotten."""
        key = (shard.input.file_id, shard.index)
        return key in self._num_parts and len(self._committed[key]) == self._num_parts[key]

    def missing_parts(self, shard: Shard) -> list[int]:
        """Return the indices of the uncommitted parts of a shard, as far as its plan is known."""
        key = (shard.input.file_id, shard.index)
        num_parts = self._num_parts.get(key, 1 if shard.documents else 0)
        return sorted(set(range(num_parts)) - self._committed.get(key, set()))

    def _mark_committed(self, part: Part) -> None:
        key = (part.shard.input.file_id, part.shard.index)
        self._committed.setdefault(key, set()).add(part.index)
        self._num_parts[key] = part.num_parts

    def commit(
        self,
        part: Part,
        rows: Sequence[Row],
        environment: JsonDict,
        degraded: Sequence[str] = (),
        other_environments: Sequence[JsonDict] = (),
    ) -> None:
        """Commit a part: the only commit point of a job. After it returns, the part survives a power loss.

        Args:
            part: The part.
            rows: One row for each of its documents.
            environment: Where it was decoded; recorded in the part.
            degraded: Why its text may differ from that of a run without failures, such as "oom_split".
            other_environments: Where else runs of a divided row were decoded.

        Raises:
            StoppedError: The lease is lost, or the file system failed three times.
        """
        started, rows, shard = time.monotonic(), sorted(rows, key=lambda row: row.row_index), part.shard
        expected_rows = [(shard.first_row + d, shard.documents[d].digest) for d in part.document_indices]
        if [(row.row_index, row.digest) for row in rows] != expected_rows:
            what = f"the rows to commit are not those of part {part.index} of {shard.name}"
            raise HymtError(what, fix="Please report this.")
        origin = parts.PartOrigin(
            identity=self._identity,
            environment=self._as_json(environment),
            file_id=shard.input.file_id,
            shard=parts.make_shard_record(shard),
            part_index=part.index,
            num_parts=part.num_parts,
            uuid="" if part.num_parts == 1 else uuid.uuid4().hex,  # a row record has none
            epoch=self._epoch,
            degraded=tuple(degraded),
            other_environments=tuple(map(json_roundtrip, other_environments)),
        )
        if part.num_parts == 1:
            data, is_ours = self._commit_whole_shard(shard, rows, origin)
        else:
            data = parts.encode(rows, origin)
            path = self._reader.path(origin.file_id, shard.index, part.index)
            is_ours = with_retries(f"part {part.index} of {shard.name}", lambda: self._publish(part, path, data))
        self._mark_committed(part)
        self.num_rows_committed += len(rows) if is_ours else 0
        log.debug(
            "committed file=%r shard=%d part=%d/%d rows=%d errors=%d new_tokens=%d bytes=%d published_here=%s "
            "commit_ms=%.1f",
            shard.input.rel,
            shard.index,
            part.index + 1,
            part.num_parts,
            len(rows),
            sum(row.status in ERROR_STATUSES for row in rows),
            sum(row.num_new_tokens for row in rows),
            len(data),
            "yes" if is_ours else "no",
            1000 * (time.monotonic() - started),
        )

    def _as_json(self, environment: JsonDict) -> JsonDict:
        """Return an environment as a header holds it; it is mostly that of the part before."""
        if environment is not self._environment[0]:
            self._environment = environment, json_roundtrip(environment)
        return self._environment[1]

    def _publish(self, part: Part, path: Path, data: bytes) -> bool:
        """Try once to publish a part; False if another process published the same rows first."""

        def has_existing() -> bool:
            self._reader.invalidate(part.shard.input.file_id, part.shard.index, part.index)
            return self.has(part)  # the existing part is valid; if not, `has` quarantined it, and the name is free

        return storage.publish_part(
            self._fs, self._folders, path, data, self._check_lease, has_existing, replaces=self._redo
        )

    def _commit_whole_shard(self, shard: Shard, rows: list[Row], origin: parts.PartOrigin) -> tuple[bytes, bool]:
        """Make the row record of a shard that is one part at once, which spares the file of the part.

        Returns:
            The bytes of the record; whether it is published, and not by another process.
        """
        summary = parts.summarize(rows, origin)
        data = row_record.encode(self._identity, origin.file_id, origin.shard, [(summary, encode_rows(rows))])
        is_ours = self._publish_whole_shard(shard, data)
        if is_ours and not self._redo:  # under redo, another run may replace it with newer rows
            self.records.remember(origin.file_id, row_record.ShardRows.of_one_part(summary, rows))
        return data, is_ours

    def _publish_whole_shard(self, shard: Shard, data: bytes) -> bool:
        """Publish the row record of a shard that is one part; False if another process published the rows first."""

        def refuse_change() -> None:
            if not self._redo:
                raise self.rows.changed_error(shard)

        key = (shard.input.file_id, shard.index)
        with wrap_os_errors(shard.name):
            record = parts.make_shard_record(shard)
            is_ours = self.records.publish(shard.input.file_id, record, data, self._check_lease, refuse_change)
        self._recorded.add(key)
        return is_ours

    def load_runs(self, part: Part) -> RowSegments | None:
        """Read all runs of a divided row; None if another process joined and committed it in the meantime.

        Raises:
            StoppedError: A run was damaged or removed after it was committed.
        """
        with wrap_os_errors(part.shard.name):
            try:
                return self.runs.load_all(part)
            except StoppedError:
                self._headers.pop((part.shard.input.file_id, part.shard.index), None)
                if self.has(part):
                    return None
                raise

    def finish_shard(self, file_id: str, shard: ShardRecord) -> None:
        """Make the record of a shard whose parts are all committed, sync it, and remove the parts. Idempotent.

        Raises:
            StoppedError: A part was damaged or removed after it was committed, or the file system failed.
        """
        key = (file_id, shard.index)
        with wrap_os_errors(f"the rows of shard {shard.index} of f{file_id}"):
            header, parts_folder = self._headers.pop(key, None), self._reader.parts_folder(*key)
            is_recorded = key in self._recorded
            is_new = is_recorded or header is None or header.shard != shard
            if not is_recorded and is_new:
                self._make_record(file_id, shard)
            # a file whose folder this process made has no other parts than its own
            has_parts = not (
                is_recorded and self._folders.made(parts_folder.parent) and not self._folders.knows(parts_folder)
            )
            if not has_parts and shard.index == 0 and shard.last:
                self._without_parts.add(file_id)
            if has_parts and (names := list_names(self._fs, parts_folder)):
                if not is_new:
                    self._fs.fsync_dir(parts_folder.parent)  # the writer of the record may have died before this
                self._check_lease()
                cleanup.try_remove_parts_of_shard(self._fs, parts_folder, names)
        self.forget_shard(*key)

    def can_have_parts(self, input: Input) -> bool:
        """False if this run made the state folder of a finished file, and no part in it."""
        return input.file_id not in self._without_parts

    def finish_shards(self, input: Input, shards: Iterable[ShardRecord]) -> bool:
        """Make the missing row records of complete shards; False if one of the shards is not complete or changed."""
        for shard in shards:
            is_same = self.shard_record(input, shard.index) == shard
            if is_same:
                self.finish_shard(input.file_id, shard)
            self.forget_shard(input.file_id, shard.index)
            if not is_same:
                return False
        return True

    def forget_shard(self, file_id: str, shard_index: int) -> None:
        """Drop what is cached about a shard that is not needed again: a job may have many shards."""
        self._headers.pop((file_id, shard_index), None)
        self._recorded.discard((file_id, shard_index))
        self._contents = None
        self._committed.pop((file_id, shard_index), None)
        self._num_parts.pop((file_id, shard_index), None)
        self.runs.forget_shard(file_id, shard_index)
        parts_folder = self._reader.parts_folder(file_id, shard_index)
        self._reader.invalidate_shard(file_id, shard_index, parts_folder)
        self._folders.forget_folder(parts_folder)

    def _make_record(self, file_id: str, shard: ShardRecord) -> None:
        try:
            shard_parts = self._reader.payloads(file_id, shard)
            data = row_record.encode(self._identity, file_id, shard, shard_parts)
        except (StoppedError, StateFileDamagedError) as error:
            # another process may have made the record in the meantime, and removed the parts
            header = self.records.header(file_id, shard.index)
            if header is not None and header.shard == shard:
                return
            if isinstance(error, StoppedError):
                raise
            raise self._reader.damaged_error(file_id, shard.index) from error
        self.records.publish(file_id, shard, data, self._check_lease)
        if self.records.header(file_id, shard.index) is None:  # never remove parts for a record that cannot be read
            raise self._reader.damaged_error(file_id, shard.index)
