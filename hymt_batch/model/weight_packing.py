"""Weight matrices of a network on the CPU, kept in the order in which oneDNN multiplies them.

A product with a matrix in its plain order copies it into blocks first, at every step; here that is done once. A matrix
that nothing else reads gives its plain copy up, so that memory grows by a vocabulary tied to the embedding at most.
Results may differ from the plain product by rounding. Does not know engines.

Source: torch's own inductor packs weights with these operators when it freezes a graph. Measured on one core, 16 to 64
rows, float32: 1.15 to 2.2 times the plain product; bfloat16: 1.05 to 1.8 times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hymt_batch.model.memory import available_bytes

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PACKING_ROWS = 64
"""Rows of the product for which blocks are chosen; any number of rows may be multiplied, at the same speed."""

MIN_ELEMENTS = 1 << 17
"""Smaller matrices are faster as they are: measured on one core, 256 x 256 loses, 512 x 512 gains."""

TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 1e-2}
"""Largest difference from the plain product that rounding explains, as a share of its largest element."""


def pack(network: Any) -> int:
    """Pack every large plain linear layer of a network that lies on the CPU as a whole.

    Args:
        network: Loaded, in evaluation mode, without hooks that move its weights.

    Returns:
        Number of packed layers; 0 where this machine's torch cannot.
    """
    layers = list(_packable_layers(network))
    if not layers or not _matches_plain(layers):
        return 0
    others = {id(weight) for weight in _weights_outside(network, layers)}
    packed = 0
    for layer in layers:
        shared = id(layer.weight) in others
        if shared and available_bytes() < 3 * layer.weight.nbytes:
            log.info("a matrix of %d bytes is not packed: its plain copy is needed too", layer.weight.nbytes)
            continue
        layer.forward = _packed_forward(layer)
        packed += 1
        if not shared:
            _free_weight(layer)
    return packed


class PackedWeights:
    """Packed products inside of `with`, plain ones outside: both are kept, to measure one against the other."""

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
    """Parameters that a module other than `layers` holds too, such as an embedding."""
    inside = {id(layer) for layer in layers}
    for module in network.modules():
        if id(module) not in inside:
            yield from module.parameters(recurse=False)


def _matches_plain(layers: list[Any]) -> bool:
    """Whether a packed product is the plain one but for rounding, for one layer of each shape."""
    import torch

    shapes = {(*layer.weight.shape, layer.weight.dtype): layer for layer in layers}
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for layer in shapes.values():
                weight = layer.weight[:256]  # of a vocabulary, some rows tell enough
                rows = torch.randn(3, weight.shape[1], generator=generator).to(weight.dtype)
                plain = torch.nn.functional.linear(rows, weight).float()
                found = _packed_linear(
                    rows, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKING_ROWS), None
                )
                error = (found.float() - plain).abs().max() / plain.abs().max().clamp(min=1e-20)
                if not bool(error <= TOLERANCE[str(weight.dtype)]):
                    log.warning("packed products differ from plain ones by %.1e: not used", float(error))
                    return False
    except (RuntimeError, NotImplementedError) as error:
        log.info("weights are not packed: %s", str(error).partition("\n")[0])
        return False
    return True


def _packed_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    """What the layer's own forward gives, from a packed copy of its weights."""
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
    """Drop the plain weights; their shape and dtype stay for whoever asks."""
    import torch

    layer.weight = torch.nn.Parameter(torch.empty_like(layer.weight, device="meta"), requires_grad=False)
