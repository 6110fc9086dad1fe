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
from hymt_batch.fs import Fs, again, exists, publish, remove, write_new
from hymt_batch.manifest import Plain, plain
from hymt_batch.records import ERROR_STATUSES, Input, Part, Row, Shard, ShardRecord
from hymt_batch.write import part as parts
from hymt_batch.write.inputs import Rows, changed
from hymt_batch.write.kept import Kept
from hymt_batch.write.lease import Lease
from hymt_batch.write.store import Folders, storing

log = logging.getLogger(__name__)


def record_of_shard(shard: Shard) -> ShardRecord:
    num_rows = len(shard.documents)
    return ShardRecord(shard.index, shard.first_row, num_rows, shard.start, shard.end, shard.sha256, shard.last)


class Commits:
    """The parts of one run: which are there, and the making of new ones."""

    def __init__(
        self,
        fs: Fs,
        kept: Kept,
        folders: Folders,
        identity: str,
        environment: Plain,
        *,
        redo: bool,
        held: Lease | None,
    ) -> None:
        self._fs, self._kept, self._folders, self._identity = fs, kept, folders, identity
        self._environment, self._redo, self._lease = environment, redo, held
        self._there: dict[tuple[str, int], set[int]] = {}  # (file_id, shard) -> its committed parts
        self._num_parts: dict[tuple[str, int], int] = {}
        self.num_rows = 0  # committed by this run

    def made_in(self, environment: Plain) -> None:
        self._environment = plain(environment)

    def check_lease(self) -> None:
        if self._lease:
            self._lease.check()

    def record(self, input: Input, shard: int) -> ShardRecord | None:
        """The record of a shard whose parts are all there, each verified."""
        with storing(f"the state of {input.rel}"):
            return self._kept.record(input.file_id, shard)

    def has(self, shard: Shard, part: Part) -> bool:
        """Whether a part is there, whole, and made of these very rows; anything else in its place is set aside.

        Raises:
            InputChangedError: It was made of other rows, and they are not to be redone.
        """
        key = (shard.input.file_id, shard.index, part.index)
        with storing(shard.name):
            if (known := self._kept.known(*key)) is None:
                return False
            digest = parts.rows_digest((shard.first_row + d, shard.documents[d].digest) for d in part.documents)
            if (known.rows_digest, known.num_parts) == (digest, part.num_parts):
                self._note(shard, part)
                return True
            other_rows = known.shard.sha256 != shard.sha256
            if other_rows and not self._redo:
                raise self._rows_changed(shard)
            why = "its rows were others" if other_rows else "it was planned in another way"
            self._kept.doubt(*key)
            self._kept.quarantine(self._kept.path(*key), why)
            return False

    def _rows_changed(self, shard: Shard) -> InputChangedError:
        """The rows of a shard that are not what its parts were made of."""
        wrong, made_of = Rows(), self._kept.digests(shard.input, shard.index)
        first, num_rows = shard.first_row, len(shard.documents)
        for row, digest in sorted(made_of.items()):
            if not first <= row < first + num_rows or shard.documents[row - first].digest != digest:
                wrong.add(row)
        if wrong.runs:
            return changed(f"{shard.input.rel} {wrong}")
        wrong.add(max(made_of) + 1 if made_of else first, first + num_rows)
        return changed(f"{shard.input.rel} {wrong} are new")

    def missing(self, shard: Shard) -> list[int]:
        """Parts of a shard that are not committed, as far as its plan is known."""
        key = (shard.input.file_id, shard.index)
        num_parts = self._num_parts.get(key, 1 if shard.documents else 0)
        return sorted(set(range(num_parts)) - self._there.get(key, set()))

    def forget(self, file_id: str, shard: int) -> None:
        """A shard is complete: what is remembered of its parts is not needed again, and a job may have many."""
        self._there.pop((file_id, shard), None)
        self._num_parts.pop((file_id, shard), None)
        self._kept.forget(file_id, shard)
        self._folders.leave(self._kept.path(file_id, shard, 0).parent)

    def _note(self, shard: Shard, part: Part) -> None:
        self._there.setdefault((shard.input.file_id, shard.index), set()).add(part.index)
        self._num_parts[shard.input.file_id, shard.index] = part.num_parts

    def commit(self, shard: Shard, part: Part, rows: Sequence[Row], degraded: Sequence[str] = ()) -> None:
        """See `Output.commit`."""
        began, rows = time.monotonic(), sorted(rows, key=lambda row: row.row)
        made_of = [(shard.first_row + d, shard.documents[d].digest) for d in part.documents]
        if [(row.row, row.digest) for row in rows] != made_of:
            raise HymtError(
                f"the rows to commit are not those of part {part.index} of {shard.name}: please report this."
            )
        file_id, epoch = shard.input.file_id, self._lease.epoch if self._lease else 0
        data = parts.encode(
            rows,
            identity=self._identity,
            environment=self._environment,
            file_id=file_id,
            shard=record_of_shard(shard),
            part=part.index,
            num_parts=part.num_parts,
            uuid=uuid.uuid4().hex,
            epoch=epoch,
            degraded=degraded,
        )
        path = self._kept.path(file_id, shard.index, part.index)
        mine = again(f"part {part.index} of {shard.name}", lambda: self._publish(shard, part, path, data))
        self._note(shard, part)
        self.num_rows += len(rows) if mine else 0
        log.info(
            "committed file=%r shard=%d part=%d/%d rows=%d errors=%d new_tokens=%d bytes=%d mine=%s store_ms=%.1f",
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
                self._kept.doubt(shard.input.file_id, shard.index, part.index)
                if self.has(shard, part):
                    break  # what is there is whole; otherwise it was set aside, and the name is free
            self._fs.fsync_dir(path.parent)
            return mine
        except FileNotFoundError:
            self._folders.forget()
            raise
        finally:
            if exists(self._fs, tmp):
                remove(self._fs, tmp)
