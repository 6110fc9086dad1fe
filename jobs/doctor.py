"""Check for known causes of failure and show how to fix them: `hymt-batch doctor model=... source.path=...`.

Reads the weights only to hash them if model.sha256 is set; `load=true` loads the model and compares its logits. Leaves
no files behind.
"""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from hymt_batch import sanitize, streams
from hymt_batch.doctor import catalogue, load_checks, preflight
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ExitCode, HymtError
from hymt_batch.run.reporter import Reporter
from hymt_batch.sanitize import escape_line

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob

TROUBLESHOOTING_PAGE = "docs/troubleshooting.md"


def doctor(job: DoctorJob) -> list[Finding]:
    """Run every check that applies; with load=true and no failure so far, also those that need the weights."""
    findings = preflight.run_all(job)
    if not job.load:
        return findings
    if any(finding.level is Level.FAIL for finding in findings):
        return [*findings, Finding("load", Level.SKIP, "not tried because a check above failed")]
    try:
        with explain_errors("loading the model"):
            return findings + load_checks.run(job)
    except HymtError as error:
        return [*findings, Finding.of_problem("load", Level.FAIL, error.problem)]


def describe(finding: Finding) -> str:
    """Return what was seen and why, in one text."""
    return replace(finding.problem, what=finding.seen).statement


def render(findings: Sequence[Finding], width: int = 120) -> str:
    """Format the findings as a table; the fix and the id of the failure are below each result."""
    column = min(34, max(len(finding.check) for finding in findings))
    indent = " " * (column + 8)
    lines: list[str] = []

    def add_wrapped(initial_indent: str, text: str) -> None:
        line = escape_line(" ".join(text.split()), 2000)
        lines.extend(
            textwrap.wrap(line, width, initial_indent=initial_indent, subsequent_indent=indent, break_on_hyphens=False)
        )

    for finding in findings:
        add_wrapped(f"{finding.level.value:<5} {finding.check:<{column}}  ", describe(finding))
        if finding.fix:
            add_wrapped(f"{'fix:':>{len(indent) - 1}} ", finding.fix)
        if finding.id:
            lines.append(
                f"{indent}{finding.id}: hymt-batch doctor explain={finding.id}, "
                f"or {TROUBLESHOOTING_PAGE}#{finding.id.lower()}"
            )
    counts = Counter(finding.level for finding in findings)
    summary = ", ".join(f"{counts[level]} {level.value}" for level in Level if counts[level])
    return "\n".join([*lines, "", summary])


def run(job: DoctorJob) -> ExitCode:
    """Print the table of findings or, with explain=, one entry of the catalogue.

    Returns:
        LEASE_HELD if the only failure is a lease that another process holds, PREFLIGHT if any other check failed,
        WARNINGS if strict=true and there is a warning, else COMPLETE.

    Raises:
        UsageError: explain= is not a known failure.
    """
    if job.explain is not None:
        streams.print_result(catalogue.explain(catalogue.get(job.explain)))
        return ExitCode.COMPLETE
    with Reporter("off"):
        findings = doctor(job)
    if job.format.value == "json":
        streams.print_result(sanitize.sanitize_text(json.dumps([asdict(finding) for finding in findings])))
    else:
        streams.print_result(
            sanitize.sanitize_text(render(findings, max(80, min(140, get_terminal_size((120, 24)).columns))))
        )
    levels = {finding.level for finding in findings}
    if Level.FAIL in levels:
        only_lease = all(finding.id == "G12" for finding in findings if finding.level is Level.FAIL)
        return ExitCode.LEASE_HELD if only_lease else ExitCode.PREFLIGHT
    return ExitCode.WARNINGS if job.strict and Level.WARN in levels else ExitCode.COMPLETE


if __name__ == "__main__":
    from .__main__ import main_as

    main_as("doctor")
