"""Canaries: a few short prompts through the loaded network, whose answers must be finite and agree with one another.

A row of a left-padded batch must give what it gives alone; two copies, or a split and a whole model, must give the
same. Caught so far in the field: attention kernels that return NaN for fully masked rows, cards whose peer-to-peer
copies return garbage, weights that never arrived. Does not judge a translation.

Source: transformers#21720, #24056, #47942 (garbage between cards), unsloth#9848 (NaN in left padding).
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
"""Largest difference of a logit that rounding explains, as a share of the spread of the row's logits.

Measured on random networks with 2 to 32 layers, batch against single: below a fifth of these.
"""


def logits(network: Any, tokenizer: Tokenizer, device: str, *, batched: bool = True) -> Tensor:
    """The network's answer to each canary's last token.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Where tokens enter.
        batched: All in one left-padded batch, or each alone.

    Returns:
        Logits [B, vocabulary] in float32 on the CPU.
    """
    import torch

    rows = [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode(TEXTS)]
    groups = [rows] if batched else [[row] for row in rows]
    found = []
    with torch.inference_mode():
        for group in groups:
            width = max(map(len, group))
            ids = torch.full((len(group), width), tokenizer.pad_id, dtype=torch.int64)
            mask = torch.zeros((len(group), width), dtype=torch.int64)
            for number, row in enumerate(group):
                ids[number, width - len(row) :] = torch.tensor(row)
                mask[number, width - len(row) :] = 1
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            output = network(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                position_ids=positions.to(device),
                use_cache=False,
            )
            found.append(output.logits[:, -1].float().cpu())
    return torch.cat(found)


def relative_difference(first: Tensor, second: Tensor) -> float:
    """Largest difference of two sets of logits, as a share of the spread of the row; NaN counts as infinite."""
    import torch

    spread = (first.max(dim=-1).values - first.min(dim=-1).values).clamp(min=1e-6)
    share = ((first - second).abs().max(dim=-1).values / spread).max()
    return float(share) if bool(torch.isfinite(share)) else float("inf")


def check(network: Any, tokenizer: Tokenizer, device: str, dtype: str, *, strict: bool = True) -> float:
    """Run the canaries of one loaded network.

    Args:
        network: A loaded causal language model.
        tokenizer: Its tokenizer.
        device: Where tokens enter.
        dtype: Of the weights.
        strict: Refuse a difference; False only warns, for kinds whose rounding was never measured (experts, FP8).

    Returns:
        The difference between batched and single, as a share of the logits' spread.

    Raises:
        PreflightError: A logit is not finite (E20), or padding changes the answer (C20).
    """
    import torch

    single, batched = (logits(network, tokenizer, device, batched=one) for one in (False, True))
    for found, how in ((single, "a prompt alone"), (batched, "a left-padded batch")):
        if not bool(torch.isfinite(found).all()):
            raise PreflightError(
                f"The loaded model answers {how} with NaN or infinity in {dtype} on {device}. Set model.dtype="
                "bfloat16 or float32, or model.attention=eager.",
                id="E20" if found is batched else "E22",
            )
    what = f"a prompt alone and in a left-padded batch on {device}"
    if not strict and (found_difference := relative_difference(single, batched)) > TOLERANCE[dtype]:
        log.warning("canaries differ by %.2g of the logits' spread for %s", found_difference, what)
        return found_difference
    return compare(single, batched, dtype, what)


def compare(first: Tensor, second: Tensor, dtype: str, label: str) -> float:
    """Compare two answers to the canaries.

    Raises:
        PreflightError: They differ by more than rounding explains (C20).
    """
    found = relative_difference(first, second)
    if found > TOLERANCE[dtype]:
        raise PreflightError(
            f"The loaded model gives different answers for {label}: they differ by {found:.2g} of the logits' spread, "
            f"and rounding in {dtype} explains {TOLERANCE[dtype]:g}. Set decode.engine=generate and model.attention="
            "eager; with several GPUs "
            "choose device_map=single and check their peer-to-peer copies (NCCL_P2P_DISABLE=1, IOMMU and ACS off).",
            id="C20",
        )
    return found
