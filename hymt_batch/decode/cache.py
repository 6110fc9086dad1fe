"""The keys and values of the running slots and of the common prefix, on the devices of their layers.

Implements the part of transformers' cache interface that its decoder layers use, in 4.56 and 5.x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hymt_batch.decode.async_copy import to_device
from hymt_batch.decode.slot_attention import Spans

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 64
"""The capacity of the slots grows in multiples of this many tokens."""


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

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids  # [P] int64, on the device of the input tokens
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2]

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *arguments: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        # not a view, which would keep the queries of the prefix too, where they are one product with the values
        self.layers[layer_idx] = (keys.contiguous(), values.contiguous())
        return keys, values


class SlotCache(_BaseCache):
    """Keys and values of the slots, in blocks of layers; a block is allocated when its first layer is first used.

    A block is [layers, 2, slots, K, length, D]. On one GPU it has all layers, so that moving rows is one copy; else one
    layer, so that resizing needs little more memory. `layers` are views of the blocks, [slots, K, length, D].
    """

    def __init__(self, num_slots: int, layers_per_block: int = 1) -> None:
        self.num_slots, self.layers_per_block = num_slots, layers_per_block
        self.capacity = 0
        self.allocations = 0  # number of times that a block was allocated; each time its addresses change
        self.blocks: dict[int, Tensor] = {}
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

        stored = self.prepare_layer(layer_idx, keys)
        if self._positions is not None:
            count = len(self._positions)
            if keys.device not in self._indices_by_device:
                self._indices_by_device[keys.device] = (
                    torch.arange(count, device=keys.device),
                    self._positions.to(keys.device, non_blocking=True),
                )
            rows, positions = self._indices_by_device[keys.device]
            for store, new in zip(stored, (keys, values), strict=True):
                store[rows, :, positions] = new[:, :, 0]
            seen = stored[0][:count, :, : self._max_length], stored[1][:count, :, : self._max_length]
            if self._spans and keys.device.type == "cpu":
                seen[0].spans = self._spans  # type: ignore[attr-defined]  # `attend` receives this tensor object
            return seen
        slots = slice(self._first_slot, self._first_slot + self._num_prompts)
        for store, new in zip(stored, (keys, values), strict=True):
            store[slots, :, self._start : self._max_length] = new
        return self.prefilled(layer_idx)

    @property
    def first_slot(self) -> int:
        """Slot of the first row of the forward pass."""
        return self._first_slot if self._positions is None else 0

    def prepare_layer(self, layer_idx: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the storage of a layer, each [slots, K, length, D], into which a forward pass may write.

        It is large enough, and in the first chunk of a prefill the common prefix is already there.

        Args:
            layer_idx: Index of the layer.
            like: [B, K, T, D]: a tensor of keys, see `_reallocate`.
        """
        stored = self.layers.get(layer_idx)
        if stored is None or stored[0].shape[2] < self.capacity:
            self._reallocate(layer_idx // self.layers_per_block, like)
            stored = self.layers[layer_idx]
        if self._positions is None and self._prefix is not None and self._start == self._prefix.length:
            slots = slice(self._first_slot, self._first_slot + self._num_prompts)
            for store, prefix in zip(stored, self._prefix.layers[layer_idx], strict=True):
                store[slots, :, : self._start] = prefix
        return stored

    def prefilled(self, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of the prompts of a prefill, up to the end of the chunk."""
        slots = slice(self._first_slot, self._first_slot + self._num_prompts)
        keys, values = self.layers[layer_idx]
        return keys[slots, :, : self._max_length], values[slots, :, : self._max_length]

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of the slots `sources` to the slots `targets`; no slot is both.

        Args:
            sources: [N] int64, on the host or on the only device.
            targets: [N] int64.
            length: Tokens of the longest of these rows.
        """
        for block in self.blocks.values():
            tokens = block[:, :, :, :, :length]
            device = block.device
            tokens[:, :, to_device(targets, device)] = tokens[:, :, to_device(sources, device)]

    def clear(self, slot: int) -> None:
        """Zero a slot, which also removes non-finite numbers."""
        for block in self.blocks.values():
            block[:, :, slot] = 0

    def resize(self, num_slots: int, length: int | None = None) -> None:
        """Change the number of slots and keep the first ones; works block by block to limit peak memory.

        Args:
            num_slots: The new number of slots.
            length: Tokens in the longest kept slot; None keeps the current capacity.

        Raises:
            torch.OutOfMemoryError: The new storage does not fit; the number of slots is as before.
        """
        before = self.num_slots, self.capacity
        self.num_slots = num_slots
        if length is not None:
            self.capacity = -(-length // BUCKET) * BUCKET
        try:
            for index, block in list(self.blocks.items()):
                self._reallocate(index, block[0, 0])
        except BaseException:
            self.num_slots, self.capacity = before
            raise

    def reserve(self, length: int) -> None:
        """Raise the capacity to at least `length` tokens per slot, from the next forward pass on."""
        if length > self.capacity:
            self.capacity = -(-length // BUCKET) * BUCKET

    def _reallocate(self, index: int, like: Tensor) -> None:
        """Allocate a block of the current capacity, zeroed since masked keys must be finite, and copy the old data.

        Args:
            index: Index of the block.
            like: [B, K, T, D]: a tensor of keys, for the number of heads, their size, the data type and the device.
        """
        import torch

        self.allocations += 1
        shape = (self.layers_per_block, 2, self.num_slots, like.shape[1], self.capacity, like.shape[3])
        new = torch.zeros(shape, dtype=like.dtype, device=like.device)
        old = self.blocks.get(index)
        if old is not None:
            kept = old[:, :, : self.num_slots, :, : self.capacity]
            new[:, :, : kept.shape[2], :, : kept.shape[4]] = kept
        self.blocks[index] = new
        for offset in range(self.layers_per_block):
            self.layers[index * self.layers_per_block + offset] = new[offset, 0], new[offset, 1]
