"""The figures of a job: those of its manifest, or the same sums over the records of its published files."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict
from hymt_batch.records import Status, count_error_rows
from hymt_batch.write.totals import SUMS, Totals

MAX_FILES = 32
"""Files that the report lists: those with the most rows without a translation, then flags, then rows."""


@dataclass(frozen=True, slots=True)
class FileFigures:
    """One published file."""

    rel: str
    out_rel: str
    format: str
    rows: int
    error_rows: int | None  # None if only the manifest is left
    flagged: int | None
    num_bytes: int  # of the output
    failed: str = ""  # why it is not of its format


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums over all files."""

    files: int
    rows: int
    texts: int
    sums: Mapping[str, Mapping[str, int]]  # the counts by name that the manifest has; see `totals.SUMS`
    environments: Sequence[JsonDict]
    listed: Sequence[FileFigures] = ()
    failed: Sequence[Mapping[str, str]] = field(default_factory=list)
    replaced: Mapping[int, int] = field(default_factory=dict)  # number of a pass -> its rows in the outputs

    @property
    def counts(self) -> Mapping[str, int]:
        """Texts by status."""
        return self.sums["counts"]

    @property
    def flags(self) -> Mapping[str, int]:
        return self.sums["flags"]

    @property
    def error_rows(self) -> int:
        return count_error_rows(self.counts)

    @property
    def error_share(self) -> float:
        """Share of the selected rows that have no translation."""
        return self.error_rows / max(1, self.texts - self.counts.get(Status.NOT_SELECTED, 0))


def of_records(records: Sequence[JsonDict]) -> Figures:
    """Add up the records of files."""
    totals = Totals.of(records)
    return Figures(
        files=len(records),
        rows=totals.rows,
        texts=totals.texts,
        sums={name: _sorted(sums) for name, sums in totals.sums.items()},
        environments=[totals.environments[key] for key in sorted(totals.environments)],
        listed=_worst(_file_of_record(record) for record in records),
        failed=manifest.failed_files(records),
        replaced=_replaced(records),
    )


def of_manifest(value: JsonDict) -> Figures:
    """Return the figures of a manifest, for a folder that has nothing else."""
    outputs = (
        FileFigures(
            str(source["rel"]),
            str(file["path"]).removeprefix("translated/"),
            str(file["format"]),
            int(file["rows"]),
            None,
            None,
            int(file["bytes"]),
        )
        for source, file in zip(value["inputs"], value["outputs"], strict=False)
    )
    return Figures(
        files=len(value["inputs"]),
        rows=int(value["rows"]),
        texts=manifest.count_texts([value]),
        sums={name: _sorted(value.get(name, {})) for name in SUMS},
        environments=list(value.get("environments", [])),
        listed=_worst(outputs),
        failed=list(value.get("failed", [])),
    )


def _replaced(records: Iterable[JsonDict]) -> dict[int, int]:
    replaced: Counter[int] = Counter()
    for record in records:
        for item in record.get("passes", ()):
            replaced[item["number"]] += item["replaced"]
    return dict(replaced)


def _file_of_record(record: JsonDict) -> FileFigures:
    return FileFigures(
        record["rel"],
        record["out_rel"],
        record["format"],
        record["rows"],
        count_error_rows(record["counts"]),
        sum(count for flag, count in record["flags"].items() if flag != "blank"),
        record["output"]["bytes"] if record["output"] else 0,
        str(record.get("failed", "")),
    )


def _worst(files: Iterable[FileFigures]) -> list[FileFigures]:
    """Return the files to list, in their order."""
    numbered = enumerate(files)
    worst = heapq.nlargest(
        MAX_FILES,
        numbered,
        key=lambda item: (bool(item[1].failed), item[1].error_rows or 0, item[1].flagged or 0, item[1].rows, -item[0]),
    )
    return [file for _, file in sorted(worst, key=lambda item: item[0])]


def _sorted(counts: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in sorted(counts.items()) if count}
