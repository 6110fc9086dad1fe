"""The reference engine: `model.generate` on padded batches, with our own sampling and a limit per row.

Slow and simple; the slot engine is checked against it. Does not know about parts, documents or retries.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.batches import OOM_SPLIT, decode_in_batches, group
from hymt_batch.decode.engine import Engine, EngineContext
from hymt_batch.decode.request import Completion, Request, shared_sampling_params
from hymt_batch.decode.sampling import SamplingParams, sample
from hymt_batch.decode.sequence import find_loop
from hymt_batch.model.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


NAME = "generate"


def open_engine(context: EngineContext) -> GenerateEngine:
    """Make the engine; it does not capture steps."""
    if context.settings.capture:
        log.warning("decode.capture=true has no effect: it requires decode.engine=slots, and this run uses %s", NAME)
    return GenerateEngine(context)


class GenerateEngine(Engine):
    """Decodes padded batches, one after the other; each runs until its longest row has ended."""

    def __init__(self, context: EngineContext) -> None:
        self.context, self.hymt = context, context.load()
        self.loaded, self.device = self.hymt, self.hymt.device
        self._ran_out_of_memory = False

    @property
    def environment(self) -> dict[str, Any]:
        return self.context.environment(NAME)

    def take_degraded(self) -> tuple[str, ...]:
        ran_out, self._ran_out_of_memory = self._ran_out_of_memory, False
        return (OOM_SPLIT,) if ran_out else ()

    def batches(self, requests: Sequence[Request]) -> Iterable[Sequence[int]]:
        """Return the batches as indices into `requests`, the longest rows first."""
        return group([request.max_length for request in requests], self.context.budget)

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions, ran_out = decode_in_batches(
            requests,
            self.batches(requests),
            partial(decode_batch, self.hymt),
            check_stop,
            device=self.device,
            on_finished=self.context.on_finished,
        )
        self._ran_out_of_memory = self._ran_out_of_memory or ran_out
        return completions


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


def decode_batch(hymt: LoadedModel, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Decode one batch.

    Args:
        hymt: The loaded model.
        requests: The B rows of the batch.
        check_stop: Called at every step; raises to abort the batch.

    Returns:
        One completion per request, in the order of the requests.

    Raises:
        torch.OutOfMemoryError: The batch does not fit; split it.
        StoppedError: From check_stop.
    """
    import torch
    from transformers import StoppingCriteriaList
    from transformers.generation.logits_process import LogitsProcessorList

    prompts, sampling_params = [request.prompt_ids for request in requests], shared_sampling_params(requests)
    input_ids, mask = (tensor.to(hymt.device) for tensor in pad_left(prompts, hymt.tokenizer.pad_id))
    width = input_ids.shape[1]
    seeds = [request.seed for request in requests]
    processor = _SamplingProcessor(sampling_params, seeds, mask, width, hymt.tokenizer.stop_ids[0])
    limits = torch.tensor([request.max_new_tokens for request in requests], device=hymt.device)

    def ended(ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        check_stop()
        return limits <= ids.shape[1] - width

    with torch.inference_mode():
        output = hymt.network.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=max(request.max_new_tokens for request in requests),
            logits_processor=LogitsProcessorList([processor]),
            stopping_criteria=StoppingCriteriaList([ended]),
        )
    rows = output[:, width:].tolist()
    non_finite = set(processor.non_finite_rows())
    return [
        _truncate(row[: request.max_new_tokens], request, hymt.tokenizer.stop_ids)
        if index not in non_finite
        else Completion([], "non_finite")
        for index, (row, request) in enumerate(zip(rows, requests, strict=True))
    ]


def _truncate(ids: list[int], request: Request, stop_ids: Sequence[int]) -> Completion:
    """Cut the row at its end token, and at a loop if loops are stopped."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), None)
    text = ids if end is None else ids[:end]
    loop = find_loop(text, request.prompt_ids) if request.sampling_params.stop_loops else None
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
