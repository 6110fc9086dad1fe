"""Totals of a finished job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict
from hymt_batch.records import SkippedFile
from hymt_batch.write.kept_records import having
from hymt_batch.write.totals import Totals
from hymt_batch.write.update_counts import UpdateCounts


class Paths(Sequence[Path]):
    """Paths that are made when they are asked for: a path takes ten times the memory of a name that is there anyway."""

    def __init__(self, folder: Path, make: Callable[[Path, str], Path], names: Sequence[str]) -> None:
        self._folder, self._make, self._names = folder, make, names

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return Paths(self._folder, self._make, self._names[index])
        return self._make(self._folder, self._names[index])

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file of which nothing is translated, because it is not of its format."""

    rel: str
    why: str  # with its name and the line


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals of a finished job, and of this run."""

    folder: Path
    files: int
    rows: int
    texts: int  # as many as rows, unless rows have several text fields
    formats: Mapping[str, int]  # files by format
    counts: Mapping[str, int]  # texts by status
    flags: Mapping[str, int]
    tries: Mapping[str, int]  # steps of the code ladder -> decodings of segments; see records.Translation
    num_source_tokens: int
    num_new_tokens: int
    seconds: float  # time since the output folder was opened
    num_rows_decoded: int  # texts committed by this run
    num_rows_kept: int  # texts committed by earlier runs or by other processes
    outputs: Sequence[Path]
    errors: Sequence[Path]
    skipped: tuple[SkippedFile, ...] = ()  # files that were found and are not read
    failed: tuple[FailedFile, ...] = ()  # files that are not of their formats
    reviews: Sequence[Path] = ()  # lists of flagged rows
    num_files_assembled_again: int = 0  # with new output settings, by this run, without decoding
    num_shards_merged: int = 0  # translated by tasks, and published by this run
    update: UpdateCounts | None = None  # with on_input_change=update; of the whole update, if it took several runs

    @property
    def update_lines(self) -> list[str]:
        """What the update changed, as lines for people."""
        return [] if self.update is None else [f"  {self.update.describe()}"]


def summarize(folder: Path, records: Sequence[JsonDict], seconds: float, num_rows_decoded: int) -> Summary:
    """Add up the records of a job's files."""
    totals = Totals.of(records)
    return Summary(
        folder=folder,
        files=len(records),
        rows=totals.rows,
        texts=totals.texts,
        formats=totals.formats,
        counts=dict(sorted(totals.sums["counts"].items())),
        flags=dict(sorted(totals.sums["flags"].items())),
        tries=dict(sorted(totals.sums["tries"].items())),
        num_source_tokens=totals.sums["tokens"]["source"],
        num_new_tokens=totals.sums["tokens"]["new"],
        seconds=seconds,
        num_rows_decoded=num_rows_decoded,
        num_rows_kept=max(0, totals.texts - num_rows_decoded),
        outputs=Paths(folder, manifest.translated_path, [r["out_rel"] for r in records if r["output"]]),
        errors=Paths(folder, manifest.errors_path, [r["rel"] for r in having(records, "errors")]),
        reviews=Paths(folder, manifest.review_path, [r["rel"] for r in having(records, "review")]),
        failed=tuple(FailedFile(f["rel"], f["why"]) for f in manifest.failed_files(having(records, "failed"))),
    )
