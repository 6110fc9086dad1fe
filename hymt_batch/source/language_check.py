"""Look at the language fields of the first rows, before the model is loaded.

A file of which no row can be translated, because every value is unknown, is refused, as one without the field is.
Single unknown values are rows with the status bad_language later; here they are a warning.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hymt_batch import languages
from hymt_batch.errors import ConfigError, Problem
from hymt_batch.formats import registry
from hymt_batch.formats.language_codes import abbreviate
from hymt_batch.formats.language_sample import LanguageSample
from hymt_batch.records import Input, plural
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.source.settings import SourceConfig
from hymt_batch.source.shards import read_documents

log = logging.getLogger(__name__)

MAX_ROWS, MIN_ROWS, ALL_ROWS = 1000, 100, 10_000
"""Rows that are read of each file: ALL_ROWS shared by all files, between MIN_ROWS and MAX_ROWS."""

_SHOWN = 8  # values that a message lists


@dataclass(slots=True)
class LanguageReport:
    """What the language fields of the first rows hold."""

    seen: list[str] = field(default_factory=list)  # per field, its languages with their rows
    targets: set[str] = field(default_factory=set)  # codes of the target languages; empty if some rows name none
    notes: list[str] = field(default_factory=list)  # how values were understood, and rows that need no translation
    warnings: list[Problem] = field(default_factory=list)  # per field, values that name no language

    def log(self) -> None:
        for note in self.notes:
            log.info("languages of rows: %s", note)
        for warning in self.warnings:
            log.warning("%s", warning.text)


def check_languages(
    inputs: Sequence[Input],
    config: SourceConfig,
    preambles: PreambleCache | None = None,
    job_languages: tuple[str | None, str | None] = (None, None),
) -> LanguageReport:
    """Read the languages that the first rows of all files name.

    Args:
        inputs: The inputs.
        config: The settings.
        preambles: Preambles of the job's inputs.
        job_languages: Source and target language of rows that name none.

    Raises:
        ConfigError: The first rows of a file have nothing but unknown languages.
    """
    report, total = LanguageReport(), LanguageSample()
    names = [(f"source.{key}_lang_field", name) for key, name in zip(("src", "tgt"), config.lang_fields, strict=True)]
    readable = [input for input in inputs if registry.of_input(input).has_fields]
    if not readable or not any(config.lang_fields):
        return report
    max_rows = min(MAX_ROWS, max(MIN_ROWS, ALL_ROWS // len(readable)), config.limit or MAX_ROWS)
    preambles = preambles or PreambleCache(config)
    for input in readable:
        sample = LanguageSample()
        for _ in read_documents(input, config, max_rows=max_rows, preambles=preambles, language_sample=sample):
            pass
        for key, name in names:
            if name and sample.num_unknown(name) and not sample.num_usable(name):
                raise _nothing_known(input, key, name, sample)
        total.add(sample)
    for _, name in names:
        if name:
            _describe(name, total, report)
    if note := _note_of_same_languages(total, job_languages):
        report.notes.append(note)
    target = config.lang_fields[1]
    if target and not total.unnamed[target]:
        report.targets = {code for field_name, _, code in total.understood if field_name == target}
    return report


def _nothing_known(input: Input, key: str, name: str, sample: LanguageSample) -> ConfigError:
    return ConfigError(
        f"{input.path} names no language of the models in its field {name!r}: the first rows have "
        f"{_unknown(name, sample)}",
        why="so none of them could be translated",
        fix=f"Write codes that `hymt-batch languages` lists, or set {key} to another field, or to null to translate "
        "every row with the same languages.",
    )


def _unknown(name: str, sample: LanguageSample) -> str:
    counts = [(value, count) for (field_name, value), count in sample.unknown.most_common() if field_name == name]
    more = [f"{len(counts) - _SHOWN} more"] if len(counts) > _SHOWN else []
    shown = []
    for value, count in counts[:_SHOWN]:
        meaning = languages.describe(value)
        shown.append(f"{abbreviate(value)} ({count:,}{f', {meaning}' if meaning else ''})")
    return ", ".join([*shown, *more])


def _describe(name: str, total: LanguageSample, report: LanguageReport) -> None:
    """Add what is known of one field to the report."""
    by_code: dict[str, int] = defaultdict(int)
    spellings: dict[str, list[str]] = defaultdict(list)
    for (field_name, value, code), count in total.understood.most_common():
        if field_name == name:
            by_code[code] += count
            if languages.understand(value, name).note:
                spellings[code].append(value)
    seen = [f"{code} {count}" for code, count in sorted(by_code.items(), key=lambda item: -item[1])]
    seen += [f"no value {total.unnamed[name]}"] if total.unnamed[name] else []
    report.seen.append(f"{name}: {', '.join(seen) or 'no row'}")
    if spellings:
        read = [f"{', '.join(values[:_SHOWN])} as {code}" for code, values in sorted(spellings.items())]
        report.notes.append(f"field {name!r}: {'; '.join(read)}")
    if num_unknown := total.num_unknown(name):
        num_rows = num_unknown + total.num_usable(name)
        report.warnings.append(
            Problem(
                what=f"field {name!r} names no language of the models in {num_unknown:,} of the first "
                f"{plural(num_rows, 'row')}: {_unknown(name, total)}",
                why=_consequence(name, total),
                fix="Write codes that `hymt-batch languages` lists.",
            )
        )


def _consequence(name: str, total: LanguageSample) -> str:
    """Return what becomes of the rows whose language is unknown."""
    counts = [(status, count) for (field_name, status), count in total.statuses.most_common() if field_name == name]
    if len(counts) == 1:
        return f"so these rows get the status {counts[0][0]}, and no translation"
    shown = ", ".join(f"{count:,} the status {status}" for status, count in counts)
    return f"so these rows get no translation: {shown}"


def _note_of_same_languages(total: LanguageSample, job_languages: tuple[str | None, str | None]) -> str:
    """Return which rows are to be translated into the language that they have; "" if there are none."""
    same: Counter[str] = Counter()
    for (source, target), count in total.pairs.items():
        code = source or job_languages[0]
        if code is not None and code == (target or job_languages[1]):
            same[code] += count
    if not same:
        return ""
    shown = ", ".join(f"{code} {count:,}" for code, count in same.most_common())
    rows = "row has" if same.total() == 1 else "rows have"
    return f"{same.total():,} {rows} the same source and target language ({shown}), and the model translates them, too"
