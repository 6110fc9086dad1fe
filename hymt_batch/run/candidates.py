"""The candidate translations of the rows of a pass that refines them: those of its job, and of other finished jobs.

A job has for a row the translation that it decoded first, then those of its passes that made them from the source: what
was refined before is no candidate. They are taken from its row records as the model gave them, whatever its outputs
show, and only for a row with the same id and the same source. Changes nothing on disk, and takes no lease.
"""

from __future__ import annotations

import hashlib
import logging
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch.candidate_list import MAX_CANDIDATES, MIN_CANDIDATES
from hymt_batch.errors import ConfigError, IdentityError, UsageError
from hymt_batch.fs import OS_FS
from hymt_batch.records import HARD_FLAGS, Row, ShardRecord, Status, plural
from hymt_batch.run.finished_rows import FinishedJob
from hymt_batch.run.plan import Plan
from hymt_batch.run.retry_pass import Settings
from hymt_batch.segment import OnTooLong
from hymt_batch.write import identity_versions, job_folders
from hymt_batch.write.pass_rows import LaterRows
from hymt_batch.write.passes import PassFile
from hymt_batch.write.row_record import ShardRows
from hymt_batch.write.row_selection import SelectedRows

if TYPE_CHECKING:
    from hymt_batch.schema import RetryJob

log = logging.getLogger(__name__)

KEY = "candidates"
"""Key of the identity of a pass: the digests of the rows that its candidates are from."""


def is_usable(row: Row) -> bool:
    """Return whether the translation of a committed row can be a candidate: it is whole, and does not repeat itself."""
    has_loop = any(name == "loop" for name, _ in row.measures)
    return row.status is Status.OK and bool(row.text.strip()) and HARD_FLAGS.isdisjoint(row.flags) and not has_loop


@dataclass(slots=True)
class _Source:
    """The committed rows of one job; keeps one shard in memory."""

    job: FinishedJob
    _shards: dict[str, list[ShardRecord]] = field(default_factory=dict)  # by file id
    _loaded: tuple[str, int, ShardRows, LaterRows] | None = None  # file id and index of the shard

    @property
    def passes(self) -> frozenset[int]:
        """Numbers of the passes whose rows were made from the source alone."""
        return frozenset(each.number for each in self.job.job.passes if KEY not in each.identity)

    @property
    def digest(self) -> str:
        """The sha256 of all rows that candidates may be from."""
        hashed = hashlib.sha256(self.job.job.identity_sha256.encode())
        for name, digest in self.job.row_digests(self.passes):
            hashed.update(f"\n{name} {digest}".encode())
        return hashed.hexdigest()

    def rows(self, file_id: str, row_index: int, digest: bytes) -> Iterator[Row]:
        """Yield what the job has committed for a row, in the order in which it was decoded."""
        loaded = self._load(file_id, row_index)
        if loaded is None:
            return
        shard_rows, later = loaded
        row = shard_rows.contents.rows[row_index - shard_rows.shard.first_row]
        passes = self.passes
        of_passes = [each for number, each in later.get(row_index, ()) if number in passes]
        yield from (each for each in (row, *of_passes) if each.digest == digest)

    def _load(self, file_id: str, row_index: int) -> tuple[ShardRows, LaterRows] | None:
        if file_id not in self._shards:
            self._shards[file_id] = self.job.shards(file_id)
        shards = self._shards[file_id]
        index = bisect_right([shard.first_row for shard in shards], row_index) - 1
        if index < 0 or row_index >= shards[index].first_row + shards[index].num_rows:
            return None
        if self._loaded is None or self._loaded[:2] != (file_id, index):
            self._loaded = file_id, index, *self.job.committed_rows(file_id, shards[index])
        return self._loaded[2:]


class Candidates:
    """The candidate translations of the rows of a pass."""

    def __init__(self, jobs: Sequence[FinishedJob]) -> None:
        """Read which rows there are, of the job of the pass first."""
        self._sources = [_Source(job) for job in jobs]
        self._digests = [source.digest for source in self._sources]

    def planned(self, plan: Plan) -> Plan:
        """Return the plan of the pass, whose identity says of which rows it refines the translations."""
        return replace(plan, identity={**plan.identity, KEY: self._digests})

    def of_row(self, file_id: str, row_index: int, digest: bytes) -> tuple[str, ...]:
        """Return the different translations of a row, in the order of the jobs."""
        found = dict.fromkeys(
            row.text.strip()
            for source in self._sources
            for row in source.rows(file_id, row_index, digest)
            if is_usable(row)
        )
        return tuple(found)[:MAX_CANDIDATES]

    def select(self, selected: SelectedRows, check_stop: Callable[[], None]) -> SelectedRows:
        """Return those of the selected rows that have enough candidates, and log how many do not."""
        kept = SelectedRows(reasons=selected.reasons)
        for file in selected.files:
            rows, digests = array("q"), list[str]()
            for position, row_index in enumerate(file.rows):
                if not position % 1000:
                    check_stop()
                digest = file.digest(position)
                if len(self.of_row(file.file_id, row_index, digest)) >= MIN_CANDIDATES:
                    rows.append(row_index)
                    digests.append(digest.hex())
            if rows:
                kept.files.append(PassFile(file.file_id, file.rel, rows, "".join(digests)))
        if num_left_out := selected.num_rows - kept.num_rows:
            log.warning(
                "%s: fewer than %d different candidate translations, so %s not refined",
                plural(num_left_out, "row"),
                MIN_CANDIDATES,
                "it is" if num_left_out == 1 else "they are",
            )
        return kept

    def check_unchanged(self) -> None:
        """Check that the candidates of a pass that was decoded are those with which it began.

        Raises:
            IdentityError: The rows of a job have changed meanwhile.
        """
        for source, before in zip(self._sources, self._digests, strict=True):
            now = FinishedJob(source.job.folder, check_outputs=False, locate_inputs=False)
            if _Source(now).digest != before:
                raise IdentityError(
                    f"the rows of {source.job.folder} changed while their translations were refined",
                    fix="Set overwrite=true to drop the pass and to select the rows again.",
                )


def open_candidates(settings: Settings, job: RetryJob, folder: Path) -> Candidates | None:
    """Return where the candidates of a pass are; None if its model translates each row from its source alone.

    Args:
        settings: The settings of the pass.
        job: Those of the command line, whose `candidates` are names in its output folder, or paths; a sweep stands for
            its points. The job itself is left out.
        folder: The output folder of the job.

    Raises:
        HymtError: A job is not complete, or its rows are not those of the job.
    """
    if not settings.of_pass.model.refines:
        return None
    own = FinishedJob(folder, check_outputs=False, locate_inputs=False)
    root = Path(job.output_dir)
    paths = dict.fromkeys(path for name in job.candidates or () for path in job_folders.find(OS_FS, root / name))
    others = [
        FinishedJob(path, check_outputs=False, locate_inputs=False) for path in paths if not _is_same(path, folder)
    ]
    for other in others:
        _check_alike(own, other)
    return Candidates([own, *others])


def _is_same(path: Path, folder: Path) -> bool:
    return path.resolve() == folder.resolve()


def _check_alike(own: FinishedJob, other: FinishedJob) -> None:
    """Check that a job has translated the same rows into the same language.

    Raises:
        ConfigError: It has not.
    """
    if own.tgt_lang != other.tgt_lang:
        raise ConfigError(
            f"candidates= names {other.folder}, whose target language is {other.tgt_lang}, not {own.tgt_lang}",
            fix="Name jobs with the same target language.",
        )
    differences = identity_versions.differences(other.job.identity, own.job.identity)
    read_so = [
        f"{key} is {theirs!r}, not {ours!r}"
        for key, theirs, ours in differences
        if key.startswith("source.") and key != "source.limit"
    ]
    if read_so:
        raise ConfigError(
            f"candidates= names {other.folder}, which reads its rows in another way",
            why="; ".join(read_so),
            fix="Name jobs over the same inputs with the same settings of source.",
        )
    if {input.file_id for input in own.job.inputs}.isdisjoint(input.file_id for input in other.job.inputs):
        raise ConfigError(
            f"candidates= names {other.folder}, which has no input with the name of one of this job",
            why=f"its first input is {other.job.inputs[0].rel if other.job.inputs else 'missing'}",
            fix="Name jobs over the same inputs.",
        )


def of_refinement(settings: Settings) -> Settings:
    """Return the settings of a pass as they are if its model refines: no row is cut, since its candidates are whole.

    Raises:
        UsageError: The command line asks for segments.
    """
    job = settings.of_pass
    if not job.model.refines:
        return settings
    if "segment.on_too_long" in settings.given and job.segment.on_too_long is OnTooLong.split:
        raise UsageError(
            "segment.on_too_long=split does not go with candidate translations",
            why="they are of whole rows",
            fix="Drop segment.on_too_long.",
        )
    return replace(settings, of_pass=replace(job, segment=replace(job.segment, on_too_long=OnTooLong.error)))
