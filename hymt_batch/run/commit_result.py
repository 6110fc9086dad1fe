"""Commit what was decoded: the rows of a part, or a run of a divided row, and the row with the last of its runs.

Makes rows of translations and hands them to the output; independent of who decoded them.
"""

from __future__ import annotations

from hymt_batch import segment
from hymt_batch.check import assemble
from hymt_batch.records import Part, Row
from hymt_batch.run.unit import PartResult
from hymt_batch.write.closed_rows import KnownRows
from hymt_batch.write.job_output import JobOutput


def commit_result(output: JobOutput, result: PartResult) -> list[Row]:
    """Commit a decoded part, and return the rows that are committed with it: none while runs of its row are missing."""
    part = result.part
    if part.run is not None:
        output.commit_run(part, result.translations, result.environment, result.degraded)
        return commit_divided_row(output, part.run.of) if output.has_all_runs(part.run.of) else []
    rows = assemble.assemble_rows(part, result.translations, segment.join_translations)
    output.commit(part, rows, result.environment, result.degraded)
    return rows


def commit_divided_row(output: JobOutput, part: Part) -> list[Row]:
    """Join a divided row, whose runs are all committed, and commit it with its copies; return these rows."""
    runs = output.load_runs(part)
    if runs is None:  # another process committed the row in the meantime
        return []
    rows = assemble.assemble_rows(part, runs.translations, segment.join_translations)
    output.commit(part, rows, runs.environments[-1], runs.degraded, runs.environments[:-1])
    return rows


def commit_known(output: JobOutput, part: Part, known: KnownRows) -> None:
    """Commit a part of which nothing is decoded, because the earlier version of its file has its rows.

    Args:
        output: The output folder.
        part: The part.
        known: What is known of its shard.
    """
    output.commit_known(part, assemble.assemble_rows(part, (), segment.join_translations), known)
