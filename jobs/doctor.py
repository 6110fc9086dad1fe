"""Check for the known causes of failure and show the fix: `hymt-batch doctor model=... source.path=...`.

Reads no weights but to hash pinned ones; `load=true` loads the model and compares its answers. Leaves nothing behind.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from hymt_batch import sanitize, streams
from hymt_batch.doctor import catalogue, load_checks, preflight
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ExitCode, HymtError
from hymt_batch.progress import Reporter, escape_line

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob

TROUBLESHOOTING_PAGE = "docs/troubleshooting.md"


def doctor(job: DoctorJob) -> list[Finding]:
    """Every check that applies; with load=true also those that need the weights, unless something failed before."""
    found = preflight.run_all(job)
    if not job.load:
        return found
    if any(one.level is Level.FAIL for one in found):
        return [*found, Finding("load", Level.SKIP, "not tried: what failed above comes first")]
    try:
        with explain_errors("loading the model"):
            return found + load_checks.run(job)
    except HymtError as error:
        return [*found, Finding("load", Level.FAIL, error.message, "see what is said", error.id)]


def render(findings: Sequence[Finding], width: int = 120) -> str:
    """The table: check, verdict, what was seen, the fix and the id of the failure mode below it."""
    column = min(34, max(len(one.check) for one in findings))
    indent = " " * (column + 8)
    lines: list[str] = []

    def wrapped(lead: str, text: str) -> None:
        plain = escape_line(" ".join(text.split()), 2000)
        lines.extend(textwrap.wrap(plain, width, initial_indent=lead, subsequent_indent=indent, break_on_hyphens=False))

    for one in findings:
        wrapped(f"{one.level.value:<5} {one.check:<{column}}  ", one.seen or "-")
        if one.fix:
            wrapped(f"{'fix:':>{len(indent) - 1}} ", one.fix)
        if one.id:
            lines.append(
                f"{indent}{one.id}: hymt-batch doctor explain={one.id}, or {TROUBLESHOOTING_PAGE}#{one.id.lower()}"
            )
    counts = Counter(one.level for one in findings)
    said = ", ".join(f"{counts[level]} {level.value}" for level in Level if counts[level])
    return "\n".join([*lines, "", said])


def run(job: DoctorJob) -> ExitCode:
    """Print the table, or the page of one failure mode.

    Returns:
        PREFLIGHT where something failed, LEASE_HELD where that alone keeps the job from running, WARNINGS under
        strict=true where something is doubtful, else COMPLETE.

    Raises:
        UsageError: explain= names no failure mode.
    """
    if job.explain is not None:
        streams.print_result(catalogue.explain(catalogue.get(job.explain)))
        return ExitCode.COMPLETE
    with Reporter("off"):
        found = doctor(job)
    if job.format.value == "json":
        streams.print_result(sanitize.sanitize_text(json.dumps([asdict(one) for one in found])))
    else:
        streams.print_result(
            sanitize.sanitize_text(render(found, max(80, min(140, get_terminal_size((120, 24)).columns))))
        )
    levels = {one.level for one in found}
    if Level.FAIL in levels:
        held = all(one.id == "G12" for one in found if one.level is Level.FAIL)
        return ExitCode.LEASE_HELD if held else ExitCode.PREFLIGHT
    return ExitCode.WARNINGS if job.strict and Level.WARN in levels else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("doctor")
