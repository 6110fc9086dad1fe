"""What a check of the doctor found. No check here, and no printing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"  # the job runs, but slower, or with less certainty than the user may think
    FAIL = "fail"  # the job would end in an error, or run wrong
    SKIP = "skip"  # does not apply here; `seen` says why


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's table."""

    check: str  # what was looked at, such as "free memory of cuda:0"
    level: Level
    seen: str  # with the value and its unit
    fix: str = ""  # as a command or an override; "" where nothing is wrong
    id: str = ""  # failure mode in catalogue.toml, such as "B1"; "" where nothing is wrong
