"""Rows on their way through the slot engine, and what was computed for them. Records; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """What was computed; exact, and the same in every run."""

    steps: int = 0  # forward passes that gave every running row a token
    row_steps: int = 0  # rows over all steps
    useful_row_steps: int = 0  # of them, those that a finished row needed: its tokens but the first, and its end
    prefill_tokens: int = 0  # of prompts, without their common start
    prefill_padded: int = 0  # the same with padding
    prefix_tokens: int = 0
    first_tokens: int = 0  # chosen from prompts
    out_of_memory: int = 0
    host_reads: int = 0  # times that the host took tokens over
    captures: int = 0  # steps that were captured, and run again from then on
    replays: int = 0  # of the steps, those that were run again
    steps_of_rows: dict[int, int] = field(default_factory=dict)  # rows of a step -> steps


@dataclass(slots=True)
class SequenceState:
    """One prompt on its way."""

    index: int  # in the caller's order
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int
    new_ids: list[int] = field(default_factory=list)
    num_unread: int = 0  # tokens chosen on the device that were not read yet
    sum_logprob: float = 0.0  # sum over the tokens that were read, the end token included

    @property
    def max_length(self) -> int:
        """Tokens of keys and values that the row may come to have."""
        return len(self.prompt_ids) + self.max_new_tokens

    @property
    def position(self) -> int:
        """Where the next token's keys and values go."""
        return len(self.prompt_ids) + self.num_new_tokens - 1

    @property
    def num_new_tokens(self) -> int:
        """Tokens chosen so far."""
        return len(self.new_ids) + self.num_unread

    def reset(self) -> None:
        """Forget what was chosen; memory ran out."""
        self.new_ids.clear()
        self.num_unread, self.sum_logprob = 0, 0.0


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with; each keeps at least one of its own."""
    first, last = (
        min(map(tuple, prompts)),
        max(map(tuple, prompts)),
    )  # what these two share, all that stand between them share
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)


LOOP_CHECK_EVERY = 16
"""New tokens between two looks for a loop."""

MAX_LOOP_PERIOD, MIN_LOOP_TOKENS, MIN_LOOP_REPEATS = 64, 48, 4
"""A row loops when its end repeats a piece of at most so many tokens, over so many tokens and so many times."""


def is_looping(ids: Sequence[int], prompt: Sequence[int]) -> bool:
    """Whether new tokens end in a loop, and their source does not loop anywhere. Looks every LOOP_EVERY tokens only.

    Args:
        ids: New tokens so far.
        source: The prompt, in which dots of a table of contents may well repeat.
    """
    if len(ids) % LOOP_CHECK_EVERY or not _ends_in_loop(ids):
        return False
    return not any(_ends_in_loop(prompt[:end]) for end in range(MIN_LOOP_TOKENS // 2, len(prompt) + 1))


def find_loop(ids: Sequence[int], prompt: Sequence[int]) -> int | None:
    """Where a row that was watched would have been ended; None where it would not."""
    return next(
        (end for end in range(LOOP_CHECK_EVERY, len(ids) + 1, LOOP_CHECK_EVERY) if is_looping(ids[:end], prompt)), None
    )


def _ends_in_loop(ids: Sequence[int]) -> bool:
    for period in range(1, min(MAX_LOOP_PERIOD, len(ids) - 1) + 1):
        if ids[-1 - period] != ids[-1]:
            continue
        length = max(MIN_LOOP_TOKENS, MIN_LOOP_REPEATS * period)
        if len(ids) >= length and list(ids[-length:-period]) == list(ids[period - length :]):
            return True
    return False
