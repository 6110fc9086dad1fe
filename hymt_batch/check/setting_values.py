"""Read lists of kinds and steps as users write them in settings of the check stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hymt_batch.errors import ConfigError


def kinds_of(key: str, value: Any, known: Iterable[str]) -> list[str]:
    """Return the kinds that a user listed, in their order.

    Raises:
        ConfigError: One of them is not a kind.
    """
    listed = [value] if isinstance(value, str) else value
    kinds = [str(kind) for kind in listed] if isinstance(listed, (list, tuple)) else [str(value)]
    known = list(known)
    if wrong := [kind for kind in kinds if kind not in known]:
        raise ConfigError(f"{key} has {wrong[0]}, which is none of its kinds", fix=f"Choose from {', '.join(known)}.")
    return [kind for kind in known if kind in kinds]


def ladder_of(value: Any, steps: Sequence[str], kinds: Sequence[str]) -> list[str] | dict[str, list[str]]:
    """Return the ladder that a user wrote: a list of steps, or one for each kind of failure.

    Raises:
        ConfigError: It has something else.
    """
    if isinstance(value, Mapping):
        ladders = {str(kind): _ladder_steps(listed, steps) for kind, listed in value.items()}
        if wrong := [kind for kind in ladders if kind not in (*kinds, "others")]:
            raise ConfigError(
                f"check.retry.ladder has {wrong[0]}, which is no kind of failure",
                fix=f"Choose from {', '.join((*kinds, 'others'))}.",
            )
        return ladders
    return _ladder_steps(value, steps)


def _ladder_steps(value: Any, steps: Sequence[str]) -> list[str]:
    listed = [value] if isinstance(value, str) else value
    chosen = [str(step) for step in listed] if isinstance(listed, (list, tuple)) else [str(value)]
    if not chosen or any(step not in steps for step in chosen):
        raise ConfigError(
            f"check.retry.ladder={value} is not a list of its steps",
            fix=f"Set check.retry.ladder=[{','.join(steps)}], or some of them, in any order.",
        )
    return chosen


def code_steps_of(value: Any, all_steps: Sequence[str]) -> list[str]:
    """Return the steps that a user listed.

    Raises:
        ConfigError: They are not steps, or not in their order.
    """
    listed = [value] if isinstance(value, str) else value
    steps = [str(step) for step in listed] if isinstance(listed, (list, tuple)) else [str(value)]
    known = [step for step in all_steps if step in steps]
    if steps != known:
        raise ConfigError(
            f"check.code_ladder={value} is not a list of its steps in their order",
            fix=f"Set check.code_ladder=auto, or [] for none, or some of [{','.join(all_steps)}] in this order.",
        )
    return steps
