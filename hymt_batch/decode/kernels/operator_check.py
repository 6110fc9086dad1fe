"""Check each kernel on random numbers of the network's shapes, before it may be used.

A kernel's error to float64 may be at most twice that of torch's own operators in the same number format, and a row
alone must give the same bits as in the batch. Keys and values beyond the length of a row are NaN. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hymt_batch.decode.kernels.fused_layers import FusedLayers
from hymt_batch.decode.kernels.operators import MIN_DOT_ROWS
from hymt_batch.decode.slot_attention import grouped_mask

if TYPE_CHECKING:
    from torch import Tensor

NUM_ROWS = 16
MAX_LENGTH = 300
"""Tokens of the longest row; the lengths of the others are random, one of them is 1."""

MAX_ERROR_RATIO = 2.0
"""Largest error of a kernel, as a multiple of that of torch's own operators."""


class KernelError(Exception):
    """A kernel is not good enough to be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class KernelCase:
    """One kernel with its inputs, [rows, ...] each."""

    name: str
    inputs: tuple[Tensor, ...]
    fused: Callable[..., tuple[Tensor, ...]]  # takes `inputs`, or some rows of them
    plain: Callable[..., tuple[Tensor, ...]]  # the same with torch's operators, in the number format of its arguments


def check_operators(layers: FusedLayers, num_rows: int = NUM_ROWS, max_length: int = MAX_LENGTH) -> dict[str, float]:
    """Check every kernel with the shapes, the number format and the device of a network.

    Returns:
        Name of the kernel -> its error, as a multiple of that of torch's own operators.

    Raises:
        KernelError: A kernel is too inexact, or the result of a row depends on its neighbours.
    """
    return {case.name: check_case(case) for case in kernel_cases(layers, num_rows, max_length)}


def check_case(case: KernelCase) -> float:
    """Check one kernel; see `check_operators`."""
    import torch

    results = case.fused(*case.inputs)
    plain = case.plain(*case.inputs)
    exact = case.plain(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in case.inputs))
    largest = 0.0
    for result, plain_result, exact_result in zip(results, plain, exact, strict=True):
        error, plain_error = (_relative_error(value, exact_result) for value in (result, plain_result))
        if not error <= MAX_ERROR_RATIO * plain_error:  # written so that NaN counts as wrong
            raise KernelError(
                f"{case.name} has a relative error of {error:.2g}, where torch's own operators have {plain_error:.2g}"
            )
        largest = max(largest, error / plain_error if plain_error else 0.0)
    for row in {0, len(case.inputs[0]) // 2, len(case.inputs[0]) - 1}:
        alone = case.fused(*(tensor[row : row + 1] for tensor in case.inputs))
        if not all(torch.equal(one[0], result[row]) for one, result in zip(alone, results, strict=True)):
            raise KernelError(f"{case.name} gives another result for row {row + 1} alone than in a batch")
    return largest


def _relative_error(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).norm() / exact.norm())


def kernel_cases(layers: FusedLayers, num_rows: int, max_length: int) -> Iterator[KernelCase]:
    """Yield a case for every kernel, with the shapes of the first layer and seeded random numbers."""
    import torch

    config, layer = layers.network.config, layers.layers[0]
    weight = layer.input_layernorm.weight
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(weight.device, weight.dtype)

    eps, operators = layer.input_layernorm.variance_epsilon, layers.operators
    norm_weight = 1 + random(config.hidden_size) / 4
    yield KernelCase(
        "rms_norm",
        (random(num_rows, 1, config.hidden_size),),
        lambda hidden: (operators.rms_norm(hidden, norm_weight, eps),),
        lambda hidden: (_rms_norm(hidden, norm_weight, eps),),
    )
    yield KernelCase(
        "add_rms_norm",
        (random(num_rows, 1, config.hidden_size), random(num_rows, 1, config.hidden_size)),
        lambda output, residual: operators.add_rms_norm(output, residual, norm_weight, eps),
        lambda output, residual: (_rms_norm(output + residual, norm_weight, eps), output + residual),
    )
    yield KernelCase(
        "gated_product",
        (random(num_rows, 1, config.intermediate_size), random(num_rows, 1, config.intermediate_size)),
        lambda gate, up: (operators.gated_product(gate, up),),
        lambda gate, up: (torch.nn.functional.silu(gate) * up,),
    )
    lengths = torch.randint(1, max_length + 1, (num_rows,), generator=generator)
    lengths[0], lengths[-1] = 1, max_length
    positions = (lengths - 1).to(weight.device)
    yield _rotation_case(layers, random, positions, max_length)
    yield _attention_case(layers, random, positions, max_length)


def _rotation_case(
    layers: FusedLayers, random: Callable[..., Tensor], positions: Tensor, max_length: int
) -> KernelCase:
    import torch

    config, module, names = layers.network.config, layers.layers[0].self_attn, layers.names
    num_rows, num_heads, size = len(positions), config.num_key_value_heads, module.head_dim
    eps = getattr(module, names.query_norm).variance_epsilon
    query_weight, key_weight = 1 + random(size) / 4, 1 + random(size) / 4
    angles = torch.rand(num_rows, 1, size // 2, generator=torch.Generator().manual_seed(1)) * 100
    cos, sin = (
        turn.repeat(1, 1, 2).to(query_weight.device, query_weight.dtype) for turn in (angles.cos(), angles.sin())
    )

    def fused(query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        stored = torch.zeros(2, len(query) + 1, num_heads, max_length, size, dtype=key.dtype, device=key.device)
        row_positions = others[2]
        output = layers.operators.rotate_and_store(
            query, key, value, *others[:2], query_weight, key_weight, row_positions[:, None], *stored, 1, eps,
            names.norm_first,
        )  # fmt: skip
        rows = torch.arange(len(query), device=key.device)
        return output, stored[0, rows + 1, :, row_positions], stored[1, rows + 1, :, row_positions]

    def plain(query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        cos, sin, _ = others
        heads = [tensor.reshape(len(tensor), 1, -1, size) for tensor in (query, key, value)]
        turned = [
            _rotate(tensor, cos, sin, weight, eps, norm_first=names.norm_first)
            for tensor, weight in zip(heads, (query_weight, key_weight), strict=False)
        ]
        return turned[0], turned[1][:, 0], heads[2][:, 0]

    widths = (config.num_attention_heads * size, num_heads * size, num_heads * size)
    inputs = *(random(num_rows, 1, width) for width in widths), cos, sin, positions
    return KernelCase("rotate_and_store", inputs, fused, plain)


def _attention_case(
    layers: FusedLayers, random: Callable[..., Tensor], positions: Tensor, max_length: int
) -> KernelCase:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    config, module = layers.network.config, layers.layers[0].self_attn
    num_rows, num_heads = len(positions), config.num_key_value_heads
    # a slice of larger storage, NaN where no row may read
    storage = torch.full((2, num_rows, num_heads, max_length + 64, module.head_dim), float("nan"))
    storage = storage.to(positions.device, random(1).dtype)
    for row, position in enumerate(positions.tolist()):
        storage[:, row, :, : position + 1] = random(2, num_heads, position + 1, module.head_dim)

    def plain(query: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        seen = torch.arange(keys.shape[2], device=keys.device) <= positions[:, None]
        mask = grouped_mask(seen[:, None], 1, query.dtype)
        finite = [tensor.masked_fill(~seen[:, None, :, None], 0.0) for tensor in (keys, values)]
        # as many rows as in the kernel's products: torch sums a product with few rows in another order, with less error
        group = query.reshape(num_rows, num_heads, -1, module.head_dim)
        padded = torch.nn.functional.pad(group, (0, 0, 0, max(0, MIN_DOT_ROWS - group.shape[2])))
        attended = scaled_dot_product_attention(padded, finite[0], finite[1], attn_mask=mask, scale=module.scaling)
        return (attended[:, :, : group.shape[2]].flatten(1, 2),)

    return KernelCase(
        "decode_attention",
        (random(num_rows, config.num_attention_heads, module.head_dim), storage[0], storage[1], positions),
        lambda query, keys, values, rows: (
            layers.operators.decode_attention(query, keys, values, rows, module.scaling),
        ),
        plain,
    )


def _rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise as transformers does; in float64 without rounding in between."""
    import torch

    working = hidden if hidden.dtype == torch.float64 else hidden.float()
    working = working * torch.rsqrt(working.pow(2).mean(-1, keepdim=True) + eps)
    return weight.to(hidden.dtype) * working.to(hidden.dtype)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor, weight: Tensor, eps: float, *, norm_first: bool) -> Tensor:
    """Turn and normalise heads [B, T, H, D] as transformers does."""
    import torch

    if norm_first:
        heads = _rms_norm(heads, weight, eps)
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]
    return turned if norm_first else _rms_norm(turned, weight, eps)
