"""Attention over the keys and values of the slots, and its masks.

Grouped-query attention without copied keys: the query heads that share a key head become extra queries. transformers
calls `attend` in every layer; see `network_patch.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_NAME = "hymt_slots"
SPAN_ROWS = 8
"""Number of neighbouring rows in a span, whose attention is computed together on the CPU; spans may be merged."""

MAX_SPAN_PADDING = 1.1
"""Two neighbouring spans are merged if the merged work is at most this many times the separate work."""

MIN_PRODUCT_HEADS = {"torch.float32": 16, "torch.bfloat16": 32}
"""Number format -> rows times key heads from which batched products are faster than torch's attention in a step.

Measured with 100 keys on cores with avx512_bf16. In bfloat16 on one core: 64 rows of 2 key heads 355 instead of 592 us,
32 rows of 4 wider ones 591 instead of 805; 8 rows of 2 key heads 89 instead of 75. In float32 on two cores: 64 rows of
2 key heads 199 instead of 347 us, 8 rows 34 instead of 48, 4 rows 23 instead of 25; on one core they are as fast.
"""

PRODUCT_BYTES = 1 << 22
"""Bytes of keys that are multiplied at once, so that they and their scores stay in the processor's caches.

Measured as above: 64 rows of 2 key heads with 1,000 keys 3.6 ms in blocks of 4 MB, 17.8 at once, 7.0 with torch's
attention; 64 rows of 4 wider ones with 300 keys 3.8, 21.5 and 7.1 ms.
"""

MAX_PRODUCT_ERROR = 1.5
"""Largest error of attention by products, as a multiple of that of torch's attention."""

Spans = tuple[tuple[int, int, int], ...]
"""Spans of rows of a step: (first row, one past the last row, number of keys that the longest row sees)."""


def make_spans(lengths: Sequence[int]) -> Spans:
    """Group neighbouring rows with similar numbers of keys, so that a short row does not pay for the longest one."""
    spans: list[tuple[int, int, int]] = []
    for first in range(0, len(lengths), SPAN_ROWS):
        rows = lengths[first : first + SPAN_ROWS]
        end, longest = first + len(rows), max(rows)
        if spans:
            span_start, span_end, length = spans[-1]
            separate_cost = (span_end - span_start) * length + len(rows) * longest
            merged_cost = (end - span_start) * max(length, longest)
            if merged_cost <= MAX_SPAN_PADDING * separate_cost:
                spans[-1] = (span_start, end, max(length, longest))
                continue
        spans.append((first, end, longest))
    return tuple(spans)


def register_attention() -> None:
    """Register our attention with transformers, once per process."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, attend)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute grouped-query attention.

    Args:
        module: The attention layer; not used.
        query: [B, H, T, D].
        key: [B, K, L, D] with H a multiple of K. Its optional attribute `spans` lists rows to compute together.
        value: [B, K, L, D].
        attention_mask: [B, 1, T, L], or with T expanded to (H / K) * T (see `grouped_mask`): added to the scores. None
            if every query sees every key.
        scaling: Factor of the scores.
        dropout: Not used, since the network is not trained.
        kwargs: Other arguments that transformers passes; not used.

    Returns:
        [B, T, H, D], and None for the weights.
    """
    import torch

    rows, heads, width, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1] * width, size)
    mask = attention_mask if attention_mask is None else attention_mask.to(query.dtype)
    spans: Spans = getattr(key, "spans", ())
    if len(spans) > 1 and mask is not None:
        out = torch.cat(
            [
                _attend_span(
                    queries[first:end],
                    key[first:end, :, :length],
                    value[first:end, :, :length],
                    mask[first:end, ..., :length],
                    scaling,
                    is_step=width == 1,
                )
                for first, end, length in spans
            ]
        )
    else:
        out = _attend_span(queries, key, value, mask, scaling, is_step=width == 1)
    return out.reshape(rows, heads, width, size).transpose(1, 2), None


def _attend_span(
    queries: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, *, is_step: bool
) -> Tensor:
    """Attend with queries [B, K, N, D], keys and values [B, K, L, D], and a mask that broadcasts to [B, K, N, L]."""
    import torch

    by_products = (
        is_step
        and queries.device.type == "cpu"
        and len(queries) * queries.shape[1] >= MIN_PRODUCT_HEADS.get(str(queries.dtype), sys.maxsize)
        and (queries.dtype is torch.float32 or _prefers_products())
    )
    if by_products and mask is not None and scaling:
        num = max(1, PRODUCT_BYTES // (key[0].numel() * key.element_size()))
        blocks = zip(*(torch.split(tensor, num) for tensor in (queries, key, value, mask)), strict=True)
        return torch.cat([_attend_by_products(*tensors, scaling=scaling) for tensors in blocks])
    return torch.nn.functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)


def _attend_by_products(queries: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float) -> Tensor:
    """Attend with batched products, in float32 or bfloat16."""
    import torch

    rows, groups, num_queries, size = queries.shape
    flat_queries, keys = queries.reshape(rows * groups, num_queries, size), key.flatten(0, 1)
    if queries.dtype is torch.bfloat16:
        scores = _scores_in_float32(flat_queries, keys)
    else:
        scores = torch.bmm(flat_queries, keys.transpose(1, 2))
    scores = torch.add(mask, scores.view(rows, groups, num_queries, -1), alpha=scaling)
    weights = torch.softmax(scores, dim=-1).to(queries.dtype)
    return torch.bmm(weights.view(rows * groups, num_queries, -1), value.flatten(0, 1)).view(queries.shape)


def _scores_in_float32(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the products of queries [B, N, D] and keys [B, L, D] in bfloat16 with twice its digits, [B, N, L].

    torch gives a product only in the format of its inputs, so it is rounded. A second product, from which the rounded
    one is subtracted before it is rounded itself, gives nearly all of what the first one lost: the error that is left,
    at most 2^-18 of a score, is far below that of the weights, which are rounded to 2^-9.
    """
    import torch

    # a view with gaps would be copied by both products, and more slowly
    transposed = keys.contiguous().transpose(1, 2)
    rounded = torch.bmm(queries, transposed)
    return rounded.float().add_(torch.baddbmm(rounded, queries, transposed, beta=-1))


@functools.cache
def _prefers_products() -> bool:
    """Return whether attention by products in bfloat16 is faster here, and as exact as that of torch.

    It was measured on CPUs with avx512_bf16 and without AMX, for which torch's attention has kernels of its own.
    """
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    has_bfloat16, has_amx = (getattr(torch.cpu, name, None) for name in names)  # private: a version may lack them
    if has_bfloat16 is None or has_amx is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(has_bfloat16()) and not has_amx() and _products_are_exact()


def _products_are_exact() -> bool:
    """Compare attention by products with that of torch, by their errors to float64 on random numbers."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        queries, key, value = (torch.randn(16, 2, num, 64, generator=generator).bfloat16() for num in (4, 48, 48))
        mask = torch.zeros(16, 1, 1, 48, dtype=torch.bfloat16)
        mask[::2, ..., 24:] = float("-inf")

        def attend_in_torch(queries: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
            return torch.nn.functional.scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=0.25)

        exact = attend_in_torch(queries.double(), key.double(), value.double(), mask.double())
        error, error_of_torch = (
            float((result.double() - exact).norm())
            for result in (
                _attend_by_products(queries, key, value, mask, scaling=0.25),
                attend_in_torch(queries, key, value, mask),
            )
        )
    return error <= MAX_PRODUCT_ERROR * error_of_torch  # False for NaN too


def grouped_mask(visible: Tensor, group_size: int, dtype: Any) -> Tensor:
    """Build the mask that is added to the attention scores, once for all layers.

    Args:
        visible: [B, T, L] bool, True where a query sees a key.
        group_size: Query heads that share a key head.
        dtype: Data type of the scores.

    Returns:
        [B, 1, groups * T, L], or [B, 1, 1, L] for T = 1: 0 where visible, else minus infinity.
    """
    import torch

    rows, width, length = visible.shape
    hidden = torch.zeros(rows, 1, width, length, dtype=dtype, device=visible.device)
    hidden.masked_fill_(~visible[:, None], float("-inf"))
    if width == 1 or group_size == 1:
        return hidden
    return hidden.expand(rows, group_size, width, length).reshape(rows, 1, group_size * width, length)
