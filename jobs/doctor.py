"""Check for known causes of failure and show how to fix them: `hymt-batch doctor model=... source.path=...`.

Reads the weights only to hash them if model.sha256 is set; `load=true` loads the model and compares its logits. Leaves
no files behind.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from hymt_batch import sanitize, streams
from hymt_batch.doctor import catalogue, load_checks, preflight, search
from hymt_batch.doctor.explain import explain_errors
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import ExitCode, HymtError, UsageError
from hymt_batch.run.reporter import Reporter
from hymt_batch.sanitize import escape_line

if TYPE_CHECKING:
    from hymt_batch.schema import DoctorJob

TABLE_ORDER = (Level.OK, Level.SKIP, Level.WARN, Level.FAIL)
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
    """Format the findings as a table; the fix and the id of the failure are below each result.

    Failures stand last, above the counts, where a terminal shows them; warnings stand before them.
    """
    findings = sorted(findings, key=lambda finding: TABLE_ORDER.index(finding.level))
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
    summary = ", ".join(f"{counts[level]} {level.value}" for level in TABLE_ORDER if counts[level])
    return "\n".join([*lines, "", summary])


def explain_text(text: str, *, as_json: bool) -> str:
    """Return the explanation of a failure.

    Args:
        text: Its id, or a message or traceback; "-" reads it from standard input.
        as_json: True for a JSON list of all failures that the text may be about, the best first.

    Raises:
        UsageError: The id is unknown, or no known failure has this message; the error lists the nearest three.
    """
    if text.strip() == "-":
        text = sys.stdin.buffer.read().decode("utf-8", "replace")
    if search.is_id(text):
        found: tuple[catalogue.Failure, ...] = (catalogue.get(text),)
    else:
        result = search.search(text)
        found = result.found
        if not found:
            raise not_found(text, result.nearest)
    if as_json:
        return json.dumps([asdict(failure) for failure in found])
    lines = [catalogue.explain(found[0])]
    if others := found[1 : 1 + search.NUM_NEAREST]:
        lines += ["", "It may also be:"]
        lines += [f"  {failure.id}: {failure.title} (hymt-batch doctor explain={failure.id})" for failure in others]
    return "\n".join(lines)


def not_found(text: str, nearest: Sequence[catalogue.Failure]) -> UsageError:
    """Return the error for a message that no known failure has."""
    lists_all = f"{TROUBLESHOOTING_PAGE} lists all failures"
    if not text.strip():
        return UsageError(
            "explain= has no text", fix='Set explain=C23, explain="the message", or explain=- with a pipe.'
        )
    what = f"explain: no known failure has the message {escape_line(text.strip(), 200)!r}"
    if not nearest:
        return UsageError(f"{what}, and none is similar", fix=f"{lists_all}.")
    listed = "".join(f"\n  {failure.id}: {failure.title}" for failure in nearest)
    return UsageError(
        f"{what}. The nearest are:{listed}",
        fix=f"To read one, run hymt-batch doctor explain={nearest[0].id}; {lists_all}.",
    )


def run(job: DoctorJob) -> ExitCode:
    """Print the table of findings or, with explain=, what the catalogue has for an id or a pasted message.

    Returns:
        LEASE_HELD if the only failure is a lease that another process holds, PREFLIGHT if any other check failed,
        WARNINGS if strict=true and there is a warning, else COMPLETE.

    Raises:
        UsageError: explain= is not a known failure, and no known failure has this message.
    """
    if job.explain is not None:
        streams.print_result(sanitize.sanitize_text(explain_text(job.explain, as_json=job.format.value == "json")))
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
