"""Choice of the next token by our own rule, with a seed a row.

A row's noise is a function of (job seed, row id, segment, attempt, step, token) alone: neighbours, batch size, process
and resume do not enter. Works on logits [B, V] in float32; knows nothing of models.

Source: repetition penalty as in CTRL (positive scores divided, negative multiplied), over prompt and new tokens
without padding; then temperature, top-k, top-p; of the tokens that are left, the one whose logarithm of probability
plus Gumbel noise is largest, which draws by the probabilities; the noise is a counter-based splitmix64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN, _MIX = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Resolved decoding settings: how a token is chosen from logits."""

    do_sample: bool
    temperature: float
    top_p: float
    top_k: int  # 0: no limit
    repetition_penalty: float
    stop_loops: bool = False  # end a row whose tokens repeat


def row_seed(job_seed: int, row_id: str, segment: int, attempt: int) -> int:
    """64-bit seed of one row's draws."""
    key = f"{job_seed}\0{row_id}\0{segment}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


def sample(
    logits: Tensor,
    seen: Tensor | None,
    sampling_params: SamplingParams,
    seeds: Sequence[int],
    step: int | Sequence[int],
) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [B, V] float32, finite.
        seen: [B, V] bool, tokens of prompt and translation so far; None when there is no penalty.
        choice: The rule.
        seeds: B row seeds.
        step: Index of the new token, from 0; of all rows, or of each.

    Returns:
        [B] int64 token ids.
    """
    import torch

    if not sampling_params.do_sample:
        return sample_on_device(logits, seen, sampling_params, None)
    steps = [step] * len(seeds) if isinstance(step, int) else step
    numbers = [_as_int64(_rng_key(seed, at)) for seed, at in zip(seeds, steps, strict=True)]
    return sample_on_device(logits, seen, sampling_params, torch.tensor(numbers, device=logits.device))


def sample_on_device(
    logits: Tensor, seen: Tensor | None, sampling_params: SamplingParams, keys: Tensor | None
) -> Tensor:
    """`choose`, with all that it needs on the logits' device, where the host never waits.

    Args:
        logits: [B, V] float32, finite.
        seen: [B, V] bool, or None.
        choice: The rule.
        counters: [B] int64 of `counters_of`; None when greedy.

    Returns:
        [B] int64 token ids.
    """
    import torch

    if seen is not None and sampling_params.repetition_penalty != 1.0:
        penalised = torch.where(
            logits > 0, logits / sampling_params.repetition_penalty, logits * sampling_params.repetition_penalty
        )
        logits = torch.where(seen, penalised, logits)
    if keys is None:
        return argmax(logits)
    k = min(sampling_params.top_k or logits.shape[-1], logits.shape[-1])
    # equal scores stand in the order of their ids in every batch: what is added is less than a float32 can tell apart
    order = torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float64) * 2.0**-34
    ids = torch.topk((logits / sampling_params.temperature).double() - order, k, dim=-1).indices
    probabilities = torch.softmax(logits.gather(1, ids) / sampling_params.temperature, dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    nucleus = cumulative - probabilities < sampling_params.top_p  # always holds the first token
    # the largest of score plus noise: where two scores differ by rounding alone, only a tie of both sums could flip
    draws = _uniform(keys[:, None], ids)
    noisy = torch.log(probabilities.double()) - torch.log(-torch.log(draws))
    place = torch.where(nucleus, noisy, float("-inf")).argmax(dim=-1, keepdim=True)
    return ids.gather(1, place).squeeze(1)


def argmax(logits: Tensor) -> Tensor:
    """Where each row of [B, V] has its largest number, the first of equal ones; [B] int64.

    On the CPU the largest of each block is found first: torch has a fast loop for that, and none for the place.
    """
    import torch

    width = logits.shape[-1]
    blocks = width // ARGMAX_BLOCK
    if logits.device.type != "cpu" or blocks < 16:
        return logits.argmax(dim=-1)
    tops = logits[:, : blocks * ARGMAX_BLOCK].reshape(len(logits), blocks, ARGMAX_BLOCK).amax(dim=-1)
    if width > blocks * ARGMAX_BLOCK:
        tops = torch.cat([tops, logits[:, blocks * ARGMAX_BLOCK :].amax(dim=-1, keepdim=True)], dim=-1)
    start = (tops.argmax(dim=-1) * ARGMAX_BLOCK).clamp(
        max=width - ARGMAX_BLOCK
    )  # a block in the end may begin in the one before
    inside = logits.gather(1, start[:, None] + torch.arange(ARGMAX_BLOCK))
    found: Tensor = start + inside.argmax(dim=-1)
    return found


ARGMAX_BLOCK = 128


def _rng_key(seed: int, step: int) -> int:
    """64 bits for one row and step. Source: splitmix64."""
    z = (seed + (step + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX[0]) & _MASK
    z = ((z ^ (z >> 27)) * _MIX[1]) & _MASK
    return z ^ (z >> 31)


def rng_keys(seeds: Tensor, steps: Tensor) -> Tensor:
    """`_counter` of each row: [B] int64 from seeds (see `signed_seed`) and steps, [B] int64, which wrap around."""
    return _mix64(seeds + (steps + 1) * _as_int64(_GOLDEN))


def seed_as_int64(seed: int) -> int:
    """A row's seed as an int64 holds it."""
    return _as_int64(seed & _MASK)


def _as_int64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _uniform(keys: Tensor, tokens: Tensor) -> Tensor:
    """A number in (0, 1) for each row and token: [B, K] float64 from [B, 1] and [B, K] int64, which wrap around."""
    z = _mix64(keys + (tokens + 1) * _as_int64(_GOLDEN))
    return (_logical_shift_right(z, 11).double() + 0.5) / float(1 << 53)


def _mix64(z: Tensor) -> Tensor:
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        z = (z ^ _logical_shift_right(z, shift)) * _as_int64(factor)
    return z ^ _logical_shift_right(z, 31)


def _logical_shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift to the right as without a sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
