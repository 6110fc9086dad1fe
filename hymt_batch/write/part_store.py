"""The commit of a part: write aside, sync, publish, sync the folder; only then it counts. The first writer wins.

Does not know what a file or a job is made of beyond its parts. Source: reference/reliability.md 2.5.
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
    """The parts of one run: which are there, and the making of new ones."""

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
        self._committed: dict[tuple[str, int], set[int]] = {}  # (file_id, shard) -> its committed parts
        self._num_parts: dict[tuple[str, int], int] = {}
        self.num_rows_committed = 0  # committed by this run

    def set_environment(self, environment: JsonDict) -> None:
        self._environment = json_roundtrip(environment)

    def check_lease(self) -> None:
        if self._lease:
            self._lease.check()

    def shard_record(self, input: Input, shard_index: int) -> ShardRecord | None:
        """The record of a shard whose parts are all there, each verified."""
        with wrap_os_errors(f"the state of {input.rel}"):
            return self._reader.shard_record(input.file_id, shard_index)

    def has(self, shard: Shard, part: Part) -> bool:
        """Whether a part is there, whole, and made of these very rows; anything else in its place is set aside.

        Raises:
            InputChangedError: It was made of other rows, and they are not to be redone.
        """
        key = (shard.input.file_id, shard.index, part.index)
        with wrap_os_errors(shard.name):
            if (known := self._reader.verified_part(*key)) is None:
                return False
            digest = parts.rows_digest((shard.first_row + d, shard.documents[d].digest) for d in part.document_indices)
            if (known.rows_digest, known.num_parts) == (digest, part.num_parts):
                self._mark_committed(shard, part)
                return True
            other_rows = known.shard.sha256 != shard.sha256
            if other_rows and not self._redo:
                raise self._rows_changed_error(shard)
            why = "its rows were others" if other_rows else "it was planned in another way"
            self._reader.invalidate(*key)
            self._reader.quarantine(self._reader.path(*key), why)
            return False

    def _rows_changed_error(self, shard: Shard) -> InputChangedError:
        """The rows of a shard that are not what its parts were made of."""
        wrong, made_of = RowRanges(), self._reader.source_digests(shard.input, shard.index)
        first, num_rows = shard.first_row, len(shard.documents)
        for row, digest in sorted(made_of.items()):
            if not first <= row < first + num_rows or shard.documents[row - first].digest != digest:
                wrong.add(row)
        if wrong.ranges:
            return input_changed_error(f"{shard.input.rel} {wrong}")
        wrong.add(max(made_of) + 1 if made_of else first, first + num_rows)
        return input_changed_error(f"{shard.input.rel} {wrong} are new")

    def missing_parts(self, shard: Shard) -> list[int]:
        """Parts of a shard that are not committed, as far as its plan is known."""
        key = (shard.input.file_id, shard.index)
        num_parts = self._num_parts.get(key, 1 if shard.documents else 0)
        return sorted(set(range(num_parts)) - self._committed.get(key, set()))

    def forget_shard(self, file_id: str, shard_index: int) -> None:
        """A shard is complete: what is remembered of its parts is not needed again, and a job may have many."""
        self._committed.pop((file_id, shard_index), None)
        self._num_parts.pop((file_id, shard_index), None)
        self._reader.invalidate_shard(file_id, shard_index)
        self._folders.forget_folder(self._reader.path(file_id, shard_index, 0).parent)

    def _mark_committed(self, shard: Shard, part: Part) -> None:
        self._committed.setdefault((shard.input.file_id, shard.index), set()).add(part.index)
        self._num_parts[shard.input.file_id, shard.index] = part.num_parts

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """See `Output.commit`."""
        began, rows = time.monotonic(), sorted(rows, key=lambda row: row.row_index)
        made_of = [(shard.first_row + d, shard.documents[d].digest) for d in part.document_indices]
        if [(row.row_index, row.digest) for row in rows] != made_of:
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
        mine = with_retries(f"part {part.index} of {shard.name}", lambda: self._publish(shard, part, path, data))
        self._mark_committed(shard, part)
        self.num_rows_committed += len(rows) if mine else 0
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
            "yes" if mine else "no",
            1000 * (time.monotonic() - began),
        )

    def _publish(self, shard: Shard, part: Part, path: Path, data: bytes) -> bool:
        """One try; False when another process was first with the same rows."""
        tmp = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex}")
        try:
            self._folders.ensure(path.parent)
            write_new(self._fs, tmp, data)
            self.check_lease()
            while not (mine := publish(self._fs, tmp, path)):
                self._reader.invalidate(shard.input.file_id, shard.index, part.index)
                if self.has(shard, part):
                    break  # what is there is whole; otherwise it was set aside, and the name is free
            self._fs.fsync_dir(path.parent)
            return mine
        except FileNotFoundError:
            self._folders.forget_all()
            raise
        finally:
            if stat_or_none(self._fs, tmp):
                remove(self._fs, tmp)
