"""Pack a network's weight matrices on the CPU into the blocked layout in which oneDNN multiplies them.

A product with a plain matrix first copies it into blocks, at every step; packing does this once. The plain copy is
freed unless something else reads it, so that memory grows at most by a vocabulary matrix tied to the embedding.
Results may differ from the plain product by rounding.

Source: torch's inductor packs weights with these operators when it freezes a graph. Measured on one core, 16 to 64
rows: 1.15 to 2.2 times as fast as the plain product in float32, 1.05 to 1.8 times in bfloat16.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hymt_batch.errors import first_line
from hymt_batch.model.memory import available_bytes

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PACKING_ROWS = 64
"""Rows for which the block layout is chosen; products of any number of rows run at the same speed."""

MIN_ELEMENTS = 1 << 17
"""Smaller matrices are faster unpacked; measured on one core: 256 x 256 is slower packed, 512 x 512 is faster."""

TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 1e-2}
"""Largest difference from the plain product that rounding explains, as a share of its largest element."""


def pack(network: Any) -> int:
    """Pack every large plain linear layer of a network that is entirely on the CPU.

    Args:
        network: Loaded, in evaluation mode, without hooks that move its weights.

    Returns:
        Number of packed layers; 0 if torch on this machine does not support it.
    """
    layers = list(_packable_layers(network))
    if not layers or not _matches_plain(layers):
        return 0
    outside_ids = {id(weight) for weight in _weights_outside(network, layers)}
    packed = 0
    for layer in layers:
        shared = id(layer.weight) in outside_ids
        if shared and available_bytes() < 3 * layer.weight.nbytes:
            log.info(
                "weight matrix not packed bytes=%d: not enough memory for a packed copy beside the plain one",
                layer.weight.nbytes,
            )
            continue
        layer.forward = _packed_forward(layer)
        packed += 1
        if not shared:
            _free_weight(layer)
    return packed


def keep_head_input_contiguous(network: Any) -> None:
    """Let the vocabulary matrix of a network on the CPU get contiguous hidden states, unless it is in float32.

    transformers passes it the last position of each prompt, a view with gaps. torch multiplies such a view without
    oneDNN in the 16-bit formats. A packed matrix is not affected.

    Source: measured with torch 2.13, one core, 4 rows of 2,048 by 16,384 in bfloat16: 823 ms, and 3.8 ms for a copy.
    """
    head = network.lm_head
    if head.weight.device.type in ("cpu", "meta") and head.weight.element_size() == 2:
        head.register_forward_pre_hook(lambda _module, inputs: (inputs[0].contiguous(), *inputs[1:]))


class PackedWeights:
    """Context manager with packed products inside `with` and plain ones outside; keeps both, to compare their speed."""

    def __init__(self, network: Any) -> None:
        layers = list(_packable_layers(network))
        self._packed_forwards = (
            [(layer, _packed_forward(layer)) for layer in layers] if layers and _matches_plain(layers) else []
        )

    def __enter__(self) -> int:
        for layer, product in self._packed_forwards:
            layer.forward = product
        return len(self._packed_forwards)

    def __exit__(self, *_: object) -> None:
        for layer, _product in self._packed_forwards:
            del layer.forward


def _packable_layers(network: Any) -> Iterator[Any]:
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return
    for module in network.modules():
        if (
            type(module) is torch.nn.Linear
            and module.weight.device.type == "cpu"
            and str(module.weight.dtype) in TOLERANCE
            and module.weight.numel() >= MIN_ELEMENTS
            and not hasattr(module, "_hf_hook")
        ):
            yield module


def _weights_outside(network: Any, layers: list[Any]) -> Iterator[Any]:
    """Yield the parameters of modules other than `layers`, for example of an embedding."""
    inside = {id(layer) for layer in layers}
    for module in network.modules():
        if id(module) not in inside:
            yield from module.parameters(recurse=False)


def _matches_plain(layers: list[Any]) -> bool:
    """Return whether packed products equal plain ones within rounding, for one layer of each shape."""
    import torch

    shapes = {(*layer.weight.shape, layer.weight.dtype): layer for layer in layers}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for layer in shapes.values():
                weight = layer.weight[:256]  # a part of a vocabulary matrix is enough
                rows = torch.randn(3, weight.shape[1], generator=generator).to(weight.dtype)
                plain = torch.nn.functional.linear(rows, weight).float()
                packed = _packed_linear(
                    rows, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKING_ROWS), None
                )
                error = (packed.float() - plain).abs().max() / plain.abs().max().clamp(min=1e-20)
                if not bool(error <= TOLERANCE[str(weight.dtype)]):
                    log.warning("packed products differ from plain ones by %.1e: weights are not packed", float(error))
                    return False
    except (RuntimeError, NotImplementedError) as error:
        log.info("weights are not packed: reason=%r", first_line(error))
        return False
    return True


def _packed_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    """Make a forward function that computes the same as the layer's own, from a packed copy of its weights."""
    import torch

    with torch.inference_mode():
        blocks = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), PACKING_ROWS)
    bias = layer.bias
    return lambda rows: _packed_linear(rows, blocks, bias)


def _packed_linear(rows: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, blocks, bias, "none", [], "")
    return product


def _free_weight(layer: Any) -> None:
    """Free the plain weights; a tensor on the meta device keeps their shape and dtype."""
    import torch

    layer.weight = torch.nn.Parameter(torch.empty_like(layer.weight, device="meta"), requires_grad=False)
