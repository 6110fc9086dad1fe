"""The error for a model whose files are incomplete, damaged or do not belong together."""

from __future__ import annotations

from hymt_batch.errors import PreflightError


def refusal(what: str, *, id: str, why: str = "") -> PreflightError:
    """Return the error that refuses a model until it is downloaded again; the arguments are fields of the error."""
    return PreflightError(what, why=why, fix="Download the model again.", id=id)
