"""The order of exit codes, where several jobs of one command end with one code."""

from __future__ import annotations

from hymt_batch.errors import ExitCode

SEVERITY = (
    ExitCode.COMPLETE,
    ExitCode.WARNINGS,
    ExitCode.TOO_MANY_ERRORS,
    ExitCode.DIFFERENT,
    ExitCode.USAGE,
    ExitCode.LEASE_HELD,
    ExitCode.IDENTITY,
    ExitCode.INPUT_CHANGED,
    ExitCode.MISSING,
    ExitCode.PREFLIGHT,
    ExitCode.DAMAGE,
    ExitCode.BUG,
    ExitCode.STOPPED,
)
"""Exit codes from best to worst; a sweep returns the worst code of its points."""
