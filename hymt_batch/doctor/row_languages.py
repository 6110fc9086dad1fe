"""Check the languages that the first rows of the inputs name."""

from __future__ import annotations

from collections.abc import Sequence

from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.records import Input
from hymt_batch.source.language_check import check_languages
from hymt_batch.source.settings import SourceConfig

CHECK = "languages of rows"


def check(inputs: Sequence[Input], config: SourceConfig, job_languages: tuple[str | None, str | None]) -> list[Finding]:
    """Return what the language fields hold, and a warning for each that holds unknown languages.

    Raises:
        ConfigError: A file has nothing but unknown languages in its first rows.
    """
    report = check_languages(inputs, config, job_languages=job_languages)
    seen = Finding(CHECK, Level.OK, "; ".join([*report.seen, *report.notes]))
    return [seen, *(Finding.of_problem(CHECK, Level.WARN, warning) for warning in report.warnings)]
