"""Commit parts: write a temporary file, sync it, publish it under its final name, sync the folder. First writer wins.

A part is committed only after the last of these steps. Independent of how files and jobs are composed of parts.
Explained in docs/architecture.md.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from hymt_batch.errors import HymtError, InputChangedError
from hymt_batch.fs import Fs, publish, remove, stat_or_none, with_retries, write_new
from hymt_batch.manifest import JsonDict, json_roundtrip
from hymt_batch.records import ERROR_STATUSES, Input, Part, Row, Shard, ShardRecord
from hymt_batch.write import part as parts
from hymt_batch.write.input_changes import RowRanges, input_changed_error
from hymt_batch.write.lease import Lease
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.storage import DurableFolders, wrap_os_errors

log = logging.getLogger(__name__)


def make_shard_record(shard: Shard) -> ShardRecord:
    num_rows = len(shard.documents)
    return ShardRecord(shard.index, shard.first_row, num_rows, shard.start, shard.end, shard.sha256, shard.last)


class PartStore:
    """Tracks which parts of a job are committed, and commits new ones."""

    def __init__(
        self,
        fs: Fs,
        reader: PartReader,
        folders: DurableFolders,
        identity: str,
        environment: JsonDict,
        *,
        redo: bool,
        lease: Lease | None,
    ) -> None:
        self._fs, self._reader, self._folders, self._identity = fs, reader, folders, identity
        self._environment, self._redo, self._lease = environment, redo, lease
        self._committed: dict[tuple[str, int], set[int]] = {}  # (file_id, shard index) -> indices of committed parts
        self._num_parts: dict[tuple[str, int], int] = {}
        self.num_rows_committed = 0  # committed by this run

    def set_environment(self, environment: JsonDict) -> None:
        self._environment = json_roundtrip(environment)

    def check_lease(self) -> None:
        if self._lease:
            self._lease.check()

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """Return the record of a shard if all its parts are committed and intact, else None."""
        with wrap_os_errors(f"the state of {input.rel}"):
            return self._reader.shard_record(input.file_id, shard_index)

    def has(self, shard: Shard, part: Part) -> bool:
        """True if a part is committed, intact, and was decoded from exactly these rows; any other part is quarantined.

        Raises:
            InputChangedError: The part was decoded from other rows, and on_input_change is not "redo".
        """
        key = (shard.input.file_id, shard.index, part.index)
        with wrap_os_errors(shard.name):
            if (committed_part := self._reader.verified_part(*key)) is None:
                return False
            digest = parts.rows_digest((shard.first_row + d, shard.documents[d].digest) for d in part.document_indices)
            if (committed_part.rows_digest, committed_part.num_parts) == (digest, part.num_parts):
                self._mark_committed(shard, part)
                return True
            rows_changed = committed_part.shard.sha256 != shard.sha256
            if rows_changed and not self._redo:
                raise self._rows_changed_error(shard)
            reason = "it was decoded from other rows" if rows_changed else "it was planned differently"
            self._reader.invalidate(*key)
            self._reader.quarantine(self._reader.path(*key), reason)
            return False

    def _rows_changed_error(self, shard: Shard) -> InputChangedError:
        """Return the error that lists the rows of a shard that differ from the rows its parts were decoded from."""
        changed_rows, committed_digests = RowRanges(), self._reader.source_digests(shard.input, shard.index)
        first, num_rows = shard.first_row, len(shard.documents)
        for row, digest in sorted(committed_digests.items()):
            if not first <= row < first + num_rows or shard.documents[row - first].digest != digest:
                changed_rows.add(row)
        if changed_rows.ranges:
            return input_changed_error(f"{shard.input.rel} {changed_rows}")
        changed_rows.add(max(committed_digests) + 1 if committed_digests else first, first + num_rows)
        return input_changed_error(f"{shard.input.rel} {changed_rows} are new")

    def has_all(self, shard: Shard) -> bool:
        """True if all parts of a shard are known to be committed; False once the shard is forgotten."""
        key = (shard.input.file_id, shard.index)
        return key in self._num_parts and len(self._committed[key]) == self._num_parts[key]

    def missing_parts(self, shard: Shard) -> list[int]:
        """Return the indices of the uncommitted parts of a shard, as far as its plan is known."""
        key = (shard.input.file_id, shard.index)
        num_parts = self._num_parts.get(key, 1 if shard.documents else 0)
        return sorted(set(range(num_parts)) - self._committed.get(key, set()))

    def forget_shard(self, file_id: str, shard_index: int) -> None:
        """Drop what is cached about a complete shard: it is not needed again, and a job may have many shards."""
        self._committed.pop((file_id, shard_index), None)
        self._num_parts.pop((file_id, shard_index), None)
        self._reader.invalidate_shard(file_id, shard_index)
        self._folders.forget_folder(self._reader.path(file_id, shard_index, 0).parent)

    def _mark_committed(self, shard: Shard, part: Part) -> None:
        self._committed.setdefault((shard.input.file_id, shard.index), set()).add(part.index)
        self._num_parts[shard.input.file_id, shard.index] = part.num_parts

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """See `Output.commit`."""
        started, rows = time.monotonic(), sorted(rows, key=lambda row: row.row_index)
        expected_rows = [(shard.first_row + d, shard.documents[d].digest) for d in part.document_indices]
        if [(row.row_index, row.digest) for row in rows] != expected_rows:
            raise HymtError(
                f"the rows to commit are not those of part {part.index} of {shard.name}: please report this."
            )
        file_id, epoch = shard.input.file_id, self._lease.epoch if self._lease else 0
        data = parts.encode(
            rows,
            identity=self._identity,
            environment=self._environment,
            file_id=file_id,
            shard=make_shard_record(shard),
            part_index=part.index,
            num_parts=part.num_parts,
            uuid=uuid.uuid4().hex,
            epoch=epoch,
            degraded=degraded,
        )
        path = self._reader.path(file_id, shard.index, part.index)
        is_ours = with_retries(f"part {part.index} of {shard.name}", lambda: self._publish(shard, part, path, data))
        self._mark_committed(shard, part)
        self.num_rows_committed += len(rows) if is_ours else 0
        log.info(
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

    def _publish(self, shard: Shard, part: Part, path: Path, data: bytes) -> bool:
        """Try once to publish a part; False if another process published the same rows first."""
        tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
        try:
            self._folders.ensure(path.parent)
            write_new(self._fs, tmp, data)
            self.check_lease()
            while not (is_ours := publish(self._fs, tmp, path)):
                self._reader.invalidate(shard.input.file_id, shard.index, part.index)
                if self.has(shard, part):
                    break  # the existing part is valid; if not, `has` quarantined it, and the name is free
            self._fs.fsync_dir(path.parent)
            return is_ours
        except FileNotFoundError:
            self._folders.forget_all()
            raise
        finally:
            if stat_or_none(self._fs, tmp):
                remove(self._fs, tmp)
