"""Canaries: a few short prompts that run through the loaded network; their logits must be finite and consistent.

A row must give the same logits in a left-padded batch as alone; two copies of a model, or a split and a whole model,
must agree too. This finds failures reported by users: attention kernels that return NaN for fully masked rows, GPUs
whose peer-to-peer copies return garbage, weights that were never loaded. Does not judge translations.

Source: transformers#21720, #24056, #47942 (garbage between GPUs), unsloth#9848 (NaN in left padding).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from hymt_batch.errors import PreflightError
from hymt_batch.model.tokenizer import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

TEXTS = (
    "It is raining.",
    "The ferry to the island leaves at half past nine; tickets are sold on board, in cash only.",
    "将以下文本翻译为英语。\n\n你好，世界！今天下午有小雨，气温二十度左右，请带上雨伞。",
)

TOLERANCE = {"float32": 2e-3, "float16": 3e-2, "bfloat16": 1e-1}
"""Largest difference between two logits that rounding explains, as a share of the spread of the row's logits.

Measured on random networks with 2 to 32 layers, between batched and single prompts: less than a fifth of these.
"""


def logits(network: Any, tokenizer: Tokenizer, device: str, *, batched: bool = True) -> Tensor:
    """Return the network's logits after the last token of each canary.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Device of the input tokens.
        batched: True: all in one left-padded batch; False: each alone.

    Returns:
        Logits [B, V] in float32 on the CPU.
    """
    import torch

    rows = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(TEXTS)]
    groups = [rows] if batched else [[row] for row in rows]
    results = []
    with torch.inference_mode():
        for group in groups:
            width = max(map(len, group))
            ids = torch.full((len(group), width), tokenizer.pad_id, dtype=torch.int64)
            mask = torch.zeros((len(group), width), dtype=torch.int64)
            for index, row in enumerate(group):
                ids[index, width - len(row) :] = torch.tensor(row)
                mask[index, width - len(row) :] = 1
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            output = network(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
            )
            results.append(output.logits[:, -1].float().cpu())
    return torch.cat(results)


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference between two sets of logits, as a share of the row's spread, or inf."""
    import torch

    spread = (first.max(dim=-1).values - first.min(dim=-1).values).clamp(min=1e-6)
    share = ((first - second).abs().max(dim=-1).values / spread).max()
    return float(share) if bool(torch.isfinite(share)) else float("inf")


def check(network: Any, tokenizer: Tokenizer, device: str, dtype: str, *, strict: bool = True) -> float:
    """Run the canaries on one loaded network.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Device of the input tokens.
        dtype: Number format of the weights.
        strict: Fail on a difference; False only warns, for models whose rounding was not measured (experts, FP8).

    Returns:
        The difference between batched and single prompts, as a share of the logits' spread.

    Raises:
        PreflightError: A logit is not finite (E20 in a padded batch, E22 alone), or padding changes the logits (C20).
    """
    import torch

    single, batched = (logits(network, tokenizer, device, batched=is_batched) for is_batched in (False, True))
    for canary_logits, description in ((single, "a prompt alone"), (batched, "a left-padded batch")):
        if not bool(torch.isfinite(canary_logits).all()):
            raise PreflightError(
                f"The loaded model returns NaN or infinity for {description} in {dtype} on {device}",
                fix="Set model.dtype=bfloat16 or float32, or model.attention=eager.",
                id="E20" if canary_logits is batched else "E22",
            )
    label = f"a prompt alone and in a left-padded batch on {device}"
    if not strict and (difference := relative_difference(single, batched)) > TOLERANCE[dtype]:
        log.warning("canaries differ by %.2g of the logits' spread for %s", difference, label)
        return difference
    return compare(single, batched, dtype, label)


def compare(first: Tensor, second: Tensor, dtype: str, label: str) -> float:
    """Compare two sets of canary logits.

    Returns:
        The largest difference, as a share of the logits' spread.

    Raises:
        PreflightError: They differ by more than rounding explains (C20).
    """
    difference = relative_difference(first, second)
    if difference > TOLERANCE[dtype]:
        raise PreflightError(
            f"The loaded model gives different answers for {label}: they differ by {difference:.2g} of the logits' "
            f"spread, and rounding in {dtype} explains at most {TOLERANCE[dtype]:g}",
            fix="Set decode.engine=generate and model.attention=eager; with several GPUs set device_map=single and "
            "check their peer-to-peer copies (NCCL_P2P_DISABLE=1, IOMMU and ACS off).",
            id="C20",
        )
    return difference
