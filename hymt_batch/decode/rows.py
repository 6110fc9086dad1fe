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


@dataclass(slots=True)
class Row:
    """One prompt on its way."""

    index: int  # in the caller's order
    ids: Sequence[int]
    limit: int
    seed: int
    new: list[int] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Tokens of keys and values that the row may come to have."""
        return len(self.ids) + self.limit

    @property
    def position(self) -> int:
        """Where the next token's keys and values go."""
        return len(self.ids) + len(self.new) - 1


def common_start(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with; each keeps at least one of its own."""
    first, last = (
        min(map(tuple, prompts)),
        max(map(tuple, prompts)),
    )  # what these two share, all that stand between them share
    shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, prompts)) - 1)
