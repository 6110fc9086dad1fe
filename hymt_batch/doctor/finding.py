"""The result of one check. Contains no checks and prints nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The outcome of a check."""

    OK = "ok"
    WARN = "warn"  # the job runs, but may be slow or its output less reliable
    FAIL = "fail"  # the job would end with an error or give wrong output
    SKIP = "skip"  # the check does not apply; `seen` gives the reason


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table that the doctor prints."""

    check: str  # what was checked, such as "memory of cuda:0"
    level: Level
    seen: str  # the result, with values and units
    fix: str = ""  # a command or an override; "" if nothing is wrong
    id: str = ""  # id in catalogue.toml, such as "B1"; "" if nothing is wrong
