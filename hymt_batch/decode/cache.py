"""Keys and values of the running slots, layer by layer on the device where the layer works, and attention over them.

Grouped-query attention without copying keys: the heads that share a key stand as further queries. Speaks the part of
transformers' cache interface that its decoder layers use, in 4.56 and 5.x. Does not know rows or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_NAME = "hymt_slots"
BUCKET = 64
"""Slots grow by so many tokens at a time."""


SPAN_ROWS = 8
"""On the CPU, a step's attention goes over so many rows at a time, or more where that computes little for nothing."""

MAX_SPAN_PADDING = 1.1
Spans = tuple[tuple[int, int, int], ...]
"""Rows of a step that are computed together: first, one past the last, keys that the longest of them sees."""


def make_spans(lengths: Sequence[int]) -> Spans:
    """Neighbours whose numbers of keys are much the same, so that a short row does not wait for the longest of all."""
    found: list[tuple[int, int, int]] = []
    for first in range(0, len(lengths), SPAN_ROWS):
        rows = lengths[first : first + SPAN_ROWS]
        end, longest = first + len(rows), max(rows)
        if found:
            before, middle, length = found[-1]
            apart = (middle - before) * length + len(rows) * longest
            together = (end - before) * max(length, longest)
            if together <= MAX_SPAN_PADDING * apart:
                found[-1] = (before, end, max(length, longest))
                continue
        found.append((first, end, longest))
    return tuple(found)


def register_attention() -> None:
    """Make our attention known to transformers, once a process."""
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
    """Attention of grouped queries.

    Args:
        module: The attention layer; not used.
        query: [B, H, T, D].
        key: [B, K, L, D] with H a multiple of K. Its attribute `spans`, if it has one, says which rows go together.
        value: Likewise.
        attention_mask: [B, 1, T, L], or with T stretched to (H / K) * T (see `grouped`): added to the scores. None
            where every query sees every key.
        scaling: Factor of the scores.
        dropout: Not used: there is no training.
        kwargs: What else transformers passes.

    Returns:
        [B, T, H, D], and None for the weights.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    rows, heads, width, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1] * width, size)
    mask = attention_mask if attention_mask is None else attention_mask.to(query.dtype)
    together: Spans = getattr(key, "spans", ())
    if len(together) > 1 and mask is not None:
        out = torch.cat(
            [
                scaled_dot_product_attention(
                    queries[first:end],
                    key[first:end, :, :length],
                    value[first:end, :, :length],
                    attn_mask=mask[first:end, ..., :length],
                    scale=scaling,
                )
                for first, end, length in together
            ]
        )
    else:
        out = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, width, size).transpose(1, 2), None


def grouped_mask(visible: Tensor, group_size: int, dtype: Any) -> Tensor:
    """What is added to the scores, made once for all layers.

    Args:
        visible: [B, T, L] bool, True where a query sees a key.
        groups: Query heads that share a key head.
        dtype: Of the scores.

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


class _BaseCache:
    """What transformers asks of a cache."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and mask are given with each call

    def get_mask_sizes(self, *arguments: Any) -> tuple[int, int]:
        return 0, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class PrefixCache(_BaseCache):
    """Keys and values of what all prompts begin with: of each layer [1, K, P, D]."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        self.layers[layer_idx] = (keys, values)
        return keys, values


class SlotCache(_BaseCache):
    """Keys and values of the slots: of each layer [slots, K, length, D], allocated as the layer is first used."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = 0
        self.allocations = 0  # of a layer's room; another number, another address
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._first_slot = self._num_prompts = self._start = (
            0  # slots of the prompts that are taken in, and tokens before them
        )
        self._prefix: PrefixCache | None = None
        self._positions: Tensor | None = None  # of a step: where each row writes; None while prompts are taken in
        self._indices_by_device: dict[
            Any, tuple[Tensor, Tensor]
        ] = {}  # rows and positions on each device, made once a step
        self._max_length = 0
        self._spans: Spans = ()

    def start_prefill(
        self, first_slot: int, num_prompts: int, prefix: PrefixCache | None, start: int, end: int
    ) -> None:
        """The next forward pass is over a piece of `count` prompts, for the slots from `first` on.

        Args:
            first: Slot of the first prompt.
            count: Number of prompts.
            prefix: What stands before them.
            start: Tokens of these prompts that are in their slots already, `prefix` included.
            end: Tokens that will be.
        """
        self._first_slot, self._num_prompts, self._prefix, self._start, self._positions = (
            first_slot,
            num_prompts,
            prefix,
            start,
            None,
        )
        self._max_length = end
        self.reserve(end)

    def start_step(self, positions: Tensor, max_length: int, spans: Spans = ()) -> None:
        """The next forward pass is a step over the first slots.

        Args:
            positions: [B] int64, where each row writes.
            longest: Keys that the longest row sees, its new one included.
            together: Which rows' attention is computed at once, on the CPU; none: that of all.
        """
        self._positions, self._max_length, self._spans = positions, max_length, spans
        self._indices_by_device.clear()
        self.reserve(max_length)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *rest: Any, **more: Any) -> tuple[Tensor, Tensor]:
        import torch

        stored = self.layers.get(layer_idx)
        if stored is None or stored[0].shape[2] < self.capacity:
            stored = self.layers[layer_idx] = self._reallocate(stored, keys)
        if self._positions is not None:
            count = len(self._positions)
            if keys.device not in self._indices_by_device:
                self._indices_by_device[keys.device] = (
                    torch.arange(count, device=keys.device),
                    self._positions.to(keys.device),
                )
            rows, at = self._indices_by_device[keys.device]
            for store, new in zip(stored, (keys, values), strict=True):
                store[rows, :, at] = new[:, :, 0]
            seen = stored[0][:count, :, : self._max_length], stored[1][:count, :, : self._max_length]
            if self._spans and keys.device.type == "cpu":
                seen[0].spans = self._spans  # type: ignore[attr-defined]  # `attend` gets this very tensor
            return seen
        slots = slice(self._first_slot, self._first_slot + self._num_prompts)
        for number, (store, new) in enumerate(zip(stored, (keys, values), strict=True)):
            if self._prefix is not None and self._start == self._prefix.length:
                store[slots, :, : self._start] = self._prefix.layers[layer_idx][number]
            store[slots, :, self._start : self._max_length] = new
        return stored[0][slots, :, : self._max_length], stored[1][slots, :, : self._max_length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot over another's."""
        for keys, values in self.layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def clear(self, slot: int) -> None:
        """Forget what a slot holds, numbers that are not finite too."""
        for keys, values in self.layers.values():
            keys[slot] = 0
            values[slot] = 0

    def resize(self, num_slots: int, length: int | None = None) -> None:
        """Another number of slots, the first ones kept; layer by layer, so that little is held twice.

        Args:
            num_slots: How many from now on.
            length: Tokens that the longest of the kept slots holds; None keeps the room that there is.
        """
        self.num_slots = num_slots
        if length is not None:
            self.capacity = -(-length // BUCKET) * BUCKET
        for layer_idx, stored in list(self.layers.items()):
            self.layers[layer_idx] = self._reallocate(stored, stored[0])

    def reserve(self, length: int) -> None:
        """Have room for so many tokens from the next forward pass on."""
        if length > self.capacity:
            self.capacity = -(-length // BUCKET) * BUCKET

    def _reallocate(self, stored: tuple[Tensor, Tensor] | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the present capacity, with what was stored. Zeros: masked keys must still be finite numbers."""
        import torch

        self.allocations += 1
        shape = (self.num_slots, like.shape[1], self.capacity, like.shape[3])
        new = tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        for old, room in zip(stored or (), new, strict=False):
            room[: len(old), :, : old.shape[2]] = old[: self.num_slots, :, : self.capacity]
        return new[0], new[1]
