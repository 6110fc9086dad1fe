"""Choice of the next token by our own rule, with a seed a row.

A row's draws are a function of (job seed, row id, segment, attempt, step) alone: neighbours, batch size, process and
resume do not enter. Works on logits [B, V] in float32; knows nothing of models.

Source: repetition penalty as in CTRL (positive scores divided, negative multiplied), over prompt and new tokens
without padding; then temperature, top-k, top-p; the uniform numbers are a counter-based splitmix64.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Choice:
    """Resolved decoding settings: how a token is chosen from logits."""

    sample: bool
    temperature: float
    top_p: float
    top_k: int  # 0: no limit
    repetition_penalty: float


def row_seed(job_seed: int, row_id: str, segment: int, attempt: int) -> int:
    """64-bit seed of one row's draws."""
    key = f"{job_seed}\0{row_id}\0{segment}\0{attempt}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


def uniform(seed: int, step: int) -> float:
    """The number in [0, 1) that decides step `step` (from 0) of a row. Source: splitmix64."""
    z = (seed + (step + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return float((z ^ (z >> 31)) >> 11) / float(1 << 53)


def choose(logits: Tensor, seen: Tensor | None, choice: Choice, seeds: list[int], step: int) -> Tensor:
    """Choose one token a row.

    Args:
        logits: [B, V] float32, finite.
        seen: [B, V] bool, tokens of prompt and translation so far; None when there is no penalty.
        choice: The rule.
        seeds: B row seeds.
        step: Index of the new token, from 0.

    Returns:
        [B] int64 token ids.
    """
    import torch

    if seen is not None and choice.repetition_penalty != 1.0:
        penalised = torch.where(logits > 0, logits / choice.repetition_penalty, logits * choice.repetition_penalty)
        logits = torch.where(seen, penalised, logits)
    if not choice.sample:
        return logits.argmax(dim=-1)
    k = min(choice.top_k or logits.shape[-1], logits.shape[-1])
    # a stable sort, so that equal scores stand in the order of their ids in every batch
    scores, ids = torch.sort(logits / choice.temperature, dim=-1, descending=True, stable=True)
    probabilities = torch.softmax(scores[:, :k], dim=-1)
    cumulative = probabilities.cumsum(dim=-1)
    nucleus = cumulative - probabilities < choice.top_p  # always holds the first token
    kept = probabilities * nucleus
    total = kept.sum(dim=-1, keepdim=True)
    draws: Any = torch.tensor([uniform(seed, step) for seed in seeds], dtype=torch.float64, device=logits.device)
    target = (draws.unsqueeze(1) * total.double()).clamp(max=float("inf"))
    place = (kept.double().cumsum(dim=-1) <= target).sum(dim=-1, keepdim=True)
    place = torch.minimum(place, nucleus.sum(dim=-1, keepdim=True) - 1)
    return ids.gather(1, place).squeeze(1)
