"""The kernels as operators of torch: `torch.ops.hymt_batch.*`. Each call launches one kernel.

As operators they work on meta tensors, where they launch nothing, so that launches can be counted without a GPU, and a
profiler shows them by name. Knows shapes and strides, but no network.

Source: torch.library.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NAMESPACE = "hymt_batch"

KEY_BLOCK = 64
"""Keys that a program of the attention reads at once."""

PRODUCT_BLOCK = 1024
"""Elements that a program of the gated product computes."""

MIN_DOT_ROWS = 16
"""Smallest number of rows of a matrix product in Triton; smaller groups of query heads are padded to it."""

SCHEMAS = {
    "rms_norm": "(Tensor input, Tensor weight, float eps) -> Tensor",
    "add_rms_norm": "(Tensor input, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    "gated_product": "(Tensor gate, Tensor up) -> Tensor",
    "rotate_and_store": (
        "(Tensor query, Tensor key, Tensor value, Tensor cos, Tensor sin, Tensor query_weight, Tensor key_weight, "
        "Tensor positions, Tensor(a!) stored_keys, Tensor(b!) stored_values, int first_slot, float eps, "
        "bool norm_first) -> Tensor"
    ),
    "decode_attention": "(Tensor query, Tensor keys, Tensor values, Tensor positions, float scale) -> Tensor",
}


def is_triton_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def load_operators() -> Any:
    """Register the operators, once per process, and return their namespace."""
    import torch

    library: Any = torch.library.Library(NAMESPACE, "DEF")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, globals()[f"_{name}"], "CompositeExplicitAutograd")
    _libraries.append(library)
    return getattr(torch.ops, NAMESPACE)


_libraries: list[Any] = []
"""Keeps the registration alive: an operator is gone with its library object."""


def _power_of_two(num: int) -> int:
    """Return the smallest power of two that is at least `num`."""
    return 1 << (num - 1).bit_length()


def _rms_norm(input: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension: [..., N] -> [..., N]."""
    import torch

    output = torch.empty_like(input, memory_format=torch.contiguous_format)
    _launch_rms_norm(input.contiguous(), None, weight, output, output, eps)
    return output


def _add_rms_norm(input: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised sum of input and residual, and the sum, each [..., N]."""
    import torch

    output, total = (torch.empty_like(input, memory_format=torch.contiguous_format) for _ in range(2))
    _launch_rms_norm(input.contiguous(), residual.contiguous(), weight, total, output, eps)
    return output, total


def _launch_rms_norm(
    input: Tensor, residual: Tensor | None, weight: Tensor, total: Tensor, output: Tensor, eps: float
) -> None:
    if input.is_meta or not input.numel():
        return
    from hymt_batch.decode.kernels import triton_source

    size = input.shape[-1]
    triton_source.rms_norm[(input.numel() // size,)](
        input,
        input if residual is None else residual,
        weight,
        total,
        output,
        size,
        eps,
        HAS_RESIDUAL=residual is not None,
        BLOCK=_power_of_two(size),
        num_warps=8 if size > 1024 else 4,
    )


def _gated_product(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up, all of one shape."""
    import torch

    output = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if output.is_meta or not output.numel():
        return output
    from hymt_batch.decode.kernels import triton_source

    num = output.numel()
    triton_source.gated_product[(-(-num // PRODUCT_BLOCK),)](
        gate.contiguous(), up.contiguous(), output, num, BLOCK=PRODUCT_BLOCK, num_warps=4
    )
    return output


def _rotate_and_store(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    positions: Tensor,
    stored_keys: Tensor,
    stored_values: Tensor,
    first_slot: int,
    eps: float,
    norm_first: bool,
) -> Tensor:
    """Turn queries and keys by their positions (RoPE), normalise them, and store keys and values in the slots.

    Args:
        query: [B, T, H * D].
        key: [B, T, K * D].
        value: [B, T, K * D].
        cos: [B, T, D].
        sin: [B, T, D].
        query_weight: [D], of the norm of the queries.
        key_weight: [D], of the norm of the keys.
        positions: [B, T] int64, where each token is stored in its slot.
        stored_keys: [slots, K, length, D], which may be a slice of larger storage; D is contiguous.
        stored_values: As `stored_keys`, with the same strides.
        first_slot: Slot of the first row.
        eps: Of the norms.
        norm_first: True to normalise before the turn.

    Returns:
        The queries, [B, T, H, D].
    """
    import torch

    rows, width, _ = query.shape
    num_key_heads, size = stored_keys.shape[1], stored_keys.shape[3]
    num_heads = query.shape[2] // size
    output = torch.empty(rows, width, num_heads, size, dtype=query.dtype, device=query.device)
    assert stored_keys.stride() == stored_values.stride()
    assert stored_keys.stride(3) == 1
    assert cos.shape == sin.shape == (rows, width, size)
    if output.is_meta or not output.numel():
        return output
    from hymt_batch.decode.kernels import triton_source

    triton_source.rotate_and_store[(rows * width,)](
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        cos.contiguous(),
        sin.contiguous(),
        query_weight,
        key_weight,
        positions,
        output,
        stored_keys,
        stored_values,
        width,
        first_slot,
        *positions.stride(),
        *stored_keys.stride()[:3],
        eps,
        NUM_QUERY_HEADS=num_heads,
        NUM_KEY_HEADS=num_key_heads,
        QUERY_BLOCK=_power_of_two(num_heads),
        KEY_BLOCK=_power_of_two(num_key_heads),
        SIZE=size,
        NORM_FIRST=norm_first,
        num_warps=4,
    )
    return output


def _decode_attention(query: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Compute grouped-query attention of one query per row and head, over each row's own keys.

    Args:
        query: [B, H, D] with H a multiple of K.
        keys: [at least B, K, L, D], which may be a slice of larger storage; D is contiguous.
        values: As `keys`.
        positions: [B] int64; row b sees its keys up to and including this position. What lies beyond is not read.
        scale: Factor of the scores.

    Returns:
        [B, H, D].
    """
    import torch

    rows, heads, size = query.shape
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    assert keys.stride(3) == values.stride(3) == 1
    if output.is_meta or not output.numel():
        return output
    from hymt_batch.decode.kernels import triton_source

    group = heads // keys.shape[1]
    triton_source.decode_attention[(rows, keys.shape[1])](
        query.contiguous(),
        keys,
        values,
        positions,
        output,
        scale * math.log2(math.e),  # rounded to float32 once
        positions.stride(0),
        *keys.stride()[:3],
        *values.stride()[:3],
        GROUP=group,
        GROUP_BLOCK=max(MIN_DOT_ROWS, _power_of_two(group)),
        SIZE=size,
        KEY_BLOCK=KEY_BLOCK,
        num_warps=4,
    )
    return output
