"""Records of the slot engine: a row being decoded, and counters of the work done. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Exact counts of the work done; the same in every run."""

    steps: int = 0  # forward passes that generated one token for every running row
    row_steps: int = 0  # rows, summed over all steps
    # row steps that finished rows needed: one for each token but the first, and one for the end token
    useful_row_steps: int = 0
    prefills: int = 0  # groups of prompts that were prefilled together
    prefill_tokens: int = 0  # prompt tokens, without the common prefix
    prefill_padded: int = 0  # the same, including padding
    prefix_tokens: int = 0
    first_tokens: int = 0  # tokens sampled directly after a prefill
    moved_rows: int = 0  # rows that were moved into the slot of a finished row
    moves: int = 0  # copies that moved them; one for all rows that move at once
    out_of_memory: int = 0
    host_reads: int = 0  # number of times that the host read tokens from the device
    captures: int = 0  # steps that were captured for replay
    replays: int = 0  # steps that were replays
    steps_of_rows: dict[int, int] = field(default_factory=dict)  # number of rows in a step -> number of such steps


@dataclass(slots=True)
class SequenceState:
    """One prompt that is being decoded."""

    index: int  # in the caller's order
    prompt_ids: Sequence[int]
    max_new_tokens: int
    seed: int
    new_ids: list[int] = field(default_factory=list)
    num_unread: int = 0  # tokens sampled on the device that the host has not read yet
    sum_logprob: float = 0.0  # over the tokens read so far, including the end token

    @property
    def max_length(self) -> int:
        """Largest number of tokens of keys and values that the row may need."""
        return len(self.prompt_ids) + self.max_new_tokens

    @property
    def position(self) -> int:
        """Position at which the next token's keys and values are written."""
        return len(self.prompt_ids) + self.num_new_tokens - 1

    @property
    def num_new_tokens(self) -> int:
        """Tokens sampled so far, including unread ones."""
        return len(self.new_ids) + self.num_unread

    def reset(self) -> None:
        """Discard all sampled tokens; called if memory ran out and the row starts over."""
        self.new_ids.clear()
        self.num_unread, self.sum_logprob = 0, 0.0


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all prompts share; it never includes the last token of a prompt."""
    # a prefix shared by the first and last prompt in sorted order is shared by all
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)


LOOP_CHECK_EVERY = 16
"""New tokens between two checks for a loop."""

MAX_LOOP_PERIOD, MIN_LOOP_TOKENS, MIN_LOOP_REPEATS = 64, 48, 4
"""A row loops if it ends in a repeated piece of at most MAX_LOOP_PERIOD tokens.

The piece occurs at least MIN_LOOP_REPEATS times, and all its occurrences have at least MIN_LOOP_TOKENS tokens.
"""


def is_looping(ids: Sequence[int], prompt: Sequence[int]) -> bool:
    """Return whether the new tokens end in a loop and the prompt has no loop; checks every LOOP_CHECK_EVERY tokens.

    Args:
        ids: New tokens so far.
        prompt: Prompt tokens; they may repeat too, for example as the dots of a table of contents.
    """
    if len(ids) % LOOP_CHECK_EVERY or not _ends_in_loop(ids):
        return False
    return not any(_ends_in_loop(prompt[:end]) for end in range(MIN_LOOP_TOKENS // 2, len(prompt) + 1))


def find_loop(ids: Sequence[int], prompt: Sequence[int]) -> int | None:
    """Return the number of tokens at which a row would be stopped for looping; None if it would not."""
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
