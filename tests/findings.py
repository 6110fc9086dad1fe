"""What tests of the doctor ask of every list of findings."""

from __future__ import annotations

from hymt_batch.doctor.finding import Finding, Level


def wrong(findings: list[Finding]) -> list[tuple[str, Level, str]]:
    """Return the warnings and failures as (id, level, check); each must have a fix, and no other finding may."""
    for finding in findings:
        is_problem = finding.level in (Level.WARN, Level.FAIL)
        assert is_problem == bool(finding.id) == bool(finding.fix), finding
        assert finding.seen
    return [(finding.id, finding.level, finding.check) for finding in findings if finding.id]


def wrong_levels(findings: list[Finding]) -> list[tuple[str, Level]]:
    """As `wrong`, without the checks' names."""
    return [(id, level) for id, level, _ in wrong(findings)]
