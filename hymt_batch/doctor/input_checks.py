"""Check the inputs of a job: files that are read and that are not, encodings, first rows, languages, space for output.

Each file is looked at as `translate` does before it loads the model; but all files that are wrong are named, not only
the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hymt_batch.device_map.settings import gib
from hymt_batch.doctor import row_languages
from hymt_batch.doctor.finding import Finding, Level, errors_as_findings
from hymt_batch.errors import HymtError
from hymt_batch.formats import registry
from hymt_batch.fs import OS_FS
from hymt_batch.records import Input, SkippedFile, plural
from hymt_batch.source import discovery, stream
from hymt_batch.source.content import ContentCheck
from hymt_batch.source.path_errors import describe_skipped
from hymt_batch.source.preamble_reader import PreambleCache
from hymt_batch.write.space import required_space

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob

HEADS = "encoding and first rows"
MAX_FILES = 5
"""Files that are named if many are wrong."""


def check(job: DoctorJob, findings: list[Finding]) -> tuple[int | None, int | None]:
    """Add what is found to `findings`; return the bytes and inodes that the output will need, None if unknown."""
    if job.source.path is None:
        findings.append(Finding("source", Level.SKIP, "source.path is not set"))
        return None, None
    if stream.needs_spool(job.source):
        findings.append(Finding("source", Level.SKIP, "only translate reads standard input and Hub datasets"))
        return None, None
    need: int | None = None
    need_inodes: int | None = None
    with errors_as_findings("source", findings):
        inputs = discovery.find_inputs(job.source, folder=Path(job.output_dir) / str(job.name))
        need, need_inodes = required_space(OS_FS, Path(job.output_dir) / str(job.name), inputs, job.write.min_free)
        listed = _count(registry.of_input(input).name for input in inputs)
        seen = f"{plural(len(inputs), 'file')}: {listed}; the output needs about {gib(need)}"
        findings.append(Finding("source", Level.OK, seen))
    if need is None:
        return None, None
    wrong: list[Finding] = []
    readable: list[Input] = []
    preambles = PreambleCache(job.source, job.write.added_fields)
    content = ContentCheck(inputs, job.source, preambles)
    with errors_as_findings(HEADS, wrong):
        wrong += _wrong_heads(job, inputs, content, preambles, readable)
        stream.check_text_fields(readable, job.source, preambles)
    _add_skipped((*inputs.skipped, *content.skipped), findings)
    if wrong:
        findings += wrong
        return need, need_inodes
    findings.append(Finding(HEADS, Level.OK, f"{_count(map(_encoding, readable))}; rows are as the settings say"))
    if any(job.source.lang_fields):
        with errors_as_findings(row_languages.CHECK, findings):
            findings += row_languages.check(readable, job.source, (job.src_lang, job.tgt_lang))
    return need, need_inodes


def _add_skipped(skipped: Sequence[SkippedFile], findings: list[Finding]) -> None:
    """Add a warning for the files that were found and are not read."""
    if skipped:
        named = ", ".join(f"{file.rel!r} ({file.why})" for file in skipped[:MAX_FILES])
        seen = f"{plural(len(skipped), 'file')} not read: {describe_skipped(skipped)}; such as {named}"
        findings.append(
            Finding("skipped files", Level.WARN, seen, "Name one in source.path to see what to do with it.")
        )


def _wrong_heads(
    job: DoctorJob,
    inputs: Sequence[Input],
    content: ContentCheck,
    preambles: PreambleCache,
    readable: list[Input],
) -> Iterator[Finding]:
    """Check the content, the encoding, the header and the first rows of each file.

    Yields a finding for each file that is wrong, and adds those that can be read to `readable`.
    """
    num_wrong = 0
    for input in inputs:
        try:
            if (checked := content.check(input)) is not None:
                preambles(checked)
                stream.check_first_rows([checked], job.source, preambles)
                readable.append(checked)
        except HymtError as error:
            num_wrong += 1
            if num_wrong <= MAX_FILES:
                yield Finding.of_problem(HEADS, Level.FAIL, error.problem)
    if num_wrong > MAX_FILES:
        yield Finding(
            HEADS, Level.FAIL, f"{num_wrong - MAX_FILES:,} more files are wrong", "Fix the files above first."
        )


def _encoding(input: Input) -> str:
    """Return the encoding by which a file is read, as it is shown."""
    if "encoding" not in registry.of_input(input).source_settings:
        return registry.of_input(input).name
    return f"{input.encoding} (source.encoding)" if input.encoding else "UTF-8"


def _count(names: Iterable[str]) -> str:
    """Return names with their counts: `3 csv, 12 text`."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(Counter(names).items()))
