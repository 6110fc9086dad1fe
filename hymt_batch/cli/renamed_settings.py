"""Settings that earlier versions had under other names: they are still understood, with a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

RENAMED: dict[str, tuple[str, ...]] = {
    "check.max_attempts": ("check.retry.max_attempts",),
    "check.loop_repeats": ("check.retry.loop_repeats", "check.flag.loop_repeats"),
    "check.min_logprob": ("check.flag.min_logprob",),
}
"""Earlier name -> the settings that have its value today; all are of one type."""


def current_keys(key: str) -> tuple[str, ...]:
    """Return the settings that a key sets."""
    return RENAMED.get(key, (key,))


def find(settings: Mapping[str, T], key: str) -> T | None:
    """Return the setting of a key, which may be an earlier name of it; None if there is none."""
    return settings.get(current_keys(key)[0])


def notes(keys: Sequence[str]) -> list[str]:
    """Return what to tell a user who wrote these keys."""
    return [f"{key} is now {' and '.join(RENAMED[key])}" for key in keys if key in RENAMED]
