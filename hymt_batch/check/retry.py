"""Translate the prompts of a unit, and try those again whose translation failed or lost a code.

Does not decode: the caller passes a function that does. All that is tried at the same time is one call of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from hymt_batch.check.checks import check_all, failures
from hymt_batch.check.ladder import Ladder, PromptMaker
from hymt_batch.check.second_tries import SecondTries
from hymt_batch.check.settings import CheckConfig
from hymt_batch.records import Attempt, Prompt, Translation

Decode = Callable[[Sequence[Prompt], Sequence[Attempt]], list[Translation]]
"""Decodes prompts, each in its attempt; `()` stands for the first one everywhere."""

NO_LADDERS: Mapping[int, Ladder] = MappingProxyType({})


def translate(
    prompts: Sequence[Prompt],
    decode: Decode,
    config: CheckConfig,
    ladders: Mapping[int, Ladder] = NO_LADDERS,
    maker: PromptMaker | None = None,
    *,
    is_greedy: bool = True,
) -> list[Translation]:
    """Translate the prompts of a unit.

    Args:
        prompts: What is translated, in decoding order.
        decode: Decodes prompts.
        config: The limits.
        ladders: Index of a prompt whose translation must have codes -> its ladder.
        maker: Makes the prompts of halves of a segment.
        is_greedy: True if the job always takes the most likely token.

    Returns:
        One checked translation per prompt, in order.
    """
    if not ladders:
        return check_and_retry(decode(prompts, ()), decode, config, maker=maker, is_greedy=is_greedy)
    candidates = {index: ladder.candidate for index, ladder in ladders.items()}
    results = {index: ladders[index].result() for index, candidate in candidates.items() if candidate is None}
    sent = [index for index in range(len(prompts)) if index not in results]  # codes alone are not sent
    if sent:
        first = [prompts[n] if (candidate := candidates.get(n)) is None else candidate.prompt for n in sent]
        climbing = {position: ladders[index] for position, index in enumerate(sent) if index in ladders}
        checked = check_and_retry(decode(first, ()), decode, config, climbing, maker, is_greedy=is_greedy)
        results |= zip(sent, checked, strict=True)
    return [results[index] for index in range(len(prompts))]


def check_and_retry(
    translations: Sequence[Translation],
    decode_again: Decode,
    config: CheckConfig,
    ladders: Mapping[int, Ladder] = NO_LADDERS,
    maker: PromptMaker | None = None,
    *,
    is_greedy: bool = True,
) -> list[Translation]:
    """Check the first translations of a unit, and try again what needs it.

    Args:
        translations: One for each prompt, or for the first candidate of its ladder.
        decode_again: Decodes prompts.
        config: The limits.
        ladders: Index of a translation -> the ladder of its segment.
        maker: Makes the prompts of halves of a segment.
        is_greedy: True if the job always takes the most likely token.

    Returns:
        One translation per prompt, in order: the best of its ladder, or of its first and second tries.
    """
    results = check_all(_read(translations, ladders), config.retry)
    for index, ladder in ladders.items():
        ladder.judge(results[index])
    tries: dict[int, SecondTries] = {}
    if config.retry.max_attempts > 1:
        for index, translation in enumerate(results):
            if index not in ladders and failures(translation, config.retry):
                tries[index] = SecondTries(translation, maker, config.retry, is_greedy=is_greedy)
    while True:
        climbing = [index for index, ladder in ladders.items() if ladder.candidate is not None]
        trying = [index for index, second in tries.items() if second.next is not None]
        if not climbing and not trying:
            break
        _try_again(decode_again, config, {n: tries[n] for n in trying}, {n: ladders[n] for n in climbing})
    for index, second in tries.items():
        results[index] = second.result()
    for index, ladder in ladders.items():
        results[index] = ladder.result()
    return results


def _try_again(
    decode_again: Decode, config: CheckConfig, tries: Mapping[int, SecondTries], ladders: Mapping[int, Ladder]
) -> None:
    """Decode what is next of each of these segments, in one call, and judge the answers."""
    asked: list[tuple[Prompt, Attempt]] = []
    places: dict[int, tuple[int, int]] = {}  # index of a segment -> which answers are its own
    for index in sorted([*tries, *ladders]):
        start = len(asked)
        if index in tries:
            made = tries[index].next
            assert made is not None
            asked += [(prompt, made.attempt) for prompt in made.prompts]
        else:
            candidate = ladders[index].candidate
            assert candidate is not None
            asked.append((candidate.prompt, candidate.attempt))
        places[index] = start, len(asked)
    answers = decode_again([prompt for prompt, _ in asked], [attempt for _, attempt in asked])
    if ladders:
        of_ladders = [answers[places[index][0]] for index in ladders]
        read = _read(of_ladders, dict(enumerate(ladders.values())))
        for ladder, translation in zip(ladders.values(), check_all(read, config.retry), strict=True):
            ladder.judge(translation)
    for index, second in tries.items():
        start, end = places[index]
        second.judge(answers[start:end])


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
