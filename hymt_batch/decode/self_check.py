"""Self-checks of the slot engine on a loaded model, with the canary prompts.

Compares an engine with a reference, captured steps with plain steps, the engine's attention on a GPU with torch's math
backend, and the kernels with transformers' own layers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import AsyncCopy, SampledTokens
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.engine import Engine
from hymt_batch.decode.kernels.fused_layers import FusedLayers
from hymt_batch.decode.known_layers import Layers
from hymt_batch.decode.model_runner import ModelRunner
from hymt_batch.decode.network_patch import patch_network
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.errors import DeviceError, first_line
from hymt_batch.model import attention, canary, padded_batch
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.memory import is_gpu_failure
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NUM_TOKENS = 4
"""New tokens per canary prompt on which both sides must agree."""

TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference in a chosen token's log-probability that rounding can explain. An estimate, not measured yet."""


def engines_agree(engine: Engine, reference: Engine, tokenizer: Tokenizer, check_stop: Callable[[], None]) -> bool:
    """Return whether two engines agree on the canaries.

    The engine decodes all of them at once, so that padding, prefix and cache are exercised; the reference one by one.
    """
    requests = [Request(ids, NUM_TOKENS, 0, GREEDY) for ids in _canary_prompts(tokenizer)]
    completions = engine.generate(requests, check_stop)
    return completions == [reference.generate([request], check_stop)[0] for request in requests]


def graphs_match_steps(
    graph_runner: CudaGraphRunner, sampling_params: SamplingParams, read_every: int, check_stop: Callable[[], None]
) -> bool:
    """Decode 64 tokens of 16 padded rows of unequal length with captured steps, mostly replays, and with plain steps.

    In float32 the run's own sampling must give the same tokens. In other formats the check is greedy, and up to
    and including the first token that differs, both must have about the same log-probability.

    Returns:
        True if they agree; False also if a step cannot be captured.
    """
    import torch

    hymt = graph_runner.hymt
    prompts, exact = padded_batch.prompts(hymt.tokenizer), hymt.dtype == "float32"
    check_params = sampling_params if exact else GREEDY
    width = max(map(len, prompts)) + attention.NUM_TOKENS + 1
    steps_by_runner: list[list[SampledTokens]] = []
    with torch.inference_mode(), patch_network(hymt.network, width + read_every):
        graph_runner.start(
            check_params, Counters(), len(prompts), width, max_tokens=1 << 30, read_every=read_every, logprobs=True
        )
        plain_runner = ModelRunner(
            hymt, check_params, len(prompts), Counters(), logprobs=True, layers=graph_runner.layers
        )
        for runner in (plain_runner, graph_runner):
            rows = [SequenceState(index, ids, attention.NUM_TOKENS + 1, index) for index, ids in enumerate(prompts)]
            steps = AsyncCopy([runner.prefill(rows, 0)]).wait()
            for _ in range(attention.NUM_TOKENS):
                check_stop()
                steps += AsyncCopy([runner.step(rows)]).wait()
            steps_by_runner.append(steps)
    if graph_runner.disabled_reason:
        return False
    plain, captured = (
        [[_token_and_logprob(step, index) for step in steps] for index in range(len(prompts))]
        for steps in steps_by_runner
    )
    tolerance = TOLERANCE[hymt.dtype]
    return all(row_matches(*rows, exact=exact, tolerance=tolerance) for rows in zip(plain, captured, strict=True))


class SlotEngineSteps(ModelRunner):
    """Slot engine steps over rows, of which each call gives the logits; for comparisons."""

    def __init__(self, hymt: LoadedModel, prompts: Sequence[Sequence[int]], layers: Layers | None = None) -> None:
        super().__init__(hymt, GREEDY, len(prompts), Counters(), logprobs=False, layers=layers)
        self._sequences = [
            SequenceState(index, ids, attention.NUM_TOKENS + 1, index) for index, ids in enumerate(prompts)
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
    """Compare the slot engine's attention with torch's math backend.

    Args:
        hymt: The loaded model.
        own_context: Context in which the engine's attention runs.
        reference_context: Context in which the reference attention runs.

    Returns:
        The measured agreement.

    Raises:
        PreflightError: They disagree (E26); the message names the backend.
    """
    prompts = padded_batch.prompts(hymt.tokenizer)
    width = max(map(len, prompts)) + attention.NUM_TOKENS + 1
    with patch_network(hymt.network, width):
        label = f"decode.engine=slots on {hymt.device}"
        return attention.compare(
            lambda: SlotEngineSteps(hymt, prompts).next_logits, hymt.dtype, own_context, reference_context, label
        )


def kernels_refusal(hymt: LoadedModel, fused: FusedLayers) -> str:
    """Compare 64 greedy tokens of 16 rows of the slot engine's steps with kernels with transformers' own layers.

    Returns:
        Why the kernels may not be used; empty if they agree.

    Raises:
        DeviceError: The GPU failed.
    """
    import torch

    prompts = padded_batch.prompts(hymt.tokenizer)
    network = hymt.network
    reference = padded_batch.PaddedBatch(network, prompts, hymt.tokenizer.pad_id, hymt.device)
    width = max(map(len, prompts)) + attention.NUM_TOKENS + 1
    try:
        with torch.inference_mode(), patch_network(network, width):
            agreement = attention.compare_steps(
                SlotEngineSteps(hymt, prompts, fused).next_logits,
                reference.next_logits,
                hymt.dtype,
                nullcontext,
                lambda: attention.use_math_attention(network),
            )
    except attention.MismatchError as error:
        return f"they do not agree with transformers' own layers: {error}"
    except Exception as error:  # see opening.py
        if is_gpu_failure(error):
            raise DeviceError(f"The GPU failed ({first_line(error)})", fix="Set decode.kernels=off.") from error
        return f"{type(error).__name__}: {first_line(error)}"
    log.info(
        "kernels agree with transformers' own layers equal_tokens=%d diverged_rows=%d max_difference=%.1e",
        agreement.equal_tokens,
        agreement.diverged_rows,
        agreement.max_difference,
    )
    return ""


def _canary_prompts(tokenizer: Tokenizer) -> list[list[int]]:
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(canary.TEXTS)]


def _token_and_logprob(sampled: SampledTokens, row: int) -> tuple[int, float]:
    assert sampled.logprobs is not None
    return int(sampled.tokens[row]), float(sampled.logprobs[row]) if sampled.finite[row] else math.nan


def row_matches(
    expected: list[tuple[int, float]], actual: list[tuple[int, float]], *, exact: bool, tolerance: float
) -> bool:
    """Return whether a row's tokens and log-probabilities agree."""
    for (expected_token, expected_logprob), (actual_token, actual_logprob) in zip(expected, actual, strict=True):
        if not abs(expected_logprob - actual_logprob) <= tolerance or (exact and expected_token != actual_token):
            return False
        if expected_token != actual_token:
            break
    return True
