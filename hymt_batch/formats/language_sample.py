"""What the rows at the start of a file write in their language fields: counts, as they were understood or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hymt_batch.records import Status


@dataclass(slots=True)
class LanguageSample:
    """Counts of rows by language field; a reader adds each row whose fields it could read."""

    unnamed: Counter[str] = field(default_factory=Counter)  # field -> rows without a value
    understood: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # field, value, code -> rows
    unknown: Counter[tuple[str, str]] = field(default_factory=Counter)  # field, value -> rows
    statuses: Counter[tuple[str, Status]] = field(default_factory=Counter)  # field, status -> rows that are unknown
    pairs: Counter[tuple[str | None, str | None]] = field(default_factory=Counter)
    """Source and target code, None for the job's own -> rows in which neither is unknown."""

    def num_unknown(self, name: str) -> int:
        return sum(count for (field_name, _), count in self.unknown.items() if field_name == name)

    def num_usable(self, name: str) -> int:
        """Return the rows with a language, or without a value, which have the job's language."""
        known = sum(count for (field_name, _, _), count in self.understood.items() if field_name == name)
        return known + self.unnamed[name]

    def add(self, other: LanguageSample) -> None:
        self.unnamed.update(other.unnamed)
        self.understood.update(other.understood)
        self.unknown.update(other.unknown)
        self.statuses.update(other.statuses)
        self.pairs.update(other.pairs)
