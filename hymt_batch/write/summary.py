"""Totals of a finished job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict, sum_counts
from hymt_batch.records import SkippedFile


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
    outputs: tuple[Path, ...]
    errors: tuple[Path, ...]
    skipped: tuple[SkippedFile, ...] = ()  # files that were found and are not read
    failed: tuple[FailedFile, ...] = ()  # files that are not of their formats
    reviews: tuple[Path, ...] = ()  # lists of flagged rows
    num_files_assembled_again: int = 0  # with new output settings, by this run, without decoding
    num_shards_merged: int = 0  # translated by tasks, and published by this run


def summarize(folder: Path, records: Sequence[JsonDict], seconds: float, num_rows_decoded: int) -> Summary:
    """Add up the records of a job's files."""
    texts, tokens = manifest.count_texts(records), sum_counts(r["tokens"] for r in records)
    return Summary(
        folder=folder,
        files=len(records),
        rows=sum(r["rows"] for r in records),
        texts=texts,
        formats=Counter(r["format"] for r in records),
        counts=sum_counts(r["counts"] for r in records),
        flags=sum_counts(r["flags"] for r in records),
        tries=sum_counts(r.get("tries", {}) for r in records),
        num_source_tokens=tokens.get("source", 0),
        num_new_tokens=tokens.get("new", 0),
        seconds=seconds,
        num_rows_decoded=num_rows_decoded,
        num_rows_kept=max(0, texts - num_rows_decoded),
        outputs=tuple(manifest.translated_path(folder, r["out_rel"]) for r in records if r["output"]),
        errors=tuple(manifest.errors_path(folder, r["rel"]) for r in records if r["errors"]),
        reviews=tuple(manifest.review_path(folder, r["rel"]) for r in records if r.get("review")),
        failed=tuple(FailedFile(f["rel"], f["why"]) for f in manifest.failed_files(records)),
    )
