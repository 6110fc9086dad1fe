"""Add up the records of a job's files, in one pass: a job may have 100,000 of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from hymt_batch import manifest
from hymt_batch.manifest import JsonDict

SUMS = ("counts", "flags", "tokens", "rows_by_language", "flagged_by_language", "tries", "degraded")
"""Counts by name in the record of a file, in the order in which the manifest has their sums."""

OPTIONAL_SUMS = ("rows_by_language", "flagged_by_language", "tries")  # not in the manifest if they are empty


@dataclass(slots=True)
class Totals:
    """What the records of files add up to; see `published_file.assemble` and `Tally` for the fields of a record."""

    rows: int = 0
    texts: int = 0  # as many as rows, unless rows have several text fields
    has_texts: bool = False  # a file has rows with several text fields
    formats: Counter[str] = field(default_factory=Counter)  # files by format
    sums: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in SUMS})
    environments: dict[bytes, JsonDict] = field(default_factory=dict)  # the distinct ones, by their JSON

    @classmethod
    def of(cls, records: Iterable[JsonDict]) -> Self:
        """Return the totals of some records."""
        totals, seen = cls(), dict[int, JsonDict]()
        for record in records:
            totals.rows += record["rows"]
            totals.texts += record["texts"] if "texts" in record else record["rows"]
            totals.has_texts = totals.has_texts or "texts" in record
            totals.formats[record["format"]] += 1
            for name in SUMS:
                if name in record:
                    _add(totals.sums[name], record[name])
            for environment in record["environments"]:
                if id(environment) not in seen:  # records share what is equal
                    seen[id(environment)] = environment
                    totals.environments.setdefault(manifest.canonical_json(environment), environment)
        return totals

    def to_manifest(self) -> JsonDict:
        """Return what the manifest has of the counts."""
        return {
            "environments": [self.environments[key] for key in sorted(self.environments)],
            "rows": self.rows,
            **({"texts": self.texts} if self.has_texts else {}),
            **{name: sums for name, sums in self.sums.items() if sums or name not in OPTIONAL_SUMS},
        }


def _add(sums: Counter[str], counts: JsonDict) -> None:
    """Do what `Counter.update` does, faster for a few counts."""
    for name, count in counts.items():
        sums[name] += count
