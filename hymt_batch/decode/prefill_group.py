"""Which waiting prompts share a prefill pass. No torch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hymt_batch.decode.sequence import SequenceState


@dataclass(frozen=True, slots=True)
class PrefillLimits:
    """Limits of one pass. A pass over one prompt is always allowed."""

    max_tokens: int  # padded tokens, so that a pass takes no more memory than the steps
    max_length_ratio: float | None  # the longest prompt is at most this many times as long as the shortest, plus 4
    max_padding: float | None  # there are at most this many times as many padded tokens as tokens, plus `spare_padding`
    spare_padding: int = 0

    def allow(self, num: int, longest: int, shortest: int, total: int) -> bool:
        """Return whether `num` prompts with these lengths, and this sum of lengths, may share a pass."""
        padded = num * longest
        return (
            padded <= self.max_tokens
            and (self.max_length_ratio is None or longest <= self.max_length_ratio * shortest + 4)
            and (self.max_padding is None or padded <= self.max_padding * total + self.spare_padding)
        )


SIMILAR_LENGTHS = PrefillLimits(max_tokens=8192, max_length_ratio=1.15, max_padding=None)
"""For a CPU, where a pass costs what its tokens cost: several passes over prompts of similar length."""

ONE_PASS = PrefillLimits(max_tokens=32_768, max_length_ratio=None, max_padding=1.25, spare_padding=1024)
"""For a GPU, where a pass costs the host more than 1,024 tokens cost the GPU: one pass, unless lengths differ much."""


def limits_for(device_type: str) -> PrefillLimits:
    """Return the limits for a type of device, such as cpu or cuda."""
    return ONE_PASS if device_type == "cuda" else SIMILAR_LENGTHS


def take_group(
    waiting: deque[SequenceState], max_size: int, prefix_length: int, limits: PrefillLimits
) -> list[SequenceState]:
    """Take the next prompts for one prefill pass.

    Args:
        waiting: Waiting prompts, at least one; those taken are removed from its front.
        max_size: Most prompts to take.
        prefix_length: Length of their common prefix, which is not computed again.
        limits: Limits of the pass.

    Returns:
        At least one prompt, in the order in which they waited.
    """
    group = [waiting.popleft()]
    longest = shortest = total = len(group[0].prompt_ids) - prefix_length
    while waiting and len(group) < max_size:
        length = len(waiting[0].prompt_ids) - prefix_length
        longest, shortest, total = max(longest, length), min(shortest, length), total + length
        if not limits.allow(len(group) + 1, longest, shortest, total):
            break
        group.append(waiting.popleft())
    return group
