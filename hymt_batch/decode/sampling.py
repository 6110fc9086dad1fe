"""Sampling of the next token, with one seed per row.

A row's noise depends only on (job seed, row id, segment, attempt, step, token), not on neighbouring rows, batch size,
process or resume. Works on logits [B, V] in float32, from any model.

Source: repetition penalty as in CTRL (positive scores divided, negative multiplied), over prompt and new tokens
without padding; then temperature, top-k, top-p; then the Gumbel-max trick: of the remaining tokens, the one with the
largest sum of log-probability and Gumbel noise is chosen, which samples from the probabilities.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import to_device
from hymt_batch.decode.noise import as_int64, as_uniform, random_bits, rng_key, uniform

if TYPE_CHECKING:
    from torch import Tensor


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
    keys = [as_int64(rng_key(seed, row_step)) for seed, row_step in zip(seeds, steps, strict=True)]
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
    width = logits.shape[-1]
    k = min(sampling_params.top_k or width, width)
    # elsewhere the host would have to wait for the answer whether the candidates are enough
    if k == width and logits.device.type == "cpu" and width > NUCLEUS_CANDIDATES:
        return _sample_candidates(logits, sampling_params, keys)
    return _draw_of_best(logits, k, sampling_params, keys)


def _draw_of_best(logits: Tensor, k: int, sampling_params: SamplingParams, keys: Tensor) -> Tensor:
    """Draw one token [B] per row of its k likeliest tokens, within top-p."""
    import torch

    temperature = sampling_params.temperature
    ids = top_ids(logits, k, temperature)
    probabilities = torch.softmax(logits.gather(1, ids) / temperature, dim=-1)
    return _best(ids, _noisy(ids, probabilities, sampling_params.top_p, keys))


def _sample_candidates(logits: Tensor, sampling_params: SamplingParams, keys: Tensor) -> Tensor:
    """Sample without top-k among the likeliest tokens, and the others where top-p takes more; sort them if need be."""
    import torch

    top_p, temperature = sampling_params.top_p, sampling_params.temperature
    all_probabilities = torch.softmax(logits / temperature, dim=-1)
    ids = top_ids(logits, NUCLEUS_CANDIDATES, temperature)
    probabilities = all_probabilities.gather(1, ids)
    noisy = _noisy(ids, probabilities, top_p, keys)
    tokens = _best(ids, noisy)
    to_sort = []
    for row in (probabilities.cumsum(dim=-1)[:, -1] < top_p).nonzero().squeeze(1).tolist():
        limits = probabilities[row, -1], noisy[row].max()
        token, is_sure = _lucky_token(all_probabilities[row], *limits, top_p, keys[row])
        if token is not None:
            tokens[row] = token
        if not is_sure:
            to_sort.append(row)
    if to_sort:
        tokens[to_sort] = _draw_of_best(logits[to_sort], logits.shape[-1], sampling_params, keys[to_sort])
    return tokens


def _lucky_token(
    probabilities: Tensor, most: Tensor, best: Tensor, top_p: float, key: Tensor
) -> tuple[Tensor | None, bool]:
    """Find the token whose noise puts it before the best one of the candidates, in one row.

    A token that is no candidate has at most the probability of the last one. So it needs so much noise that few tokens
    have it, which their random bits tell without a logarithm.

    Args:
        probabilities: [V] float32, of all tokens.
        most: Probability of the last candidate.
        best: Largest sum of log-probability and noise of the candidates that top-p takes.
        top_p: Limit of the sum of probabilities.
        key: From `rng_keys`.

    Returns:
        The token, None if there is none; whether top-p surely takes it. The sum in float32 that decides it has rounding
        errors, and its order is not known here.
    """
    import torch

    needed_noise = best - torch.log(most.double()) - NOISE_MARGIN
    least_bits = (torch.exp(-torch.exp(-needed_noise)) * float(1 << 53)).long() - 4
    width = len(probabilities)
    bits = random_bits(key, torch.arange(width, device=probabilities.device))
    lucky = (bits >= least_bits).nonzero().squeeze(1)
    if not len(lucky):
        return None, True
    noisy = torch.log(probabilities[lucky].double()) - torch.log(-torch.log(as_uniform(bits[lucky])))
    position = noisy.argmax()
    if noisy[position] <= best:
        return None, True
    token = lucky[position]
    not_less_likely = probabilities >= probabilities[token] * (1 - NOISE_MARGIN)
    sum_before = probabilities[not_less_likely].double().sum().item()
    return token, sum_before < top_p - width * 2.0**-23


def _noisy(ids: Tensor, probabilities: Tensor, top_p: float, keys: Tensor) -> Tensor:
    """Return log-probability plus noise [B, K] in float64; -inf for tokens that top-p does not take.

    Args:
        ids: [B, K] int64, the likeliest first.
        probabilities: [B, K] float32.
        top_p: Limit of the sum: the smallest set of the first tokens that has this probability is taken.
        keys: [B] int64 from `rng_keys`.
    """
    import torch

    cumulative = probabilities.cumsum(dim=-1)
    nucleus = cumulative - probabilities < top_p  # always contains the first token
    # the largest sum is taken: a rounding error in a score changes the token only if two sums are nearly equal
    noisy = torch.log(probabilities.double()) - torch.log(-torch.log(uniform(keys[:, None], ids)))
    return torch.where(nucleus, noisy, float("-inf"))


def _best(ids: Tensor, noisy: Tensor) -> Tensor:
    """Return the token [B] with the largest sum of each row [B, K]."""
    return ids.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)


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
"""Tokens among which is drawn first without top-k; they mostly have the probability top-p."""
NOISE_MARGIN = 1e-3
"""By how much a sum may be estimated too high: a candidate may be less likely than another token, by the tie steps."""
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
