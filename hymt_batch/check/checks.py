"""The checks of a translated segment: one small function each, which returns whether the segment gets the flag.

A flag is a reason to distrust a translation; it never drops a row. Does not decode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hymt_batch.check.loops import has_loop, loop_suspects
from hymt_batch.check.settings import CheckConfig
from hymt_batch.records import Status, Translation

FAILURE_STATUSES = {
    "error": Status.GENERATION_ERROR,
    "non_finite": Status.NON_FINITE,
    "crash": Status.CRASH_QUARANTINED,
}
"""Maps a finish reason of a segment without text to the status of its row."""

SegmentCheck = Callable[[Translation, CheckConfig], bool]
"""Returns whether a translation, whose text has no surrounding white space, gets the flag of the check."""


def is_empty(translation: Translation, config: CheckConfig) -> bool:
    return not translation.text


def is_truncated(translation: Translation, config: CheckConfig) -> bool:
    return translation.finish_reason in ("length", "loop")


def ended_in_loop(translation: Translation, config: CheckConfig) -> bool:
    """Return whether the engine stopped the translation because it repeated itself."""
    return translation.finish_reason == "loop"


def is_copy(translation: Translation, config: CheckConfig) -> bool:
    return translation.text == translation.prompt.segment.text and any(map(str.isalpha, translation.text))


def repeats(translation: Translation, config: CheckConfig) -> bool:
    """Return whether the translation has a loop that its source does not have."""
    source = translation.prompt.segment.text
    return has_loop(translation.text, config.loop_repeats) and not has_loop(source, config.loop_repeats)


CHECKS: tuple[tuple[str, SegmentCheck], ...] = (
    ("empty", is_empty),
    ("truncated", is_truncated),
    ("loop", ended_in_loop),
    ("copied", is_copy),
)
"""Flag and check, in the order in which flags are listed."""


def flag_all(translations: Sequence[Translation], config: CheckConfig) -> list[Translation]:
    """Return the translations of a part with their flags set."""
    suspects = loop_suspects([translation.text for translation in translations], config.loop_repeats)
    return [flag(flagged, config, may_loop=index in suspects) for index, flagged in enumerate(translations)]


def flag(translation: Translation, config: CheckConfig, *, may_loop: bool = True) -> Translation:
    """Return the translation with its flags set; with `may_loop` false, loops are not searched for."""
    if translation.finish_reason in FAILURE_STATUSES:
        return translation
    stripped = translation.text.strip()
    checked = translation if stripped == translation.text else replace(translation, text=stripped)
    flags = [*translation.flags, *(name for name, check in CHECKS if check(checked, config))]
    if may_loop and repeats(checked, config):
        flags.append("loop")
    return replace(checked, flags=tuple(dict.fromkeys(flags))) if flags else checked
