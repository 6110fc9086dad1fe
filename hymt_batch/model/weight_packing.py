"""Pack a network's weight matrices on the CPU into the blocked layout in which oneDNN multiplies them.

A product with a plain matrix first copies it into blocks, at every step; packing does this once. The plain copy is
freed unless something else reads it, so that memory grows at most by a vocabulary matrix tied to the embedding.
Results may differ from the plain product by rounding.

The projections of queries, keys and values have the same input, so they are packed as one matrix: one product instead
of three, of which those for keys and values are too small to be fast.

Source: torch's inductor packs weights with these operators when it freezes a graph. Measured on one core, 16 to 64
rows: 1.15 to 2.2 times as fast as the plain product in float32, 1.05 to 1.8 times in bfloat16.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""Names, in an attention module, of the linear layers that are packed as one."""

TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 1e-2}
"""Largest difference from the plain product that rounding explains, as a share of its largest element."""


def pack(network: Any) -> int:
    """Pack every large plain linear layer of a network that is entirely on the CPU.

    Args:
        network: Loaded, in evaluation mode, without hooks that move its weights.

    Returns:
        Number of packed layers; 0 if torch on this machine does not support it.
    """
    groups = list(_packable_groups(network))
    layers = [layer for group in groups for layer in group]
    if not layers or not _matches_plain(groups):
        return 0
    outside_ids = {id(weight) for weight in _weights_outside(network, layers)}
    packed = 0
    for group in groups:
        shared = any(id(layer.weight) in outside_ids for layer in group)
        if shared and available_bytes() < 3 * sum(layer.weight.nbytes for layer in group):
            log.info(
                "weight matrix not packed bytes=%d: not enough memory for a packed copy beside the plain one",
                sum(layer.weight.nbytes for layer in group),
            )
            continue
        for layer, forward in zip(group, _packed_forwards(group), strict=True):
            layer.forward = forward
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
        head.register_forward_pre_hook(_ContiguousInput())


class _ContiguousInput:
    """A hook that copies the input of a module if it is a view with gaps, unless it is turned off."""

    def __init__(self) -> None:
        self.is_on = True

    def __call__(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].contiguous(), *inputs[1:]) if self.is_on else inputs


@contextmanager
def head_input_as_given(network: Any) -> Iterator[None]:
    """Context without `keep_head_input_contiguous`, to measure a network as transformers runs it."""
    hooks = [hook for hook in network.lm_head._forward_pre_hooks.values() if isinstance(hook, _ContiguousInput)]
    for hook in hooks:
        hook.is_on = False
    try:
        yield
    finally:
        for hook in hooks:
            hook.is_on = True


class PackedWeights:
    """Context manager with packed products inside `with` and plain ones outside; keeps both, to compare their speed."""

    def __init__(self, network: Any) -> None:
        groups = list(_packable_groups(network))
        layers = [layer for group in groups for layer in group]
        self._packed_forwards = (
            list(zip(layers, (forward for group in groups for forward in _packed_forwards(group)), strict=True))
            if layers and _matches_plain(groups)
            else []
        )

    def __enter__(self) -> int:
        for layer, product in self._packed_forwards:
            layer.forward = product
        return len(self._packed_forwards)

    def __exit__(self, *_: object) -> None:
        for layer, _product in self._packed_forwards:
            del layer.forward


def _packable_groups(network: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the linear layers to pack; those of a group have the same input and are packed as one matrix."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    if not all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")):
        return
    grouped: set[int] = set()
    for module in network.modules():  # a module comes before its parts
        projections: tuple[Any, ...] = tuple(getattr(module, name, None) for name in PROJECTIONS)
        if all(map(_is_plain_linear, projections)) and _have_one_form(projections):
            grouped.update(map(id, projections))
            group = projections
        elif _is_plain_linear(module) and id(module) not in grouped:
            group = (module,)
        else:
            continue
        if sum(layer.weight.numel() for layer in group) >= MIN_ELEMENTS:
            yield group


def _is_plain_linear(module: Any) -> bool:
    import torch

    return (
        type(module) is torch.nn.Linear
        and module.weight.device.type == "cpu"
        and str(module.weight.dtype) in TOLERANCE
        and not hasattr(module, "_hf_hook")
    )


def _have_one_form(layers: Sequence[Any]) -> bool:
    """Return whether layers have inputs of the same width and number format, and all or none of them a bias."""
    return len({(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in layers}) == 1


def _weights_outside(network: Any, layers: list[Any]) -> Iterator[Any]:
    """Yield the parameters of modules other than `layers`, for example of an embedding."""
    inside = {id(layer) for layer in layers}
    for module in network.modules():
        if id(module) not in inside:
            yield from module.parameters(recurse=False)


def _matches_plain(groups: Sequence[tuple[Any, ...]]) -> bool:
    """Return whether packed products equal plain ones within rounding, for one group of layers of each shape."""
    import torch

    shapes = {
        tuple((*layer.weight.shape, layer.weight.dtype, layer.bias is None) for layer in group): group
        for group in groups
    }
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for group in shapes.values():
                part = slice(None) if len(group) > 1 else slice(256)  # a part of a vocabulary matrix is enough
                rows = torch.randn(3, group[0].in_features, generator=generator).to(group[0].weight.dtype)
                plain = torch.cat([layer(rows)[:, part] for layer in group], dim=-1).float()
                packed = _packed_linear(rows, *_packed_blocks(group, part))
                error = (packed.float() - plain).abs().max() / plain.abs().max().clamp(min=1e-20)
                if not bool(error <= TOLERANCE[str(rows.dtype)]):
                    log.warning("packed products differ from plain ones by %.1e: weights are not packed", float(error))
                    return False
    except (RuntimeError, NotImplementedError) as error:
        log.info("weights are not packed: reason=%r", first_line(error))
        return False
    return True


def _packed_forwards(group: Sequence[Any]) -> list[Callable[[Tensor], Tensor]]:
    """Make forward functions that compute the same as those of a group of layers, from a packed copy of the weights."""
    import torch

    with torch.inference_mode():
        blocks, bias = _packed_blocks(group, slice(None))
    if len(group) == 1:
        return [lambda rows: _packed_linear(rows, blocks, bias)]
    product = JointProduct(blocks, bias, [layer.out_features for layer in group])
    return [JointForward(product, index) for index in range(len(group))]


def _packed_blocks(group: Sequence[Any], part: slice) -> tuple[Tensor, Tensor | None]:
    """Return the packed matrix of a group of layers, or of a part of each one's outputs, and the bias."""
    import torch

    weights = [layer.weight.detach()[part] for layer in group]
    weight = torch.cat(weights) if len(group) > 1 else weights[0].contiguous()
    bias = None if group[0].bias is None else torch.cat([layer.bias[part] for layer in group])
    return torch.ops.mkldnn._reorder_linear_weight(weight, PACKING_ROWS), bias


class JointProduct:
    """The product of one input with the matrices of several layers."""

    def __init__(self, blocks: Tensor, bias: Tensor | None, widths: list[int]) -> None:
        self._blocks, self._bias, self._widths = blocks, bias, widths
        # of the input of the layer that was called last, what the other layers have not taken yet
        self._rows: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the outputs of all layers side by side, [..., sum of their widths], for an input [..., in]."""
        return _packed_linear(rows, self._blocks, self._bias)

    def take(self, rows: Tensor, index: int) -> Tensor:
        """Return the output of one layer. It is computed for all layers, and kept until each has taken its own."""
        import torch

        if self._rows is not rows or index not in self._parts:
            self._rows, self._parts = rows, dict(enumerate(torch.split(self(rows), self._widths, dim=-1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._rows = None
        return part


class JointForward:
    """The forward function of one layer of a `JointProduct`."""

    def __init__(self, product: JointProduct, index: int) -> None:
        self.product, self._index = product, index

    def __call__(self, rows: Tensor) -> Tensor:
        return self.product.take(rows, self._index)


def joint_projection(attention: Any) -> JointProduct | None:
    """Return the product of queries, keys and values (in this order) of an attention module, if they are packed."""
    forward = attention.q_proj.forward
    return forward.product if isinstance(forward, JointForward) else None


def _packed_linear(rows: Tensor, blocks: Tensor, bias: Tensor | None) -> Tensor:
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, blocks, bias, "none", [], "")
    return product


def _free_weight(layer: Any) -> None:
    """Free the plain weights; a tensor on the meta device keeps their shape and dtype."""
    import torch

    layer.weight = torch.nn.Parameter(torch.empty_like(layer.weight, device="meta"), requires_grad=False)
