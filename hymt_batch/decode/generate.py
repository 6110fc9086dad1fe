"""The reference engine: `model.generate` on one padded batch, with our own sampling and a limit per row.

Slow and simple; the slot engine is checked against it. Does not know about parts, documents or retries.
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
    # mean log-probability of the tokens, if it was kept
    mean_logprob: float | None = field(default=None, compare=False)


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad prompts on the left so that every row ends where decoding starts.

    Args:
        prompts: Token ids of B prompts; the longest has T tokens.
        pad_id: Token id to pad with.

    Returns:
        input_ids [B, T] int64 and attention_mask [B, T] int64, 0 where padded.

    Decoding needs this because a decoder-only model continues from the last position.
    """
    import torch

    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros((len(prompts), width), dtype=torch.int64)
    for index, ids in enumerate(prompts):
        input_ids[index, width - len(ids) :] = torch.tensor(ids, dtype=torch.int64)
        mask[index, width - len(ids) :] = 1
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
        max_new_tokens: Limit of new tokens of each row, at least 1.
        seeds: Seed of each row's draws; unused when greedy.
        sampling_params: How a token is chosen.
        check_stop: Called at every step; raises to abort the batch.

    Returns:
        One completion per prompt, in the order of the prompts.

    Raises:
        torch.OutOfMemoryError: The batch does not fit; split it.
        StoppedError: From check_stop.
    """
    import torch
    from transformers import StoppingCriteriaList
    from transformers.generation.logits_process import LogitsProcessorList

    input_ids, mask = (tensor.to(hymt.device) for tensor in pad_left(prompts, hymt.tokenizer.pad_id))
    width = input_ids.shape[1]
    processor = _SamplingProcessor(sampling_params, list(seeds), mask, width, hymt.tokenizer.stop_ids[0])
    limits = torch.tensor(list(max_new_tokens), device=hymt.device)

    def ended(ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        check_stop()
        return limits <= ids.shape[1] - width

    with torch.inference_mode():
        output = hymt.network.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(max_new_tokens),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([ended]),
        )
    rows = output[:, width:].tolist()
    non_finite = set(processor.non_finite_rows())
    return [
        _truncate(row[:limit], hymt.tokenizer.stop_ids, prompt if sampling_params.stop_loops else None)
        if index not in non_finite
        else Completion([], "non_finite")
        for index, (row, limit, prompt) in enumerate(zip(rows, max_new_tokens, prompts, strict=True))
    ]


def _truncate(ids: list[int], stop_ids: Sequence[int], prompt: Sequence[int] | None) -> Completion:
    """Cut the row at its end token, and at a loop if `prompt` is given (None: loops are not stopped)."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), None)
    text = ids if end is None else ids[:end]
    loop = None if prompt is None else find_loop(text, prompt)
    if loop is not None:
        return Completion(ids[:loop], "loop")
    return Completion(text, "length" if end is None else "stop")


class _SamplingProcessor:
    """A logits processor that masks all tokens but the one we sampled, so that generate's argmax selects it."""

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
        is_bad = ~torch.isfinite(logits).all(dim=-1)
        self.is_non_finite = is_bad if self.is_non_finite is None else self.is_non_finite | is_bad
        logits = torch.where(is_bad.unsqueeze(1), torch.zeros_like(logits), logits)
        if self.sampling_params.repetition_penalty != 1.0:
            self._update_seen(input_ids, logits)
        tokens = sample(logits, self.seen, self.sampling_params, self.seeds, input_ids.shape[1] - self.prompt_width)
        tokens = torch.where(self.is_non_finite, torch.full_like(tokens, self.stop_id), tokens)
        masked = torch.full_like(scores, float("-inf"))
        return masked.scatter_(1, tokens.unsqueeze(1), 0.0)

    def _update_seen(self, input_ids: Tensor, logits: Tensor) -> None:
        import torch

        if self.seen is None:
            counts = torch.zeros(logits.shape, dtype=torch.int32, device=logits.device)
            counts.scatter_add_(1, input_ids[:, : self.prompt_width], self.attention_mask.to(torch.int32))
            self.seen = counts > 0
        else:
            self.seen.scatter_(1, input_ids[:, -1:], True)

    def non_finite_rows(self) -> list[int]:
        """Return the rows whose logits contained NaN or infinity at any step."""
        return [] if self.is_non_finite is None else self.is_non_finite.nonzero().flatten().tolist()
