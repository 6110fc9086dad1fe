"""Sampling of the next token, with one seed per row.

A row's noise depends only on (job seed, row id, segment, attempt, step, token), not on neighbouring rows, batch size,
process or resume. Works on logits [B, V] in float32, from any model.

Source: repetition penalty as in CTRL (positive scores divided, negative multiplied), over prompt and new tokens
without padding; then temperature, top-k, top-p; then the Gumbel-max trick: of the remaining tokens, the one with the
largest sum of log-probability and Gumbel noise is chosen, which samples from the probabilities. The noise comes from a
counter-based splitmix64 generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import to_device

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
    stop_loops: bool = False  # end a row whose tokens repeat in a loop


GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)
"""Always the most likely token, with loops left to run."""


def row_seed(job_seed: int, row_id: str, segment: int, attempt: int) -> int:
    """Return the 64-bit seed of one row's draws."""
    key = f"{job_seed}\0{row_id}\0{segment}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


def sample(
    logits: Tensor,
    seen: Tensor | None,
    sampling_params: SamplingParams,
    seeds: Sequence[int],
    step: int | Sequence[int],
) -> Tensor:
    """Choose one token per row.

    Args:
        logits: [B, V] float32, finite.
        seen: [B, V] bool, tokens of prompt and translation so far; None without a repetition penalty.
        sampling_params: How a token is chosen.
        seeds: B row seeds.
        step: Index of the new token, from 0; one for all rows, or one per row.

    Returns:
        [B] int64 token ids.
    """
    import torch

    if not sampling_params.do_sample:
        return sample_on_device(logits, seen, sampling_params, None)
    steps = [step] * len(seeds) if isinstance(step, int) else step
    keys = [_as_int64(_rng_key(seed, row_step)) for seed, row_step in zip(seeds, steps, strict=True)]
    return sample_on_device(logits, seen, sampling_params, to_device(torch.tensor(keys), logits.device))


def sample_on_device(
    logits: Tensor, seen: Tensor | None, sampling_params: SamplingParams, keys: Tensor | None
) -> Tensor:
    """Like `sample`, with all inputs on the logits' device, so that the host never waits.

    Args:
        logits: [B, V] float32, finite.
        seen: [B, V] bool, or None.
        sampling_params: How a token is chosen.
        keys: [B] int64 from `rng_keys`; None when greedy.

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
    width, temperature, top_p = logits.shape[-1], sampling_params.temperature, sampling_params.top_p
    k = min(sampling_params.top_k or width, width)
    # elsewhere the host would have to wait for the answer whether the candidates are enough
    if k == width and top_p < 1 and logits.device.type == "cpu" and width > NUCLEUS_CANDIDATES:
        return _sample_candidates(logits, sampling_params, keys)
    ids = top_ids(logits, k, temperature)
    return _draw(ids, torch.softmax(logits.gather(1, ids) / temperature, dim=-1), top_p, keys)


def _sample_candidates(logits: Tensor, sampling_params: SamplingParams, keys: Tensor) -> Tensor:
    """Sample without top-k among the likeliest tokens; rows in which top-p may take more of them sort all scores."""
    import torch

    temperature, top_p = sampling_params.temperature, sampling_params.top_p
    ids = top_ids(logits, NUCLEUS_CANDIDATES, temperature)
    probabilities = torch.softmax(logits / temperature, dim=-1).gather(1, ids)
    tokens = _draw(ids, probabilities, top_p, keys)
    rows = (probabilities.cumsum(dim=-1)[:, -1] < top_p).nonzero().squeeze(1)
    if len(rows):
        row_logits = logits[rows]
        ids = top_ids(row_logits, logits.shape[-1], temperature)
        tokens[rows] = _draw(ids, torch.softmax(row_logits.gather(1, ids) / temperature, dim=-1), top_p, keys[rows])
    return tokens


def _draw(ids: Tensor, probabilities: Tensor, top_p: float, keys: Tensor) -> Tensor:
    """Draw one token [B] per row of the smallest set of the first tokens that has the probability `top_p`.

    Args:
        ids: [B, K] int64, the likeliest first.
        probabilities: [B, K] float32.
        top_p: Limit of the sum.
        keys: [B] int64 from `rng_keys`.
    """
    import torch

    cumulative = probabilities.cumsum(dim=-1)
    nucleus = cumulative - probabilities < top_p  # always contains the first token
    # take the largest score plus noise: a rounding error in a score changes the token only if two sums are nearly equal
    draws = _uniform(keys[:, None], ids)
    noisy = torch.log(probabilities.double()) - torch.log(-torch.log(draws))
    rank = torch.where(nucleus, noisy, float("-inf")).argmax(dim=-1, keepdim=True)
    return ids.gather(1, rank).squeeze(1)


def top_ids(logits: Tensor, k: int, temperature: float) -> Tensor:
    """Return the ids [B, k] of the k largest scores, the largest first; equal scores are ordered by id.

    The order is that of (logits / temperature) - id * TIE_STEP in float64. To spare float64 copies of all scores, only
    the blocks with the largest scores are searched: the k largest scores are in at most k blocks. The spare blocks are
    for maxima that differ by less than the ties within a block.

    Args:
        logits: [B, V] float32.
        k: Number of ids, at most V.
        temperature: The logits are divided by it.
    """
    import torch

    width, device = logits.shape[-1], logits.device
    num_blocks = width // TOP_BLOCK
    if k + SPARE_BLOCKS >= num_blocks // 2:
        order = torch.arange(width, device=device, dtype=torch.float64) * TIE_STEP
        return torch.topk((logits / temperature).double() - order, k, dim=-1).indices
    blocks = logits[:, : num_blocks * TOP_BLOCK].reshape(len(logits), num_blocks, TOP_BLOCK)
    starts = torch.arange(num_blocks, device=device) * TOP_BLOCK
    maxima = (blocks.amax(dim=-1) / temperature).double() - starts.double() * TIE_STEP
    best = torch.topk(maxima, k + SPARE_BLOCKS, dim=-1).indices * TOP_BLOCK
    ids = (best[:, :, None] + torch.arange(TOP_BLOCK, device=device)).flatten(1)
    after_blocks = torch.arange(num_blocks * TOP_BLOCK, width, device=device)
    ids = torch.cat([ids, after_blocks.expand(len(logits), -1)], dim=1)
    scores = (logits.gather(1, ids) / temperature).double() - ids.double() * TIE_STEP
    return ids.gather(1, torch.topk(scores, k, dim=-1).indices)


NUCLEUS_CANDIDATES = 128
"""Tokens among which is drawn without top-k, if they have the probability top-p; they mostly have."""
TOP_BLOCK, SPARE_BLOCKS = 128, 8
TIE_STEP = 2.0**-34
"""Subtracted for each id, so that equal scores are ordered in the same way in every batch."""


def argmax(logits: Tensor) -> Tensor:
    """Return the index [B] int64 of the largest number in each row of [B, V]; the first one if several are equal.

    On the CPU the maximum of each block is computed first: torch has a fast loop for amax, but not for argmax.
    """
    import torch

    width = logits.shape[-1]
    blocks = width // ARGMAX_BLOCK
    if logits.device.type != "cpu" or blocks < 16:
        return logits.argmax(dim=-1)
    maxima = logits[:, : blocks * ARGMAX_BLOCK].reshape(len(logits), blocks, ARGMAX_BLOCK).amax(dim=-1)
    if width > blocks * ARGMAX_BLOCK:
        maxima = torch.cat([maxima, logits[:, blocks * ARGMAX_BLOCK :].amax(dim=-1, keepdim=True)], dim=-1)
    start = (maxima.argmax(dim=-1) * ARGMAX_BLOCK).clamp(
        max=width - ARGMAX_BLOCK
    )  # the last block may overlap the previous one
    inside = logits.gather(1, start[:, None] + torch.arange(ARGMAX_BLOCK))
    indices: Tensor = start + inside.argmax(dim=-1)
    return indices


ARGMAX_BLOCK = 128


def _rng_key(seed: int, step: int) -> int:
    """Return the 64-bit key of one row and step. Source: splitmix64."""
    z = (seed + (step + 1) * _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * _MIX[0]) & _MASK
    z = ((z ^ (z >> 27)) * _MIX[1]) & _MASK
    return z ^ (z >> 31)


def rng_keys(seeds: Tensor, steps: Tensor) -> Tensor:
    """Return `_rng_key` of each row: [B] int64 from seeds (see `seed_as_int64`) and steps [B] int64; wraps around."""
    return _mix64(seeds + (steps + 1) * _as_int64(_GOLDEN))


def seed_as_int64(seed: int) -> int:
    """Return a row's unsigned 64-bit seed reinterpreted as int64."""
    return _as_int64(seed & _MASK)


def _as_int64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _uniform(keys: Tensor, tokens: Tensor) -> Tensor:
    """Return a number in (0, 1) per row and token: [B, K] float64 from int64 [B, 1] and [B, K]; wraps around."""
    z = _mix64(keys + (tokens + 1) * _as_int64(_GOLDEN))
    return (_logical_shift_right(z, 11).double() + 0.5) / float(1 << 53)


def _mix64(z: Tensor) -> Tensor:
    for shift, factor in ((30, _MIX[0]), (27, _MIX[1])):
        z = (z ^ _logical_shift_right(z, shift)) * _as_int64(factor)
    return z ^ _logical_shift_right(z, 31)


def _logical_shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift right as an unsigned number."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
