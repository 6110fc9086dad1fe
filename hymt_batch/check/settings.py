"""Settings of the check stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hymt_batch.errors import ConfigError
from hymt_batch.setting import Identity, Operation, Output

CODE_STEPS = ("format_prompt", "plain", "retry", "without_codes")
"""The steps of check.code_ladder, in the order in which they are tried."""


@dataclass(kw_only=True, slots=True)
class CheckConfig:
    """Settings of the checks after decoding; every field is explained in conf/check/."""

    max_error_rate: Operation[float] = 0.01
    max_failed_files: Operation[int] = 0
    max_attempts: Identity[int] = 1
    code_ladder: Identity[Any] = "auto"
    code_rows: Identity[bool] = False
    loop_repeats: Identity[int] = 3
    min_logprob: Output[float | None] = None
    codes: Output[bool] = False
    stop_rate: Operation[float] = 0.5
    stop_rows: Operation[int] = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.max_error_rate <= 1:
            raise ConfigError(
                f"check.max_error_rate={self.max_error_rate} is not a share of the rows",
                fix="Set check.max_error_rate=0.01 (the default), or another value from 0 to 1.",
            )
        if self.max_failed_files < 0:
            raise ConfigError(
                f"check.max_failed_files={self.max_failed_files} is below 0",
                fix="Set check.max_failed_files=0 (the default) or more.",
            )
        if self.code_ladder != "auto":
            self.code_ladder = _steps_of(self.code_ladder)
        if self.max_attempts < 1:
            raise ConfigError(
                f"check.max_attempts={self.max_attempts} is below 1", fix="Set check.max_attempts=1 (no retry) or more."
            )
        if self.loop_repeats < 2:
            raise ConfigError(
                f"check.loop_repeats={self.loop_repeats} is below 2", fix="Set check.loop_repeats=2 or more."
            )
        if self.min_logprob is not None and self.min_logprob > 0:
            raise ConfigError(
                f"check.min_logprob={self.min_logprob} is above 0, which a log probability never is",
                fix="Set check.min_logprob=-1.5, or another value up to 0.",
            )
        if not 0 < self.stop_rate <= 1 or self.stop_rows < 1:
            raise ConfigError(
                f"check.stop_rate={self.stop_rate} must be above 0 and at most 1 (1: never stop), and "
                f"check.stop_rows={self.stop_rows} at least 1",
                fix="Set check.stop_rate=0.5 and check.stop_rows=1000 (the defaults).",
            )

    @property
    def code_steps(self) -> tuple[str, ...]:
        """The steps of the code ladder; `auto` is all of them."""
        return CODE_STEPS if self.code_ladder == "auto" else tuple(self.code_ladder)

    @property
    def codes_in_rows(self) -> bool:
        """Whether codes that are still lost in a row are put back; what the ladder still loses would stay lost."""
        return self.codes or self.code_rows


def _steps_of(value: Any) -> list[str]:
    """Return the steps that a user listed.

    Raises:
        ConfigError: They are not steps, or not in their order.
    """
    listed = [value] if isinstance(value, str) else value
    steps = [str(step) for step in listed] if isinstance(listed, (list, tuple)) else [str(value)]
    known = [step for step in CODE_STEPS if step in steps]
    if steps != known:
        raise ConfigError(
            f"check.code_ladder={value} is not a list of its steps in their order",
            fix=f"Set check.code_ladder=auto, or [] for none, or some of [{','.join(CODE_STEPS)}] in this order.",
        )
    return steps
