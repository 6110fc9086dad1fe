"""The code ladder of a segment: what is tried, in order, until a translation has the codes of its source.

1. `format_prompt`: the form of the model's card that asks for them, where it has one;
2. `plain`: the usual prompt, with the codes as plain text;
3. `retry`: the same, sampled with other seeds, as often as check.retry.max_attempts allows, once at least;
4. `without_codes`: the text without its codes, which are then put back by position.

The best translation is kept, by `_Scored.score`. Does not decode and makes no prompt; pure functions of what it gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from hymt_batch.check.checks import FAILURE_STATUSES, failures
from hymt_batch.check.put_back import put_back, without_codes
from hymt_batch.check.settings import CheckConfig
from hymt_batch.codes import SourceCodes
from hymt_batch.records import FIRST, Attempt, Prompt, Translation


class FormPrompt(Protocol):
    """A prompt in the form of a card; see `code_prompt.CodePrompt`."""

    @property
    def prompt(self) -> Prompt: ...
    @property
    def read(self) -> Callable[[str], str]: ...


class PromptMaker(Protocol):
    """Makes prompts; see `code_prompt.CodePrompts`."""

    def format_prompt(self, prompt: Prompt, codes: SourceCodes, /) -> FormPrompt | None: ...
    def plain_prompt(self, prompt: Prompt, text: str, /) -> Prompt | None: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is decoded next for a segment."""

    step: str
    prompt: Prompt
    attempt: Attempt = FIRST
    read: Callable[[str], str] = str  # makes a translation of the model's answer


@dataclass(frozen=True, slots=True)
class _Scored:
    """A checked translation."""

    translation: Translation
    step: str
    has_codes: bool
    is_hard: bool

    @property
    def has_text(self) -> bool:
        return bool(self.translation.text) and self.translation.finish_reason not in FAILURE_STATUSES

    @property
    def score(self) -> tuple[bool, bool, int]:
        """The more the better: a text; one that did not fail; the codes kept, put back, or lost; no copy.

        A copy counts least under the form of a card only: there, models copy what they should translate.
        """
        if self.step == "format_prompt" and "copied" in self.translation.flags:
            return self.has_text, not self.is_hard, 0
        codes = 1 if not self.has_codes else 2 if self.step == "without_codes" else 3
        return self.has_text, not self.is_hard, codes

    @property
    def is_good(self) -> bool:
        return self.score == (True, True, 3)


class Ladder:
    """How far a segment with codes came.

    Args:
        prompt: The segment under the usual prompt.
        codes: Its codes, at least one.
        maker: Makes other prompts.
        config: Which steps there are.
    """

    def __init__(self, prompt: Prompt, codes: SourceCodes, maker: PromptMaker, config: CheckConfig) -> None:
        self.prompt = prompt
        self._codes, self._maker, self._config = codes, maker, config
        self._best: _Scored | None = None
        self._tries: list[str] = []
        self._steps = self._candidates() if codes.has_words else iter(())
        self.candidate = next(self._steps, None)

    def judge(self, translation: Translation) -> None:
        """Take the checked translation of the candidate, whose text was read; then go on to the next candidate."""
        assert self.candidate is not None
        step = self.candidate.step
        if step == "without_codes" and translation.text:  # only now: codes inside would hide a loop from the checks
            translation = replace(translation, text=put_back(self._codes, translation.text))
        is_hard = bool(failures(translation, self._config.retry))
        scored = _Scored(translation, step, self._codes.are_kept_in(translation.text), is_hard)
        self._tries.append(step)
        if self._best is None or scored.score > self._best.score:
            self._best = scored
        self.candidate = next(self._steps, None)

    def result(self) -> Translation:
        """Return the best translation; the source itself if it has nothing but codes."""
        if self._best is None:
            return Translation(self.prompt, self.prompt.segment.text, "stop")
        best, flags = self._best.translation, self._best.translation.flags
        if self._best.step == "retry":
            flags = (*flags, "retried")
        if self._best.step == "without_codes" and self._best.has_codes:
            flags = (*flags, "codes_moved")
        tries = () if self._tries == ["plain"] else tuple(self._tries)
        return replace(best, flags=flags, attempt=max(0, len(tries) - 1), tries=tries)

    def _candidates(self) -> Iterator[Candidate]:
        """Yield what is tried, while it is needed: each candidate is judged before the next one is made."""
        steps = self._config.code_steps
        if "format_prompt" in steps and (form := self._maker.format_prompt(self.prompt, self._codes)):
            yield Candidate("format_prompt", form.prompt, read=form.read)
            if self._is_done():
                return
        if "plain" in steps or self._best is None:
            yield Candidate("plain", self.prompt)
        attempt = 1
        while not self._is_done() and self._may_retry(attempt):
            yield Candidate("retry", self.prompt, Attempt(attempt, "card"))
            attempt += 1
        if "without_codes" in steps and not self._has_codes():
            text = without_codes(self._codes)
            if (prompt := self._maker.plain_prompt(self.prompt, text)) is not None:
                yield Candidate("without_codes", prompt)

    def _is_done(self) -> bool:
        return self._best is not None and self._best.is_good

    def _has_codes(self) -> bool:
        return self._best is not None and self._best.has_text and self._best.score[2] >= 2

    def _may_retry(self, attempt: int) -> bool:
        """Return whether another seed is tried: for codes once at least, for a failure as check.retry says."""
        if attempt < self._config.retry.max_attempts:
            return True
        return "retry" in self._config.code_steps and attempt == 1 and not self._has_codes()


def open_ladders(prompts: Sequence[Prompt], maker: PromptMaker, config: CheckConfig) -> dict[int, Ladder]:
    """Return a ladder for each prompt whose translation must have codes, by its index; {} if the ladder is off."""
    if not config.code_steps:
        return {}
    ladders: dict[int, Ladder] = {}
    for index, prompt in enumerate(prompts):
        if prompt.segment.codes is None:
            continue
        codes = SourceCodes(prompt.segment.text, prompt.segment.codes)
        if codes.found.codes:
            ladders[index] = Ladder(prompt, codes, maker, config)
    return ladders
