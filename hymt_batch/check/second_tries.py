"""The second tries of a segment whose translation failed: what is tried, in the order of check.retry.ladder.

- `seed`: the same prompt, decoded as the job does with another seed; left out in a greedy job, which has no seed
- `card`: the same prompt, sampled as the model's card says
- `penalty`: the same prompt, decoded as the job does with a repetition penalty
- `split`: the two halves of the segment, cut between sentences or words, each on its own

The best translation is kept, by `score`; of two that are equal, the earlier one. Does not decode; pure functions of
what it gets. A segment whose translation must have codes has a ladder of its own: ladder.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hymt_batch import languages
from hymt_batch.check.checks import check, failures
from hymt_batch.check.halves import halves
from hymt_batch.check.ladder import PromptMaker
from hymt_batch.check.settings import RETRY_KINDS, RetryConfig
from hymt_batch.records import Attempt, Prompt, Translation

SEVERITY = {kind: len(RETRY_KINDS) - index for index, kind in enumerate(RETRY_KINDS)}
"""Kind of failure -> how bad it is: no text at all, a text that did not end, a copy, a loop, ..."""

_DETERMINISTIC = frozenset({"penalty", "split"})
"""Steps that give the same text again in a greedy job."""


@dataclass(frozen=True, slots=True)
class Try:
    """What is decoded next for a segment."""

    step: str
    attempt: Attempt
    prompts: tuple[Prompt, ...]  # of the segment, or of its two halves
    gap: str = ""  # what stands between the halves


class SecondTries:
    """How far the second tries of a segment came.

    Args:
        first: The checked first translation.
        maker: Makes the prompts of the halves; None if nothing is split.
        config: What fails, and what is tried then.
        is_greedy: True if the job always takes the most likely token.
    """

    def __init__(
        self, first: Translation, maker: PromptMaker | None, config: RetryConfig, *, is_greedy: bool = True
    ) -> None:
        self._prompt, self._maker, self._config, self._is_greedy = first.prompt, maker, config, is_greedy
        self._best, self._step = first, ""
        self._tries: list[str] = []
        self._steps = self._plan()
        self.next = next(self._steps, None)

    def judge(self, answers: Sequence[Translation]) -> None:
        """Take the answers to the prompts of the last try, as they were decoded; then go on to the next try."""
        assert self.next is not None
        joined = self._join(answers, self.next) if len(answers) > 1 else replace(answers[0], prompt=self._prompt)
        translation = check(joined, self._config)
        self._tries.append(self.next.step)
        if score(translation, self._config) > score(self._best, self._config):
            self._best, self._step = translation, self.next.step
        self.next = next(self._steps, None)

    def result(self) -> Translation:
        """Return the best translation, with the number of the last attempt and the steps that were decoded."""
        flags = (*self._best.flags, "retried") if self._step else self._best.flags
        return replace(self._best, flags=flags, attempt=len(self._tries), tries=tuple(self._tries))

    def _plan(self) -> Iterator[Try]:
        """Yield what is tried, while it is needed: each try is judged before the next one is made."""
        done: set[str] = set()
        for number in range(1, self._config.max_attempts):
            if not (kinds := failures(self._best, self._config)):
                return
            steps = self._config.steps_for(kinds)
            step = steps[(number - 1) % len(steps)] if steps else ""
            is_same = self._is_greedy and (step == "seed" or (step in _DETERMINISTIC and step in done))
            if step and not is_same and (made := self._make(step, number)):
                yield made
            done.add(step)

    def _make(self, step: str, number: int) -> Try | None:
        if step != "split":
            sampling = {"seed": "job", "card": "card", "penalty": "penalty"}[step]
            return Try(step, Attempt(number, sampling), (self._prompt,))
        pieces = halves(self._prompt.segment.text)
        if pieces is None or self._maker is None:
            return None
        prompts = [self._maker.plain_prompt(self._prompt, piece.strip()) for piece in pieces]
        if any(prompt is None for prompt in prompts):
            return None
        first, second = pieces
        gap = first[len(first.rstrip()) :] + second[: len(second) - len(second.lstrip())]
        return Try(step, Attempt(number), tuple(prompt for prompt in prompts if prompt is not None), gap)

    def _join(self, answers: Sequence[Translation], made: Try) -> Translation:
        """Return the translation of the segment from those of its halves: it ended if both did."""
        failed = next((answer for answer in answers if answer.finish_reason != "stop"), answers[0])
        gap = made.gap if languages.get(self._prompt.tgt_lang).spaced or made.gap != " " else ""
        if not gap and languages.get(self._prompt.tgt_lang).spaced:
            gap = " "
        texts = [answer.text.strip() for answer in answers]
        measured = [answer.mean_logprob for answer in answers if answer.mean_logprob is not None]
        return Translation(
            self._prompt,
            gap.join(texts) if all(texts) else "",
            failed.finish_reason,
            sum(answer.num_new_tokens for answer in answers),
            flags=tuple(dict.fromkeys(flag for answer in answers for flag in answer.flags)),
            message=failed.message,
            attempt=made.attempt.number,
            mean_logprob=min(measured, default=None),
        )


def score(translation: Translation, config: RetryConfig) -> tuple[bool, int, int, float]:
    """Return how good a checked translation is, the more the better.

    A text counts most; then that its worst failure is less bad (`SEVERITY`), then that it has fewer of them, then its
    mean log-probability.
    """
    kinds = failures(translation, config)
    has_text = bool(translation.text) and translation.finish_reason in ("stop", "length", "loop")
    logprob = translation.mean_logprob if translation.mean_logprob is not None else float("-inf")
    return has_text, -max((SEVERITY[kind] for kind in kinds), default=0), -len(kinds), logprob if kinds else 0.0
