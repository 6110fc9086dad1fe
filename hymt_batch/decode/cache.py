"""The keys and values of the running slots, stored per layer on that layer's device, and attention over them.

Grouped-query attention without copied keys: the query heads that share a key head become extra queries. Implements the
part of transformers' cache interface that its decoder layers use, in 4.56 and 5.x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ATTENTION_NAME = "hymt_slots"
BUCKET = 64
"""The capacity of the slots grows in multiples of this many tokens."""

SPAN_ROWS = 8
"""Number of neighbouring rows in a span, whose attention is computed together on the CPU; spans may be merged."""

MAX_SPAN_PADDING = 1.1
"""Two neighbouring spans are merged if the merged work is at most this many times the separate work."""

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
    from torch.nn.functional import scaled_dot_product_attention

    rows, heads, width, size = query.shape
    queries = query.reshape(rows, key.shape[1], heads // key.shape[1] * width, size)
    mask = attention_mask if attention_mask is None else attention_mask.to(query.dtype)
    spans: Spans = getattr(key, "spans", ())
    if len(spans) > 1 and mask is not None:
        out = torch.cat(
            [
                scaled_dot_product_attention(
                    queries[first:end],
                    key[first:end, :, :length],
                    value[first:end, :, :length],
                    attn_mask=mask[first:end, ..., :length],
                    scale=scaling,
                )
                for first, end, length in spans
            ]
        )
    else:
        out = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(rows, heads, width, size).transpose(1, 2), None


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


class _BaseCache:
    """The cache interface that transformers calls."""

    is_compileable = False
    is_sliding: tuple[bool, ...] = ()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # each call passes its positions and mask

    def get_mask_sizes(self, *arguments: Any) -> tuple[int, int]:
        return 0, 0

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        return -1

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class PrefixCache(_BaseCache):
    """Keys and values of the common prefix of all prompts; per layer [1, K, P, D]."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        self.layers[layer_idx] = (keys, values)
        return keys, values


class SlotCache(_BaseCache):
    """Keys and values of the slots; per layer [slots, K, length, D], allocated when the layer is first used."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.capacity = 0
        self.allocations = 0  # number of times that layer storage was allocated; each time its addresses change
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        # during prefill: first slot, number of prompts, tokens already in their slots
        self._first_slot = self._num_prompts = self._start = 0
        self._prefix: PrefixCache | None = None
        self._positions: Tensor | None = None  # in a step: position at which each row writes; None during prefill
        # row indices and positions per device, built once per step
        self._indices_by_device: dict[Any, tuple[Tensor, Tensor]] = {}
        self._max_length = 0
        self._spans: Spans = ()

    def start_prefill(
        self, first_slot: int, num_prompts: int, prefix: PrefixCache | None, start: int, end: int
    ) -> None:
        """Prepare for a forward pass over one chunk of `num_prompts` prompts, in the slots from `first_slot` on.

        Args:
            first_slot: Slot of the first prompt.
            num_prompts: Number of prompts.
            prefix: Keys and values of their common prefix, if any.
            start: Tokens of these prompts already in their slots, `prefix` included.
            end: Tokens in their slots after the pass.
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
        """Prepare for a forward pass that is a step over the first B slots.

        Args:
            positions: [B] int64, the position at which each row writes.
            max_length: Number of keys that the longest row sees, including its new one.
            spans: Rows whose attention is computed together on the CPU; empty: all rows at once.
        """
        self._positions, self._max_length, self._spans = positions, max_length, spans
        self._indices_by_device.clear()
        self.reserve(max_length)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
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
            rows, positions = self._indices_by_device[keys.device]
            for store, new in zip(stored, (keys, values), strict=True):
                store[rows, :, positions] = new[:, :, 0]
            seen = stored[0][:count, :, : self._max_length], stored[1][:count, :, : self._max_length]
            if self._spans and keys.device.type == "cpu":
                seen[0].spans = self._spans  # type: ignore[attr-defined]  # `attend` receives this tensor object
            return seen
        slots = slice(self._first_slot, self._first_slot + self._num_prompts)
        for index, (store, new) in enumerate(zip(stored, (keys, values), strict=True)):
            if self._prefix is not None and self._start == self._prefix.length:
                store[slots, :, : self._start] = self._prefix.layers[layer_idx][index]
            store[slots, :, self._start : self._max_length] = new
        return stored[0][slots, :, : self._max_length], stored[1][slots, :, : self._max_length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to slot `target`."""
        for keys, values in self.layers.values():
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]

    def clear(self, slot: int) -> None:
        """Zero a slot, which also removes non-finite numbers."""
        for keys, values in self.layers.values():
            keys[slot] = 0
            values[slot] = 0

    def resize(self, num_slots: int, length: int | None = None) -> None:
        """Change the number of slots and keep the first ones; works layer by layer to limit peak memory.

        Args:
            num_slots: The new number of slots.
            length: Tokens in the longest kept slot; None keeps the current capacity.
        """
        self.num_slots = num_slots
        if length is not None:
            self.capacity = -(-length // BUCKET) * BUCKET
        for layer_idx, stored in list(self.layers.items()):
            self.layers[layer_idx] = self._reallocate(stored, stored[0])

    def reserve(self, length: int) -> None:
        """Raise the capacity to at least `length` tokens per slot, from the next forward pass on."""
        if length > self.capacity:
            self.capacity = -(-length // BUCKET) * BUCKET

    def _reallocate(self, stored: tuple[Tensor, Tensor] | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """Allocate storage of the current capacity, zeroed since masked keys must be finite, and copy the old data."""
        import torch

        self.allocations += 1
        shape = (self.num_slots, like.shape[1], self.capacity, like.shape[3])
        new = tuple(torch.zeros(shape, dtype=like.dtype, device=like.device) for _ in range(2))
        for old, storage in zip(stored or (), new, strict=False):
            storage[: len(old), :, : old.shape[2]] = old[: self.num_slots, :, : self.capacity]
        return new[0], new[1]
