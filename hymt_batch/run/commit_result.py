"""Commit what was decoded: the rows of a part, or a run of a divided row, and the row with the last of its runs.

Makes rows of translations and hands them to the output; independent of who decoded them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hymt_batch import segment
from hymt_batch.check import assemble
from hymt_batch.check.language_id import Identify
from hymt_batch.records import Part, Row, Translation
from hymt_batch.run.unit import PartResult
from hymt_batch.write.closed_rows import KnownRows
from hymt_batch.write.job_output import JobOutput


def commit_result(output: JobOutput, result: PartResult, identify: Identify | None = None) -> list[Row]:
    """Commit a decoded part, and return the rows that are committed with it: none while runs of its row are missing.

    Args:
        output: The output folder.
        result: The translations of the part.
        identify: Returns the language of a row, which is committed with it; None to identify none.
    """
    part = result.part
    if part.run is not None:
        output.commit_run(part, result.translations, result.environment, result.degraded)
        return commit_divided_row(output, part.run.of, identify) if output.has_all_runs(part.run.of) else []
    rows = _make_rows(part, result.translations, identify)
    output.commit(part, rows, result.environment, result.degraded)
    return rows


def commit_divided_row(output: JobOutput, part: Part, identify: Identify | None = None) -> list[Row]:
    """Join a divided row, whose runs are all committed, and commit it with its copies; return these rows."""
    runs = output.load_runs(part)
    if runs is None:  # another process committed the row in the meantime
        return []
    rows = _make_rows(part, runs.translations, identify)
    output.commit(part, rows, runs.environments[-1], runs.degraded, runs.environments[:-1])
    return rows


def _make_rows(part: Part, translations: Sequence[Translation], identify: Identify | None) -> list[Row]:
    rows = assemble.assemble_rows(part, translations, segment.join_translations)
    if identify is None:
        return rows
    documents, first_row = part.shard.documents, part.shard.first_row
    found = [(row, identify(documents[row.row_index - first_row], row)) for row in rows]
    return [replace(row, language=language) if language else row for row, language in found]


def commit_known(output: JobOutput, part: Part, known: KnownRows) -> None:
    """Commit a part of which nothing is decoded, because the earlier version of its file has its rows.

    Args:
        output: The output folder.
        part: The part.
        known: What is known of its shard.
    """
    output.commit_known(part, assemble.assemble_rows(part, (), segment.join_translations), known)
