"""Decoding steps with fixed addresses and shapes, so that a GPU can replay them as CUDA graphs without Python.

Everything that a step reads is in tensors allocated once: the newest token of each slot, its write position, its seed.
A step samples its tokens on the device, advances its own positions, and writes into a ring buffer that the host reads
every few steps. The host uploads the rows' state again only after a row was added, removed or moved. There is one graph
per bucket of slots and bucket of keys; both follow from the part alone, never from earlier parts. With the kernels of
`kernels/`, each row reads its own keys only, so there is one graph per bucket of slots. Slots without a row take part
too: they write only into their own storage, and their output is ignored.

Storage and graphs are kept from one part to the next; before storage is reallocated, the graphs are dropped. A step
that cannot be captured runs as in `model_runner.py`, with one warning. Not yet run on a GPU; on the CPU graphs are
emulated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import SampledTokens, from_ring, to_device
from hymt_batch.decode.graph import GraphBackend, Step, bucket_length, bucket_slots, make_backend
from hymt_batch.decode.known_layers import Layers
from hymt_batch.decode.model_runner import ModelRunner, token_logprobs
from hymt_batch.decode.noise import rng_keys, seed_as_int64
from hymt_batch.decode.sampling import SamplingParams, sample_on_device
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.errors import first_line
from hymt_batch.model.loaded_model import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NOT_CAPTURED = "not_captured"
"""Mark of a part that ran wholly or partly without captured steps although decode.capture=true."""

POSITION, ACTIVE, SEED, STEP, RING_INDEX = range(5)
"""Rows of the state tensor: write position, 1 if the slot has a row, seed, tokens so far, index in the ring buffer."""

DENSE_MODEL_TYPE = "hunyuan_v1_dense"


def unsupported_reason(hymt: LoadedModel, stages: int) -> str:
    """Return why steps of a loaded network cannot be captured; empty if no reason is known."""
    config = hymt.network.config
    devices = hymt.placement.devices if hymt.placement else (hymt.device,)
    if stages > 1 or len(devices) > 1:
        return "a CUDA graph covers one device, and this run uses several devices or several groups of slots"
    if str(getattr(config, "model_type", "")) != DENSE_MODEL_TYPE:
        return f"a network of type {config.model_type} selects its experts from values that the host must read"
    if getattr(config, "quantization_config", None):
        return "capture of quantised weights has not been verified"
    return ""


def with_first_error(error: BaseException) -> str:
    """Return the message of an error and of the first one in its chain.

    The end of a capture that failed raises an error of its own, which only says that the capture is invalid.
    """
    first: BaseException = error
    while first.__cause__ or first.__context__:
        first = first.__cause__ or first.__context__ or first
    return first_line(error) if first is error else f"{first_line(error)} (first error: {first_line(first)})"


class CudaGraphRunner(ModelRunner):
    """Runs the network over one group of slots at fixed addresses; one object serves all parts of a run."""

    def __init__(
        self,
        hymt: LoadedModel,
        sampling_params: SamplingParams,
        backend: GraphBackend | None = None,
        device_type: str = "",
        layers: Layers | None = None,
    ) -> None:
        super().__init__(hymt, sampling_params, 1, Counters(), logprobs=False, device_type=device_type, layers=layers)
        self.backend = make_backend(hymt.device) if backend is None else backend
        self.disabled_reason = ""  # why capture is off; empty if it is on
        self.read_every = 1
        self.graphs: dict[tuple[int, int, SamplingParams, bool], Step] = {}
        self.state: Tensor | None = None  # [5, slots] int64
        self.ring: Tensor | None = None  # [read_every, 3, slots] int64
        # slots that the current prompts asked for; earlier prompts may have left more storage
        self._requested_slots = 1
        self._captured_allocations = 0  # cache.allocations when the graphs were captured
        self._ring_index = 0  # index of the next step in the ring buffer
        self._num_synced = 0  # rows whose state is up to date on the device; 0 if it must be uploaded again

    def start(
        self,
        sampling_params: SamplingParams,
        counters: Counters,
        num_slots: int,
        max_length: int,
        *,
        max_tokens: int,
        read_every: int = 1,
        logprobs: bool = False,
    ) -> None:
        """Prepare for a new set of prompts, reusing buffers that are large enough; allocates nothing yet.

        Args:
            sampling_params: How a token is chosen.
            counters: Counters to update.
            num_slots: Minimum number of slots.
            max_length: Largest number of tokens that a slot may hold.
            max_tokens: Token limit over all slots; new buffers also fit earlier prompts if the limit allows it.
            read_every: Number of steps in the ring buffer.
            logprobs: True to keep the log-probabilities of chosen tokens.
        """
        self.sampling_params, self.counters, self.logprobs, self.prefix = sampling_params, counters, logprobs, None
        self._requested_slots = num_slots
        self._num_synced = 0
        if read_every != self.read_every:
            self.drop_graphs()
            self.read_every, self.ring = read_every, None
        slots, length = self.cache.num_slots, self.cache.capacity
        needed = self.slot_tokens(max_length)
        if slots >= num_slots and length >= needed:
            return
        self.release()
        if max(slots, num_slots) * max(length, needed) <= max_tokens:
            num_slots, needed = max(slots, num_slots), max(length, needed)
        self.cache = self._make_cache(num_slots)
        self.cache.reserve(needed)

    def slot_tokens(self, max_length: int) -> int:
        """Return the tokens of storage for a row of `max_length`: it runs on until the host has read its end token."""
        return bucket_length(max_length + self.read_every)

    def recreate(self, num_slots: int) -> ModelRunner:
        self.release()
        self.cache, self._requested_slots = self._make_cache(num_slots), num_slots
        return self

    def drop_graphs(self) -> None:
        """Drop the graphs; call this before the storage that they point to is reallocated."""
        if self.graphs:
            self.backend.release()
            self.graphs.clear()
        self._num_synced = 0

    def release(self) -> None:
        """Drop the graphs and free the storage."""
        self.drop_graphs()
        self.cache = self._make_cache(1)
        self.last_tokens = self.seen = self.state = self.ring = None

    def disable(self, reason: str) -> None:
        """Turn capture off; steps continue to run as in `model_runner.py`."""
        log.warning("decode.capture: capture is now off, and steps run one by one: %s", reason)
        self.disabled_reason = reason
        self.drop_graphs()

    def prefill(self, sequences: Sequence[SequenceState], first_slot: int) -> SampledTokens:
        self._num_synced = 0
        return super().prefill(sequences, first_slot)

    def move(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        self._num_synced = 0
        super().move(sources, targets, length)

    def resize(self, num_slots: int, length: int | None = None, max_length: int = 0) -> None:
        needed = self.slot_tokens(max_length)
        if length is None or self.cache.num_slots < num_slots or self.cache.capacity < needed:
            self.drop_graphs()
            super().resize(num_slots, None if length is None else max(length, needed))
        self._requested_slots = num_slots

    def step(self, sequences: Sequence[SequenceState]) -> SampledTokens:
        """Generate one more token for every row, by graph replay if a graph for these buckets exists."""
        if self.disabled_reason:
            return super().step(sequences)
        num_slots = bucket_slots(len(sequences), self._requested_slots)
        length = bucket_length(max(row.position for row in sequences) + 1)
        if length > self.cache.capacity or self.cache.allocations != self._captured_allocations:
            self.drop_graphs()
            self.cache.reserve(length)
        if self.layers is not None and not self.layers.needs_step_mask:
            length = self.cache.capacity  # each row reads its own keys only, so one graph serves all lengths
        num_synced, self._num_synced = self._num_synced, 0  # after a failed step the device's state is unknown
        if num_synced != len(sequences):
            self._sync_state(sequences)
        key = (num_slots, length, self.sampling_params, self.logprobs)
        if key in self.graphs:
            self.graphs[key]()
            self.counters.replays += 1
        else:
            self._capture(key)
        assert self.ring is not None
        sampled = from_ring(sequences, self.ring, self._ring_index, logprobs=self.logprobs)
        self._num_synced, self._ring_index = len(sequences), (self._ring_index + 1) % self.read_every
        for row in sequences:
            row.num_unread += 1
        self.count_step(len(sequences))
        return sampled

    def _capture(self, key: tuple[int, int, SamplingParams, bool]) -> None:
        """Run one normal step as the warm-up, then capture it for later replays.

        Raises:
            torch.OutOfMemoryError: The step did not fit. If only the capture fails, capture is turned off instead.
        """

        def step() -> None:
            self.run_step(*key[:2])

        self.backend.warm_up(step)
        self._captured_allocations = self.cache.allocations
        try:
            self.graphs[key] = self.backend.capture(step)
            self.counters.captures += 1
        except RuntimeError as error:
            self.disable(with_first_error(error))

    def run_step(self, num_slots: int, length: int) -> None:
        """Run one step. All its inputs and outputs are at fixed addresses, and it never synchronises with the host.

        Args:
            num_slots: Number of slots that take part, from the first one on.
            length: Keys per slot; a row sees those up to its own position.
        """
        import torch

        state, last, ring = self.state, self.last_tokens, self.ring
        assert state is not None
        assert last is not None
        assert ring is not None
        positions = state[POSITION, :num_slots]
        self.cache.start_step(positions, length)
        visible = self._visible_in_step(positions, length)
        logits, finite = self._logits(
            self._hidden_states(last[:num_slots, None], visible, positions[:, None], self.cache)[:, -1]
        )
        seen = (
            self.seen[:num_slots] if self.seen is not None and self.sampling_params.repetition_penalty != 1.0 else None
        )
        noise = rng_keys(state[SEED, :num_slots], state[STEP, :num_slots]) if self.sampling_params.do_sample else None
        tokens = sample_on_device(logits, seen, self.sampling_params, noise)
        logprobs = (
            token_logprobs(logits, tokens).double().view(torch.int64) if self.logprobs else torch.zeros_like(tokens)
        )
        written = torch.stack([tokens, finite.long(), logprobs])[None]
        # nothing below allocates: a step that runs out of memory leaves all state unchanged
        if seen is not None:
            seen.scatter_(1, tokens[:, None], True)
        last[:num_slots].copy_(tokens)
        ring[:, :, :num_slots].index_copy_(0, state[RING_INDEX, :1], written)
        state[POSITION, :num_slots].add_(state[ACTIVE, :num_slots])
        state[STEP, :num_slots].add_(state[ACTIVE, :num_slots])
        state[RING_INDEX, :1].add_(1).remainder_(self.read_every)

    def _sync_state(self, sequences: Sequence[SequenceState]) -> None:
        """Upload the state of the rows in the first slots: position, seed, number of tokens."""
        import torch

        assert self.state is not None
        state = torch.zeros(self.state.shape, dtype=torch.int64)
        state[POSITION, : len(sequences)] = torch.tensor([row.position for row in sequences])
        state[ACTIVE, : len(sequences)] = 1
        state[SEED, : len(sequences)] = torch.tensor([seed_as_int64(row.seed) for row in sequences])
        state[STEP, : len(sequences)] = torch.tensor([row.num_new_tokens for row in sequences])
        state[RING_INDEX, 0] = self._ring_index
        self.state.copy_(to_device(state, self.state.device))

    def _allocate_state(self) -> None:
        """Allocate the slots' state and the ring buffer too; called before the first step over this many slots."""
        import torch

        super()._allocate_state()
        num, device = self.cache.num_slots, self.hymt.device
        if self.state is None or self.state.shape[1] < num:
            self.state = torch.zeros(5, num, dtype=torch.int64, device=device)
        if self.ring is None or self.ring.shape[2] < num:
            self.ring = torch.zeros(self.read_every, 3, num, dtype=torch.int64, device=device)
            self._ring_index = 0
