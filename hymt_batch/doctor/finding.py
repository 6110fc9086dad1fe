"""The result of one check, as fields. Contains no checks and prints nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from hymt_batch.errors import HymtError, Problem, first_line


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
    fix: str = ""  # a command, an override or a sentence; "" if nothing is wrong
    id: str = ""  # id in catalogue.toml, such as "B1"; "" if nothing is wrong
    why: str = ""  # the reason, if `seen` does not say it

    @classmethod
    def of_problem(cls, check: str, level: Level, problem: Problem) -> Self:
        """Return the finding for an error or a warning."""
        return cls(check, level, problem.what, problem.fix, problem.id, problem.why)

    @property
    def problem(self) -> Problem:
        """The finding as an error or a warning would give it; it names the check."""
        return Problem(what=f"{self.check}: {self.seen}", why=self.why, fix=self.fix, id=self.id)


@contextmanager
def errors_as_findings(check: str, findings: list[Finding]) -> Iterator[None]:
    """Turn an error raised in the block into a failed check."""
    try:
        yield
    except HymtError as error:
        findings.append(Finding.of_problem(check, Level.FAIL, error.problem))
    except Exception as error:  # report a broken installation instead of crashing
        fix = "Reinstall the packages in a new environment, with constraints.txt"
        findings.append(Finding(check, Level.FAIL, f"{type(error).__name__}: {first_line(error)}", fix, "A8"))
