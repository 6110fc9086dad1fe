"""Steps whose every address and shape stays as it is, so that a GPU can run them again without Python.

All that a step reads stands in tensors made once: the newest token of each slot, where it writes, its seed. It chooses
its tokens on the device, moves its own positions on, and writes into a ring that the host reads every few steps. The
host says anew where rows stand only when rows came, went or moved. There is a graph for each number of slots and
length of keys that occurs, out of few; slots without a row take part: they write into themselves, and nobody reads it.

Kept from one part to the next, graphs too. What moves the storage gives the graphs up first. Whatever cannot be
captured runs as in `model_runner.py`, and says so once. Never run on a GPU yet; on the CPU graphs are pretended.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hymt_batch.decode.async_copy import SampledTokens, from_ring, to_device
from hymt_batch.decode.cache import SlotCache
from hymt_batch.decode.graph import GraphBackend, Step, bucket_length, bucket_slots, make_backend
from hymt_batch.decode.model_runner import ModelRunner, token_logprobs
from hymt_batch.decode.sampling import SamplingParams, rng_keys, sample_on_device, seed_as_int64
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.model.prepare import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NOT_CAPTURED = "not_captured"
"""How a part is marked that was begun with captured steps, and went on without."""

POSITION, ACTIVE, SEED, STEP, RING_INDEX = range(5)
"""Rows of the state: where a slot writes, whether it has a row, its seed, its tokens so far, and the ring's place."""

DENSE_MODEL_TYPE = "hunyuan_v1_dense"


def unsupported_reason(hymt: LoadedModel, stages: int) -> str:
    """Why steps of a loaded network cannot be captured; empty where they can, by all that is known."""
    config = hymt.network.config
    devices = hymt.placement.devices if hymt.placement else (hymt.device,)
    if stages > 1 or len(devices) > 1:
        return "a graph is of one device, and here are several, or several groups of slots"
    if str(getattr(config, "model_type", "")) != DENSE_MODEL_TYPE:
        return f"a network of type {config.model_type} chooses its experts by what the host is told"
    if getattr(config, "quantization_config", None):
        return "quantised weights are unpacked in ways that were not looked at"
    return ""


class CudaGraphRunner(ModelRunner):
    """The network over one group of slots, at addresses that stay. One for all parts of a run."""

    def __init__(self, hymt: LoadedModel, sampling_params: SamplingParams, backend: GraphBackend | None = None) -> None:
        super().__init__(hymt, sampling_params, 1, Counters(), logprobs=False)
        self.backend = make_backend(hymt.device) if backend is None else backend
        self.disabled_reason = ""  # why nothing is captured any more
        self.read_every = 1
        self.graphs: dict[tuple[int, int, SamplingParams, bool], Step] = {}
        self.state: Tensor | None = None  # [5, slots] int64
        self.ring: Tensor | None = None  # [read_every, 3, slots] int64
        self._captured_allocations = 0  # of the cache, when its graphs were captured
        self._ring_index = 0  # of the next step in the ring
        self._num_synced = 0  # rows that the device knows the places of; 0: it must be told anew

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
        """Take other prompts on. What is there is kept where it has the room; nothing is allocated yet.

        Args:
            choice: How a token is chosen.
            counters: Where to count.
            num_slots: Slots, at least.
            width: Tokens that a slot may come to hold.
            max_tokens: Of all slots together; to have room for these prompts and for those before, if both fit.
            read_every: Steps in the ring.
            logprobs: Whether the logarithms of probabilities are kept.
        """
        self.sampling_params, self.counters, self.logprobs, self.prefix = sampling_params, counters, logprobs, None
        self._num_synced = 0
        if read_every != self.read_every:
            self.drop_graphs()
            self.read_every, self.ring = read_every, None
        slots, length = self.cache.num_slots, self.cache.capacity
        wanted = self.slot_tokens(max_length)
        if slots >= num_slots and length >= wanted:
            return
        self.release()
        if max(slots, num_slots) * max(length, wanted) <= max_tokens:
            num_slots, wanted = max(slots, num_slots), max(length, wanted)
        self.cache = SlotCache(num_slots)
        self.cache.reserve(wanted)

    def slot_tokens(self, max_length: int) -> int:
        """Tokens of storage that a row of so many takes: steps go on until the host knows of its end."""
        return bucket_length(max_length + self.read_every)

    def recreate(self, num_slots: int) -> ModelRunner:
        self.release()
        self.cache = SlotCache(num_slots)
        return self

    def drop_graphs(self) -> None:
        """Give the graphs up, before what they point to moves."""
        if self.graphs:
            self.backend.release()
            self.graphs.clear()
        self._num_synced = 0

    def release(self) -> None:
        """Give graphs and storage up."""
        self.drop_graphs()
        self.cache = SlotCache(1)
        self.last_tokens = self.seen = self.state = self.ring = None

    def disable(self, reason: str) -> None:
        """Capture nothing any more; steps go on as in `model_runner.py`."""
        log.warning("decode.capture: steps are not captured any more, but run one by one: %s", reason)
        self.disabled_reason = reason
        self.drop_graphs()

    def prefill(self, sequences: Sequence[SequenceState], first_slot: int) -> SampledTokens:
        self._num_synced = 0
        return super().prefill(sequences, first_slot)

    def move(self, source: int, target: int, length: int) -> None:
        self._num_synced = 0
        super().move(source, target, length)

    def resize(self, num_slots: int, length: int | None = None, max_length: int = 0) -> None:
        wanted = self.slot_tokens(max_length)
        if length is not None and self.cache.num_slots >= num_slots and self.cache.capacity >= wanted:
            return  # more slots are wanted, and are there
        self.drop_graphs()
        super().resize(num_slots, None if length is None else max(length, wanted))

    def step(self, sequences: Sequence[SequenceState]) -> SampledTokens:
        """Give every row one more token, by a graph if there is one for so many rows of such lengths."""
        if self.disabled_reason:
            return super().step(sequences)
        number = bucket_slots(len(sequences), self.cache.num_slots)
        length = bucket_length(max(row.position for row in sequences) + 1)
        if length > self.cache.capacity or self.cache.allocations != self._captured_allocations:
            self.drop_graphs()
            self.cache.reserve(length)
        told, self._num_synced = self._num_synced, 0  # a step that fails leaves the device's state unknown
        if told != len(sequences):
            self._sync_state(sequences)
        key = (number, length, self.sampling_params, self.logprobs)
        if key in self.graphs:
            self.graphs[key]()
            self.counters.replays += 1
        else:
            self._capture(key)
        assert self.ring is not None
        chosen = from_ring(sequences, self.ring, self._ring_index, logprobs=self.logprobs)
        self._num_synced, self._ring_index = len(sequences), (self._ring_index + 1) % self.read_every
        for row in sequences:
            row.num_unread += 1
        self.count_step(len(sequences))
        return chosen

    def _capture(self, key: tuple[int, int, SamplingParams, bool]) -> None:
        """Run a step that is to be captured, which is a step like any; then capture it for the next ones.

        Raises:
            torch.OutOfMemoryError: The step did not fit. What the capture lacks only ends the capturing.
        """

        def step() -> None:
            self.run_step(*key[:2])

        self.backend.warm_up(step)
        self._captured_allocations = self.cache.allocations
        try:
            self.graphs[key] = self.backend.capture(step)
            self.counters.captures += 1
        except RuntimeError as error:
            self.disable(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def run_step(self, num_slots: int, length: int) -> None:
        """The step itself. Every tensor that it takes or leaves has its place, and the host is asked for nothing.

        Args:
            number: Slots that take part, the first ones.
            length: Keys of each, of which a row sees those up to its own.
        """
        import torch

        state, last, ring = self.state, self.last_tokens, self.ring
        assert state is not None
        assert last is not None
        assert ring is not None
        at = state[POSITION, :num_slots]
        self.cache.start_step(at, length)
        visible = torch.arange(length, device=at.device)[None, None, :] <= at[:, None, None]
        logits, finite = self._logits(
            self._hidden_states(last[:num_slots, None], visible, at[:, None], self.cache)[:, -1]
        )
        seen = (
            self.seen[:num_slots] if self.seen is not None and self.sampling_params.repetition_penalty != 1.0 else None
        )
        noise = rng_keys(state[SEED, :num_slots], state[STEP, :num_slots]) if self.sampling_params.do_sample else None
        chosen = sample_on_device(logits, seen, self.sampling_params, noise)
        logprobs = (
            token_logprobs(logits, chosen).double().view(torch.int64) if self.logprobs else torch.zeros_like(chosen)
        )
        written = torch.stack([chosen, finite.long(), logprobs])[None]
        # below nothing is allocated: a step that runs out of memory has changed nothing that is read
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        last[:num_slots].copy_(chosen)
        ring[:, :, :num_slots].index_copy_(0, state[RING_INDEX, :1], written)
        state[POSITION, :num_slots].add_(state[ACTIVE, :num_slots])
        state[STEP, :num_slots].add_(state[ACTIVE, :num_slots])
        state[RING_INDEX, :1].add_(1).remainder_(self.read_every)

    def _sync_state(self, sequences: Sequence[SequenceState]) -> None:
        """Tell the device which rows stand in the first slots, and how far each is."""
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
        """Likewise for the state of the slots, and for the ring. Called before any step over so many slots."""
        import torch

        super()._allocate_state()
        num, device = self.cache.num_slots, self.hymt.device
        if self.state is None or self.state.shape[1] < num:
            self.state = torch.zeros(5, num, dtype=torch.int64, device=device)
        if self.ring is None or self.ring.shape[2] < num:
            self.ring = torch.zeros(self.read_every, 3, num, dtype=torch.int64, device=device)
            self._ring_index = 0
