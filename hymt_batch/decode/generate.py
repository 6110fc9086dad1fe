"""The reference engine: `model.generate` over one padded batch, with our own choice of tokens and per-row limits.

Slow and plain; the fast engine is compared with it. Does not know parts, documents or retries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.rows import first_loop
from hymt_batch.decode.sampling import Choice, choose
from hymt_batch.model.network import Hymt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Generated:
    """New tokens of one prompt."""

    ids: list[int]  # without the end token
    finish_reason: str  # "stop", "length", "loop", "memory" or "non_finite"
    mean_logprob: float | None = field(default=None, compare=False)  # of the chosen tokens, where it was kept


def pad(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left so that every row ends where decoding starts.

    Args:
        prompts: Token ids of B prompts; the longest has T tokens.
        pad_id: Token id used left of the text.

    Returns:
        input_ids [B, T] int64 and attention_mask [B, T] int64, 0 where padded.

    Source: a decoder-only model continues from the last position.
    """
    import torch

    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.int64)
    for number, ids in enumerate(prompts):
        input_ids[number, width - len(ids) :] = torch.tensor(ids, dtype=torch.int64)
        mask[number, width - len(ids) :] = 1
    return input_ids, mask


def decode_batch(
    hymt: Hymt,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    choice: Choice,
    check_stop: Callable[[], None],
) -> list[Generated]:
    """Decode one batch.

    Args:
        hymt: The loaded model.
        prompts: Token ids of B prompts.
        max_new_tokens: Limit of each row, at least 1.
        seeds: Seed of each row's draws; unused when greedy.
        choice: How a token is chosen.
        check_stop: Called at every step; raises to give the batch up.

    Raises:
        torch.OutOfMemoryError: The batch does not fit; split it.
        StoppedError: From check_stop.
    """
    import torch
    from transformers import StoppingCriteriaList
    from transformers.generation.logits_process import LogitsProcessorList

    input_ids, mask = (tensor.to(hymt.device) for tensor in pad(prompts, hymt.tokenizer.pad))
    width = input_ids.shape[1]
    rule = _Rule(choice, list(seeds), mask, width, hymt.tokenizer.stop[0])
    limits = torch.tensor(list(max_new_tokens), device=hymt.device)

    def ended(ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        check_stop()
        return limits <= ids.shape[1] - width

    with torch.inference_mode():
        output = hymt.network.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(max_new_tokens),
            logits_processor=LogitsProcessorList([rule]),
            stopping_criteria=StoppingCriteriaList([ended]),
        )
    rows = output[:, width:].tolist()
    bad = set(rule.non_finite())
    return [
        _cut(row[:limit], hymt.tokenizer.stop, prompt if choice.stop_loops else None)
        if number not in bad
        else Generated([], "non_finite")
        for number, (row, limit, prompt) in enumerate(zip(rows, max_new_tokens, prompts, strict=True))
    ]


def _cut(row: list[int], stop: Sequence[int], watched: Sequence[int] | None) -> Generated:
    """The row up to its end; with the prompt of a row that is watched for loops, at most up to a loop."""
    end = next((place for place, token in enumerate(row) if token in stop), None)
    text = row if end is None else row[:end]
    loop = None if watched is None else first_loop(text, watched)
    if loop is not None:
        return Generated(row[:loop], "loop")
    return Generated(text, "length" if end is None else "stop")


class _Rule:
    """A logits processor that leaves only the token we choose; generate's argmax then takes it."""

    def __init__(self, choice: Choice, seeds: list[int], mask: Tensor, width: int, stop: int) -> None:
        self.choice, self.seeds, self.width, self.stop = choice, seeds, width, stop
        self.mask = mask
        self.seen: Tensor | None = None
        self.bad: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        logits = scores.float()
        broken = ~torch.isfinite(logits).all(dim=-1)
        self.bad = broken if self.bad is None else self.bad | broken
        logits = torch.where(broken.unsqueeze(1), torch.zeros_like(logits), logits)
        if self.choice.repetition_penalty != 1.0:
            self._see(input_ids, logits)
        chosen = choose(logits, self.seen, self.choice, self.seeds, input_ids.shape[1] - self.width)
        chosen = torch.where(self.bad, torch.full_like(chosen, self.stop), chosen)
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(1, chosen.unsqueeze(1), 0.0)

    def _see(self, input_ids: Tensor, logits: Tensor) -> None:
        import torch

        if self.seen is None:
            counts = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
            counts.scatter_add_(1, input_ids[:, : self.width], self.mask.to(torch.int32))
            self.seen = counts > 0
        else:
            self.seen.scatter_(1, input_ids[:, -1:], True)

    def non_finite(self) -> list[int]:
        """Rows whose logits held NaN or infinity at any step."""
        return [] if self.bad is None else self.bad.nonzero().flatten().tolist()
