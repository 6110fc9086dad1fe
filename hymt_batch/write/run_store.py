"""The committed runs of divided rows: has, commit, and what a row is joined from when its last run is there.

A run is stored beside the part of its row, and is published as a part is. It is needed until that part is committed,
and removed with the parts of its shard. Independent of how the segments of a row become its text.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hymt_batch.errors import HymtError
from hymt_batch.fs import with_retries
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JsonDict, canonical_json, json_roundtrip
from hymt_batch.records import Part, Translation
from hymt_batch.storage_error import wrap_os_errors
from hymt_batch.write import segment_run, storage
from hymt_batch.write.committed_rows import CommittedRows
from hymt_batch.write.part import PartOrigin, make_shard_record
from hymt_batch.write.part_reader import PartReader
from hymt_batch.write.quarantine import quarantine
from hymt_batch.write.segment_run import RunHeader
from hymt_batch.write.storage import DurableFolders

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowSegments:
    """All that the runs of a row hold."""

    translations: Sequence[Translation]  # one flagged translation for each prompt of the row's part, in order
    environments: Sequence[dict[str, Any]]  # in which they were decoded, each once
    degraded: tuple[str, ...]  # see part.PartOrigin


class RunStore:
    """The committed runs of one job in one folder."""

    def __init__(
        self,
        fs: Fs,
        folder: Path,
        identity: str,
        rows: CommittedRows,
        folders: DurableFolders,
        *,
        redo: bool,
        check_lease: Callable[[], None],
        epoch: int,
    ) -> None:
        """Open the store; see `PartStore` for the arguments."""
        self._fs, self._folder, self._identity, self._rows, self._folders = fs, folder, identity, rows, folders
        self._redo, self._check_lease, self._epoch = redo, check_lease, epoch
        # (file_id, shard index) -> part index -> indices of its runs that are known to be committed
        self._committed: dict[tuple[str, int], dict[int, set[int]]] = {}

    def has(self, part: Part) -> bool:
        """True if a run is committed, intact, and was decoded from exactly these segments; any other is quarantined.

        Raises:
            InputChangedError: It was decoded from another row, and on_input_change is not "redo".
        """
        shard, position = part.shard, _position(part)
        with wrap_os_errors(shard.name):
            loaded = self._rows.runs.load(*position)
            if loaded is None:
                return False
            header = loaded[0]
            if header.key == segment_run.key_of(part):
                self._mark_committed(part)
                return True
            row_changed = header.shard.sha256 != shard.sha256
            if row_changed and not self._redo:
                raise self._rows.changed_error(shard)
            if not row_changed:
                quarantine(self._fs, self._folder, self._rows.runs.path(*position), "it was planned differently")
            return False

    def _mark_committed(self, part: Part) -> None:
        assert part.run is not None
        runs = self._committed.setdefault((part.shard.input.file_id, part.shard.index), {})
        runs.setdefault(part.index, set()).add(part.run.index)

    def commit(
        self, part: Part, translations: Sequence[Translation], environment: JsonDict, degraded: Sequence[str]
    ) -> None:
        """Commit a run. After it returns, the run survives a power loss.

        Args:
            part: The run, one of `Part.segment_runs`.
            translations: One flagged translation for each of its prompts.
            environment: Where it was decoded.
            degraded: Why its text may differ from that of a run without failures.

        Raises:
            StoppedError: The lease is lost, or the file system failed three times.
        """
        key, shard = segment_run.key_of(part), part.shard
        indexes = [translation.prompt.segment.index for translation in translations]
        if indexes != list(range(key.first, key.last + 1)):
            what = f"the segments to commit are not those of run {key.index} of row {key.row_index} of {shard.name}"
            raise HymtError(what, fix="Please report this.")
        origin = PartOrigin(
            identity=self._identity,
            environment=json_roundtrip(environment),
            file_id=shard.input.file_id,
            shard=make_shard_record(shard),
            part_index=part.index,
            num_parts=part.num_parts,
            uuid=uuid.uuid4().hex,
            epoch=self._epoch,
            degraded=tuple(degraded),
        )
        data = segment_run.encode(translations, origin, key)
        path = self._rows.runs.path(*_position(part))
        publish = partial(
            storage.publish_part, self._fs, self._folders, path, data, self._check_lease, replaces=self._redo
        )
        with_retries(f"run {key.index} of part {part.index} of {shard.name}", lambda: publish(lambda: self.has(part)))
        self._mark_committed(part)
        log.debug(
            "committed file=%r shard=%d part=%d run=%d/%d segments=%d of=%d new_tokens=%d bytes=%d",
            shard.input.rel,
            shard.index,
            part.index + 1,
            key.index + 1,
            key.num_runs,
            len(translations),
            key.num_segments,
            sum(translation.num_new_tokens for translation in translations),
            len(data),
        )

    def has_all(self, part: Part) -> bool:
        """True if all runs of a divided row are known to be committed; `part` is the part of the row."""
        committed = self._committed.get((part.shard.input.file_id, part.shard.index), {}).get(part.index, ())
        return len(committed) == len(part.run_lengths)

    def load_all(self, part: Part) -> RowSegments:
        """Read all runs of a divided row; `part` is the part of the row.

        Raises:
            StoppedError: A run was damaged or removed after it was committed.
        """
        translations: list[Translation] = []
        headers: list[RunHeader] = []
        for run in part.segment_runs():
            loaded = self._rows.runs.load(*_position(run))
            if loaded is None or loaded[0].key != segment_run.key_of(run):
                raise PartReader.damaged_error(part.shard.input.file_id, part.shard.index)
            headers.append(loaded[0])
            translations += [s.to_translation(prompt) for s, prompt in zip(loaded[1], run.prompts, strict=True)]
        environments = {canonical_json(header.environment): header.environment for header in headers}
        degraded = dict.fromkeys(mark for header in headers for mark in header.degraded)
        return RowSegments(translations, list(environments.values()), tuple(degraded))

    def forget_shard(self, file_id: str, shard_index: int) -> None:
        """Drop what is cached about a shard that is not needed again."""
        self._committed.pop((file_id, shard_index), None)
        self._rows.runs.forget_shard(file_id, shard_index)


def _position(part: Part) -> tuple[str, int, int, int]:
    assert part.run is not None
    return part.shard.input.file_id, part.shard.index, part.index, part.run.index
