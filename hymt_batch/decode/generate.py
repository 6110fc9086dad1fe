"""The reference engine: `model.generate` over one padded batch, with our own choice of tokens and per-row limits.

Slow and plain; the fast engine is compared with it. Does not know parts, documents or retries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.sampling import SamplingParams, sample
from hymt_batch.decode.sequence import find_loop
from hymt_batch.model.prepare import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Completion:
    """New tokens of one prompt."""

    ids: list[int]  # without the end token
    finish_reason: str  # "stop", "length", "loop", "memory" or "non_finite"
    mean_logprob: float | None = field(default=None, compare=False)  # of the chosen tokens, where it was kept


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
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
    hymt: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int],
    seeds: Sequence[int],
    sampling_params: SamplingParams,
    check_stop: Callable[[], None],
) -> list[Completion]:
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

    input_ids, mask = (tensor.to(hymt.device) for tensor in pad_left(prompts, hymt.tokenizer.pad_id))
    width = input_ids.shape[1]
    rule = _SamplingProcessor(sampling_params, list(seeds), mask, width, hymt.tokenizer.stop_ids[0])
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
    bad = set(rule.non_finite_rows())
    return [
        _truncate(row[:limit], hymt.tokenizer.stop_ids, prompt if sampling_params.stop_loops else None)
        if number not in bad
        else Completion([], "non_finite")
        for number, (row, limit, prompt) in enumerate(zip(rows, max_new_tokens, prompts, strict=True))
    ]


def _truncate(ids: list[int], stop_ids: Sequence[int], prompt: Sequence[int] | None) -> Completion:
    """The row up to its end; with the prompt of a row that is watched for loops, at most up to a loop."""
    end = next((place for place, token in enumerate(ids) if token in stop_ids), None)
    text = ids if end is None else ids[:end]
    loop = None if prompt is None else find_loop(text, prompt)
    if loop is not None:
        return Completion(ids[:loop], "loop")
    return Completion(text, "length" if end is None else "stop")


class _SamplingProcessor:
    """A logits processor that leaves only the token we choose; generate's argmax then takes it."""

    def __init__(
        self, sampling_params: SamplingParams, seeds: list[int], attention_mask: Tensor, prompt_width: int, stop_id: int
    ) -> None:
        self.sampling_params, self.seeds, self.prompt_width, self.stop_id = (
            sampling_params,
            seeds,
            prompt_width,
            stop_id,
        )
        self.attention_mask = attention_mask
        self.seen: Tensor | None = None
        self.is_non_finite: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        logits = scores.float()
        broken = ~torch.isfinite(logits).all(dim=-1)
        self.is_non_finite = broken if self.is_non_finite is None else self.is_non_finite | broken
        logits = torch.where(broken.unsqueeze(1), torch.zeros_like(logits), logits)
        if self.sampling_params.repetition_penalty != 1.0:
            self._update_seen(input_ids, logits)
        chosen = sample(logits, self.seen, self.sampling_params, self.seeds, input_ids.shape[1] - self.prompt_width)
        chosen = torch.where(self.is_non_finite, torch.full_like(chosen, self.stop_id), chosen)
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(1, chosen.unsqueeze(1), 0.0)

    def _update_seen(self, input_ids: Tensor, logits: Tensor) -> None:
        import torch

        if self.seen is None:
            counts = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
            counts.scatter_add_(1, input_ids[:, : self.prompt_width], self.attention_mask.to(torch.int32))
            self.seen = counts > 0
        else:
            self.seen.scatter_(1, input_ids[:, -1:], True)

    def non_finite_rows(self) -> list[int]:
        """Rows whose logits held NaN or infinity at any step."""
        return [] if self.is_non_finite is None else self.is_non_finite.nonzero().flatten().tolist()
