"""What is recorded of a completed job, whatever the tracker is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A completed job, as a tracker takes it."""

    name: str
    folder: str
    identity_sha256: str
    ended: str  # UTC, ISO 8601
    params: Mapping[str, str]  # dotted key of the identity, the output settings or the environment -> value
    metrics: Mapping[str, float]  # rows, errors, flags, tokens, seconds, ...
    program: str  # name and version of the program
