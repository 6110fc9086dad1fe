"""Settings of the check stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, Protocol

from hymt_batch.check.setting_values import code_steps_of, kinds_of, ladder_of
from hymt_batch.errors import ConfigError
from hymt_batch.setting import Identity, Operation, Output

CODE_STEPS = ("format_prompt", "plain", "retry", "without_codes")
"""The steps of check.code_ladder, in the order in which they are tried."""

LADDER_STEPS = ("seed", "card", "penalty", "split")
"""The steps of check.retry.ladder."""

HARD_KINDS = ("empty", "truncated", "loop")
"""Failures that are tried again by default, and that count in the circuit breaker: their flags are hard."""

DERIVED_KINDS = {
    "loop": "a phrase repeats again and again",
    "low_logprob": "the model was unsure",
    "repetition": "a few words make up most of the translation",
    "length": "the translation is much longer or shorter than is usual for its languages",
    "wrong_script": "most letters are not of the target language's script",
    "wrong_language": "the translation is in another language",
    "wrong_variant": "Chinese in the other script, simplified or traditional",
    "left_in_source": "words of the source are left as they were",
    "leak": "a note, an introduction or words of the prompt are in the translation",
    "urls": "a URL was lost or invented",
    "numbers": "a number of four digits or more was lost or invented",
    "markdown": "the translation has Markdown that the source has not",
}
"""Flags that thresholds make of measurements, in the order in which a row has them, and what they mean."""

RETRY_KINDS = ("empty", "truncated", "copied", *DERIVED_KINDS)
"""What a segment can be tried again for."""


class OnFail(Enum):
    """What is written for a row with one of the flags of check.fail_kinds."""

    keep = "keep"
    source = "source"
    empty = "empty"
    error = "error"


class Thresholds(Protocol):
    """From which measurement on a translation has a flag."""

    @property
    def loop_repeats(self) -> int: ...
    @property
    def min_logprob(self) -> float | None: ...
    @property
    def length_factor(self) -> float: ...
    @property
    def foreign_share(self) -> float: ...
    @property
    def source_words(self) -> float: ...
    @property
    def language_margin(self) -> float: ...


@dataclass(kw_only=True, slots=True)
class RetryConfig:
    """Which segments are tried again, in the worker that decodes them; every field is explained in conf/check/."""

    kinds: Identity[Any] = field(default_factory=lambda: list(HARD_KINDS))
    max_attempts: Identity[int] = 1
    ladder: Identity[Any] = field(default_factory=lambda: ["card"])
    loop_repeats: Identity[int] = 3
    min_logprob: Identity[float | None] = None
    length_factor: Identity[float] = 1.2
    foreign_share: Identity[float] = 0.8
    source_words: Identity[float] = 5.0
    language_margin: Identity[float] = 0.5

    def __post_init__(self) -> None:
        self.kinds = kinds_of("check.retry.kinds", self.kinds, RETRY_KINDS)
        self.ladder = ladder_of(self.ladder, LADDER_STEPS, RETRY_KINDS)
        if self.max_attempts < 1:
            raise ConfigError(
                f"check.retry.max_attempts={self.max_attempts} is below 1",
                fix="Set check.retry.max_attempts=1 (no second try) or more.",
            )
        _check_thresholds("check.retry", self, min_repeats=2)

    def steps_for(self, kinds: Iterable[str]) -> list[str]:
        """Return the ladder of a segment that failed in these ways: that of the first one which has its own."""
        if isinstance(self.ladder, list):
            return self.ladder
        return next((self.ladder[kind] for kind in kinds if kind in self.ladder), self.ladder.get("others", []))

    @property
    def identifies(self) -> bool:
        """True if the language of segments is identified."""
        return self.max_attempts > 1 and "wrong_language" in self.kinds


@dataclass(kw_only=True, slots=True)
class FlagConfig:
    """Which flags rows get when files are assembled; every field is explained in conf/check/."""

    kinds: Output[Any] = "all"
    loop_repeats: Output[int] = 3
    min_logprob: Output[float | None] = None
    length_factor: Output[float] = 1.2
    foreign_share: Output[float] = 0.8
    source_words: Output[float] = 5.0
    language_margin: Output[float] = 0.5
    identify_share: Output[float] = 0.0

    def __post_init__(self) -> None:
        if self.kinds != "all":
            self.kinds = kinds_of("check.flag.kinds", self.kinds, DERIVED_KINDS)
        _check_thresholds("check.flag", self, min_repeats=2)
        if not 0 <= self.identify_share <= 1:
            raise ConfigError(
                f"check.flag.identify_share={self.identify_share} is not a share of the rows",
                fix="Set check.flag.identify_share=1 (every row), 0 (none), or a value in between.",
            )

    @property
    def identifies(self) -> bool:
        """True if the language of rows is identified."""
        return self.identify_share > 0 and "wrong_language" in self.flags

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags that may be set."""
        return tuple(DERIVED_KINDS if self.kinds == "all" else self.kinds)


@dataclass(kw_only=True, slots=True)
class CheckConfig:
    """Settings of the checks after decoding; every field is explained in conf/check/."""

    max_error_rate: Operation[float] = 0.01
    max_failed_files: Operation[int] = 0
    code_ladder: Identity[Any] = "auto"
    code_rows: Identity[bool] = False
    codes: Output[bool] = False
    on_fail: Output[OnFail] = OnFail.keep
    fail_kinds: Output[Any] = field(default_factory=lambda: ["truncated", "loop"])
    stop_rate: Operation[float] = 0.5
    stop_rows: Operation[int] = 1000
    retry: RetryConfig = field(default_factory=RetryConfig)
    flag: FlagConfig = field(default_factory=FlagConfig)

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
            self.code_ladder = code_steps_of(self.code_ladder, CODE_STEPS)
        self.fail_kinds = kinds_of("check.fail_kinds", self.fail_kinds, FAIL_KINDS)
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

    @property
    def needs_logprobs(self) -> bool:
        """True if the mean log-probability of each segment is recorded."""
        return self.flag.min_logprob is not None or self.retry.min_logprob is not None


FAIL_KINDS = ("truncated", "copied", *DERIVED_KINDS)
"""Flags for which check.on_fail can apply; a row without a text is an error row anyway."""


def of_earlier_version(config: CheckConfig) -> FlagConfig:
    """Return the flags of a folder whose rows an earlier version measured for loops alone."""
    return FlagConfig(
        kinds=["loop", "low_logprob"], loop_repeats=config.retry.loop_repeats, min_logprob=config.flag.min_logprob
    )


def flags_of(settings: Mapping[str, Any], loop_repeats: int | None) -> FlagConfig:
    """Return the settings of the flags of a folder.

    Args:
        settings: Its output settings, by dotted key.
        loop_repeats: Repetitions from which an earlier version flagged loops; None if the rows have measurements.
    """
    values = {key.removeprefix("check.flag."): value for key, value in settings.items()}
    flag = FlagConfig(**{each.name: values[each.name] for each in fields(FlagConfig) if each.name in values})
    if loop_repeats is None:
        return flag
    return of_earlier_version(CheckConfig(retry=RetryConfig(loop_repeats=loop_repeats), flag=flag))


def _check_thresholds(key: str, config: Thresholds, *, min_repeats: int) -> None:
    if config.loop_repeats < min_repeats:
        raise ConfigError(
            f"{key}.loop_repeats={config.loop_repeats} is below {min_repeats}",
            fix=f"Set {key}.loop_repeats=3 (the default) or more.",
        )
    if config.min_logprob is not None and config.min_logprob > 0:
        raise ConfigError(
            f"{key}.min_logprob={config.min_logprob} is above 0, which a log probability never is",
            fix=f"Set {key}.min_logprob=-1.5, or another value up to 0.",
        )
    if config.length_factor < 1:
        raise ConfigError(
            f"{key}.length_factor={config.length_factor} is below 1",
            why="so translations of a usual length would have the flag",
            fix=f"Set {key}.length_factor=1.2 (the default) or another value from 1.",
        )
    for name, low in (("foreign_share", 0.5), ("language_margin", 0.0)):
        if not low < (value := getattr(config, name)) <= 1:
            raise ConfigError(f"{key}.{name}={value} is not above {low:g} and at most 1", fix=f"Drop {key}.{name}.")
    if config.source_words < 3:
        raise ConfigError(
            f"{key}.source_words={config.source_words} is below 3",
            why="and shorter pieces are not measured",
            fix=f"Set {key}.source_words=5 (the default) or another value from 3.",
        )


RETRIED_STATUSES = (
    *("ok", "empty", "copied", "truncated", "too_long", "bad_encoding"),
    *("generation_error", "non_finite", "crash_quarantined"),
)
"""Statuses of rows that can be decoded again; of bad_encoding those whose translation could not be written."""

RETRIED_FLAGS = (
    *("empty", "copied", "truncated", "loop", "line_break", "line_breaks", "codes_moved", "source_kept"),
    *("control_token", "retried", "unencodable"),
    *(kind for kind in DERIVED_KINDS if kind != "loop"),
)
"""Flags of rows that can be decoded again: all but `blank`."""


def selected_words(key: str, value: Any, choices: tuple[str, ...]) -> list[str] | None:
    """Return a list of statuses or flags by which `retry` selects rows, each once; None for None.

    Raises:
        ConfigError: One of them is none.
    """
    if value is None:
        return None
    words = [str(word) for word in (value if isinstance(value, list) else [value])]
    for word in words:
        if word not in choices:
            of_input = word in ("bad_row", "bad_language", "failed_file", "not_selected", "blank")
            raise ConfigError(
                f"{key}={word} cannot be decoded again" if of_input else f"{key}={word} is not one of {key}",
                why="such rows are not sent to the model" if of_input else "",
                fix=f"{'Correct the input and run translate with on_input_change=redo. ' if of_input else ''}"
                f"Choices: {', '.join(choices)}.",
            )
    if not words:
        raise ConfigError(f"{key}=[] selects nothing", fix=f"Choices: {', '.join(choices)}.")
    return list(dict.fromkeys(words))
