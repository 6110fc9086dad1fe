"""Whether the slot engine answers a loaded model's canaries as `generate` does, and captured steps as steps do.

And whether its attention on a GPU gives the tokens of torch's plainest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import AsyncCopy, SampledTokens
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.model_runner import ModelRunner
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.slots import decode_prompts, patch_network
from hymt_batch.model import attention, canary, padded_batch
from hymt_batch.model.prepare import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

NUM_TOKENS = 4
"""New tokens of each canary that both must agree on."""

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference of a chosen token's logarithm of probability that rounding explains. A guess, not measured yet."""

GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)


def matches_generate(hymt: LoadedModel, max_rows: int, max_tokens: int, check_stop: Callable[[], None]) -> bool:
    """Decode the canaries both ways; all of them at once in slots, so that padding, prefix and cache take part."""
    prompts = _canary_prompts(hymt)
    limits, seeds = [NUM_TOKENS] * len(prompts), [0] * len(prompts)
    made, _ = decode_prompts(hymt, prompts, limits, seeds, GREEDY, check_stop, max_rows=max_rows, max_tokens=max_tokens)
    return made == [decode_batch(hymt, [one], [NUM_TOKENS], [0], GREEDY, check_stop)[0] for one in prompts]


def graphs_match_steps(
    graph_runner: CudaGraphRunner, sampling_params: SamplingParams, read_every: int, check_stop: Callable[[], None]
) -> bool:
    """Give the canaries a few tokens by captured steps, of which all but the first are replays, and by steps as such.

    In float32 all tokens must be the same, by the run's own rule. In the others, the likeliest tokens are taken, and
    those up to the first difference must be about as likely: there, two tokens are.

    Returns:
        Whether they agree; False too where a step cannot be captured.
    """
    import torch

    hymt = graph_runner.hymt
    prompts, exact = _canary_prompts(hymt), hymt.dtype == "float32"
    rule = sampling_params if exact else GREEDY
    width = max(map(len, prompts)) + NUM_TOKENS + 1
    made: list[list[SampledTokens]] = []
    with torch.inference_mode(), patch_network(hymt.network, width + read_every):
        graph_runner.start(
            rule, Counters(), len(prompts), width, max_tokens=1 << 30, read_every=read_every, logprobs=True
        )
        for forward in (ModelRunner(hymt, rule, len(prompts), Counters(), logprobs=True), graph_runner):
            rows = [SequenceState(number, ids, NUM_TOKENS + 1, number) for number, ids in enumerate(prompts)]
            steps = AsyncCopy([forward.prefill(rows, 0)]).wait()
            for _ in range(NUM_TOKENS):
                check_stop()
                steps += AsyncCopy([forward.step(rows)]).wait()
            made.append(steps)
    if graph_runner.disabled_reason:
        return False
    plain, fixed = (
        [[_token_and_logprob(one, number) for one in steps] for number in range(len(prompts))] for steps in made
    )
    tolerance = TOLERANCE[hymt.dtype]
    return all(_row_matches(*rows, exact=exact, tolerance=tolerance) for rows in zip(plain, fixed, strict=True))


class _SlotEngineSteps(ModelRunner):
    """Steps of the slot engine over rows of unequal length, for `attention.compare`."""

    def __init__(self, hymt: LoadedModel, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(hymt, GREEDY, len(prompts), Counters(), logprobs=False)
        self._sequences = [
            SequenceState(number, ids, attention.NUM_TOKENS + 1, number) for number, ids in enumerate(prompts)
        ]
        self._last_logits: Tensor | None = None

    def _logits(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        self._last_logits, finite = super()._logits(hidden)
        return self._last_logits, finite

    def next_logits(self) -> Tensor:
        AsyncCopy(
            [self.step(self._sequences) if self.last_tokens is not None else self.prefill(self._sequences, 0)]
        ).wait()
        assert self._last_logits is not None
        return self._last_logits


def check_attention(
    hymt: LoadedModel,
    own_context: attention.ContextFactory = nullcontext,
    reference_context: attention.ContextFactory = attention.use_math_kernel,
) -> attention.AttentionComparison:
    """Compare the slot engine's attention with torch's math back end.

    Args:
        hymt: The loaded model.
        own: What the engine runs in.
        reference: What it runs in to be compared with.

    Raises:
        PreflightError: They disagree (E26); the message names the back end.
    """
    prompts = padded_batch.prompts(hymt.tokenizer)
    width = max(map(len, prompts)) + attention.NUM_TOKENS + 1
    with patch_network(hymt.network, width):
        what = f"decode.engine=slots on {hymt.device}"
        return attention.compare(
            lambda: _SlotEngineSteps(hymt, prompts).next_logits, hymt.dtype, own_context, reference_context, what
        )


def _canary_prompts(hymt: LoadedModel) -> list[list[int]]:
    tokenizer = hymt.tokenizer
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(canary.TEXTS)]


def _token_and_logprob(sampled: SampledTokens, row: int) -> tuple[int, float]:
    assert sampled.logprobs is not None
    return int(sampled.tokens[row]), float(sampled.logprobs[row]) if sampled.finite[row] else math.nan


def _row_matches(
    expected: list[tuple[int, float]], actual: list[tuple[int, float]], *, exact: bool, tolerance: float
) -> bool:
    """Compare a row's tokens and their logarithms of probability."""
    for (token, logprob), (other_token, other_logprob) in zip(expected, actual, strict=True):
        if not abs(logprob - other_logprob) <= tolerance or (exact and token != other_token):
            return False
        if token != other_token:
            break
    return True
