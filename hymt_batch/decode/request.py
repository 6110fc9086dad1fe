"""What goes into an engine and what comes out: one request and one completion per prompt. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hymt_batch.decode.sampling import SamplingParams


@dataclass(slots=True)
class Request:
    """What an engine needs to decode one prompt.

    Not frozen, because a frozen one takes three times as long to make, and each row has one.
    """

    prompt_ids: Sequence[int]
    max_new_tokens: int  # at least 1
    seed: int  # of the row's draws; unused when greedy
    sampling_params: SamplingParams

    @property
    def max_length(self) -> int:
        """Largest number of tokens of prompt and completion together."""
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """New tokens of one prompt."""

    ids: list[int]  # without the end token
    finish_reason: str  # "stop", "length", "loop", "memory" or "non_finite"
    # mean log-probability of the tokens, if it was kept
    mean_logprob: float | None = field(default=None, compare=False)


def shared_sampling_params(requests: Sequence[Request]) -> SamplingParams:
    """Return the sampling parameters of all requests of a call, for an engine that has one set at a time.

    Raises:
        ValueError: The requests differ in them.
    """
    sampling_params = requests[0].sampling_params
    # mostly it is one object, and comparing identities is much cheaper
    if any(r.sampling_params is not sampling_params and r.sampling_params != sampling_params for r in requests):
        raise ValueError("the requests of one call have different sampling parameters")
    return sampling_params
