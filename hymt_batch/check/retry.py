"""Translate the prompts of a unit, and try those again whose translation has a hard flag or lost a code.

Does not decode: the caller passes a function that does. All that is tried at the same time is one call of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from types import MappingProxyType

from hymt_batch.check.checks import flag_all
from hymt_batch.check.ladder import Ladder
from hymt_batch.check.settings import CheckConfig
from hymt_batch.records import HARD_FLAGS, Prompt, Translation

Decode = Callable[[Sequence[Prompt], Sequence[int]], list[Translation]]
"""Decodes prompts, each with the seed of its attempt, from 0; `()` stands for 0 everywhere."""

NO_LADDERS: Mapping[int, Ladder] = MappingProxyType({})


def translate(
    prompts: Sequence[Prompt], decode: Decode, config: CheckConfig, ladders: Mapping[int, Ladder] = NO_LADDERS
) -> list[Translation]:
    """Translate the prompts of a unit.

    Args:
        prompts: What is translated, in decoding order.
        decode: Decodes prompts.
        config: The limits.
        ladders: Index of a prompt whose translation must have codes -> its ladder.

    Returns:
        One checked translation per prompt, in order.
    """
    if not ladders:
        return flag_and_retry(decode(prompts, ()), decode, config)
    candidates = {index: ladder.candidate for index, ladder in ladders.items()}
    results = {index: ladders[index].result() for index, candidate in candidates.items() if candidate is None}
    sent = [index for index in range(len(prompts)) if index not in results]  # codes alone are not sent
    if sent:
        first = [prompts[n] if (candidate := candidates.get(n)) is None else candidate.prompt for n in sent]
        climbing = {position: ladders[index] for position, index in enumerate(sent) if index in ladders}
        results |= zip(sent, flag_and_retry(decode(first, ()), decode, config, climbing), strict=True)
    return [results[index] for index in range(len(prompts))]


def flag_and_retry(
    translations: Sequence[Translation],
    decode_again: Decode,
    config: CheckConfig,
    ladders: Mapping[int, Ladder] = NO_LADDERS,
) -> list[Translation]:
    """Flag the first translations of a unit, and try again what needs it.

    Args:
        translations: One for each prompt, or for the first candidate of its ladder.
        decode_again: Decodes prompts.
        config: The limits.
        ladders: Index of a translation -> the ladder of its segment.

    Returns:
        One translation per prompt, in order: the best of its ladder; without one, the first attempt without a hard
        flag, or attempt 0 if all have one.
    """
    results = flag_all(_read(translations, ladders), config)
    for index, ladder in ladders.items():
        ladder.judge(results[index])
    for attempt in count(1):
        again: dict[int, tuple[Prompt, int]] = {}
        if attempt < config.max_attempts:
            for index, translation in enumerate(results):
                if index not in ladders and HARD_FLAGS & set(translation.flags):
                    again[index] = translation.prompt, attempt
        for index, ladder in ladders.items():
            if ladder.candidate is not None:
                again[index] = ladder.candidate.prompt, ladder.candidate.attempt
        if not again:
            break
        answers = decode_again([prompt for prompt, _ in again.values()], [number for _, number in again.values()])
        positions = {position: ladders[index] for position, index in enumerate(again) if index in ladders}
        for index, translation in zip(again, flag_all(_read(answers, positions), config), strict=True):
            if index in ladders:
                ladders[index].judge(translation)
            elif translation.finish_reason == "stop" and not HARD_FLAGS & set(translation.flags):
                results[index] = replace(translation, flags=(*translation.flags, "retried"))
    for index, ladder in ladders.items():
        results[index] = ladder.result()
    return results


def _read(answers: Sequence[Translation], ladders: Mapping[int, Ladder]) -> Sequence[Translation]:
    """Return the answers as translations of their segments: those of a ladder are read by its candidate."""
    if not ladders:
        return answers
    read = list(answers)
    for index, ladder in ladders.items():
        assert ladder.candidate is not None
        text = ladder.candidate.read(answers[index].text) if answers[index].text else ""
        read[index] = replace(answers[index], prompt=ladder.prompt, text=text)
    return read
