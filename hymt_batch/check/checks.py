"""The flags of a translation: those of what happened while it was decoded, and those that thresholds make of measures.

A flag is a reason to distrust a translation; it never drops a row. Does not decode.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from hymt_batch.check import language_id
from hymt_batch.check.loops import loop_suspects
from hymt_batch.check.measures import DERIVED, measure
from hymt_batch.check.pair import Pair
from hymt_batch.check.settings import RetryConfig, Thresholds
from hymt_batch.records import Measures, Status, Translation

FAILURE_STATUSES = {
    "error": Status.GENERATION_ERROR,
    "non_finite": Status.NON_FINITE,
    "crash": Status.CRASH_QUARANTINED,
}
"""Maps a finish reason of a segment without text to the status of its row."""


def is_empty(translation: Translation) -> bool:
    """No false alarms: there is a source, and no text."""
    return not translation.text


def is_truncated(translation: Translation) -> bool:
    """No false alarms: the model did not end the text."""
    return translation.finish_reason in ("length", "loop")


def ended_in_loop(translation: Translation) -> bool:
    """Return whether the engine stopped the translation because it repeated itself."""
    return translation.finish_reason == "loop"


def is_copy(translation: Translation) -> bool:
    """False alarms: 1.4 % of 12,021 human translations of WMT24 are copies (hashtags, URLs), 0.2 % of NTREX at most."""
    return translation.text == translation.prompt.segment.text and any(map(str.isalpha, translation.text))


EVENTS: tuple[tuple[str, Callable[[Translation], bool]], ...] = (
    ("empty", is_empty),
    ("truncated", is_truncated),
    ("loop", ended_in_loop),
    ("copied", is_copy),
)
"""Flags that are kept with a translation, whose text has no surrounding white space, in the order of a list."""


def derive(measures: Measures, logprob: float | None, limits: Thresholds, kinds: Collection[str]) -> list[str]:
    """Return the flags that measurements give a segment or a row, of the given kinds, in the order of DERIVED."""
    if not measures and limits.min_logprob is None:
        return []
    measured = dict(measures)
    return [flag for flag, is_given in DERIVED.items() if flag in kinds and is_given(measured, logprob, limits)]


def failures(translation: Translation, config: RetryConfig) -> list[str]:
    """Return in which of the ways of check.retry.kinds a checked translation failed, the worst first."""
    if translation.finish_reason in FAILURE_STATUSES:
        return []
    kinds = config.kinds
    if not (translation.flags or translation.measures or config.min_logprob is not None):
        return []
    given = {*translation.flags, *derive(translation.measures, translation.mean_logprob, config, kinds)}
    return [kind for kind in kinds if kind in given]


def check_all(translations: Sequence[Translation], config: RetryConfig) -> list[Translation]:
    """Return the translations of a part with their flags and measurements."""
    suspects = loop_suspects([translation.text for translation in translations], config.loop_repeats)
    return [check(each, config, may_loop=index in suspects) for index, each in enumerate(translations)]


def check(translation: Translation, config: RetryConfig, *, may_loop: bool = True) -> Translation:
    """Return the translation with its flags and measurements; with `may_loop` false, loops are not searched for."""
    if translation.finish_reason in FAILURE_STATUSES:
        return translation
    stripped = translation.text.strip()
    checked = translation if stripped == translation.text else replace(translation, text=stripped)
    flags = [*translation.flags, *(name for name, is_given in EVENTS if is_given(checked))]
    prompt = checked.prompt
    pair = Pair(prompt.segment.text, stripped, prompt.src_lang, prompt.tgt_lang)
    measures = measure(pair, loops_from=min(3, config.loop_repeats), may_loop=may_loop) if stripped else ()
    if config.identifies and (margin := language_id.margin(pair.words, pair.target.code)):
        measures = (*measures, ("language", margin))
    if not flags and not measures:
        return checked
    return replace(checked, flags=tuple(dict.fromkeys(flags)), measures=measures)
