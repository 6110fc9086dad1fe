"""Steps whose every address and shape stays as it is, so that a GPU can run them again without Python.

All that a step reads stands in tensors made once: the newest token of each slot, where it writes, its seed. It chooses
its tokens on the device, moves its own positions on, and writes into a ring that the host reads every few steps. The
host says anew where rows stand only when rows came, went or moved. There is a graph for each number of slots and
length of keys that occurs, out of few; slots without a row take part: they write into themselves, and nobody reads it.

Kept from one part to the next, graphs too. What moves the storage gives the graphs up first. Whatever cannot be
captured runs as in `forward.py`, and says so once. Never run on a GPU yet; on the CPU graphs are pretended.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hymt_batch.decode.cache import SlotCache
from hymt_batch.decode.forward import Forward, logprobs_of
from hymt_batch.decode.graph import Backend, Step, backend, length_of, slots_of
from hymt_batch.decode.reading import Chosen, in_ring, sent
from hymt_batch.decode.rows import Counters, Row
from hymt_batch.decode.sampling import Choice, choose_by, counters_of, signed_seed
from hymt_batch.model.network import Hymt

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

MARK = "not_captured"
"""How a part is marked that was begun with captured steps, and went on without."""

AT, ON, SEED, STEP, PLACE = range(5)
"""Rows of the state: where a slot writes, whether it has a row, its seed, its tokens so far, and the ring's place."""

DENSE = "hunyuan_v1_dense"


def why_not(hymt: Hymt, stages: int) -> str:
    """Why steps of a loaded network cannot be captured; empty where they can, by all that is known."""
    config = hymt.network.config
    devices = hymt.placement.devices if hymt.placement else (hymt.device,)
    if stages > 1 or len(devices) > 1:
        return "a graph is of one device, and here are several, or several groups of slots"
    if str(getattr(config, "model_type", "")) != DENSE:
        return f"a network of type {config.model_type} chooses its experts by what the host is told"
    if getattr(config, "quantization_config", None):
        return "quantised weights are unpacked in ways that were not looked at"
    return ""


class Captured(Forward):
    """The network over one group of slots, at addresses that stay. One for all parts of a run."""

    def __init__(self, hymt: Hymt, choice: Choice, own: Backend | None = None) -> None:
        super().__init__(hymt, choice, 1, Counters(), logprobs=False)
        self.backend = backend(hymt.device) if own is None else own
        self.refused = ""  # why nothing is captured any more
        self.read_every = 1
        self.replays: dict[tuple[int, int, Choice, bool], Step] = {}
        self.state: Tensor | None = None  # [5, slots] int64
        self.ring: Tensor | None = None  # [read_every, 3, slots] int64
        self._allocations = 0  # of the cache, when its graphs were captured
        self._place = 0  # of the next step in the ring
        self._told = 0  # rows that the device knows the places of; 0: it must be told anew

    def begin(
        self,
        choice: Choice,
        counters: Counters,
        num_slots: int,
        width: int,
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
        self.choice, self.counters, self.logprobs, self.prefix = choice, counters, logprobs, None
        self._told = 0
        if read_every != self.read_every:
            self.drop()
            self.read_every, self.ring = read_every, None
        slots, length = self.cache.num_slots, self.cache.capacity
        wanted = self.room(width)
        if slots >= num_slots and length >= wanted:
            return
        self.forget()
        if max(slots, num_slots) * max(length, wanted) <= max_tokens:
            num_slots, wanted = max(slots, num_slots), max(length, wanted)
        self.cache = SlotCache(num_slots)
        self.cache.reserve(wanted)

    def room(self, width: int) -> int:
        """Tokens of storage that a row of so many takes: steps go on until the host knows of its end."""
        return length_of(width + self.read_every)

    def anew(self, num_slots: int) -> Forward:
        self.forget()
        self.cache = SlotCache(num_slots)
        return self

    def drop(self) -> None:
        """Give the graphs up, before what they point to moves."""
        if self.replays:
            self.backend.forget()
            self.replays.clear()
        self._told = 0

    def forget(self) -> None:
        """Give graphs and storage up."""
        self.drop()
        self.cache = SlotCache(1)
        self.last = self.seen = self.state = self.ring = None

    def refuse(self, reason: str) -> None:
        """Capture nothing any more; steps go on as in `forward.py`."""
        log.warning("decode.capture: steps are not captured any more, but run one by one: %s", reason)
        self.refused = reason
        self.drop()

    def prefill(self, rows: Sequence[Row], first: int) -> Chosen:
        self._told = 0
        return super().prefill(rows, first)

    def move(self, source: int, target: int, length: int) -> None:
        self._told = 0
        super().move(source, target, length)

    def resize(self, num_slots: int, length: int | None = None, widest: int = 0) -> None:
        wanted = self.room(widest)
        if length is not None and self.cache.num_slots >= num_slots and self.cache.capacity >= wanted:
            return  # more slots are wanted, and are there
        self.drop()
        super().resize(num_slots, None if length is None else max(length, wanted))

    def step(self, rows: Sequence[Row]) -> Chosen:
        """Give every row one more token, by a graph if there is one for so many rows of such lengths."""
        if self.refused:
            return super().step(rows)
        number = slots_of(len(rows), self.cache.num_slots)
        length = length_of(max(row.position for row in rows) + 1)
        if length > self.cache.capacity or self.cache.allocations != self._allocations:
            self.drop()
            self.cache.reserve(length)
        told, self._told = self._told, 0  # a step that fails leaves the device's state unknown
        if told != len(rows):
            self._tell(rows)
        key = (number, length, self.choice, self.logprobs)
        if key in self.replays:
            self.replays[key]()
            self.counters.replays += 1
        else:
            self._first(key)
        assert self.ring is not None
        chosen = in_ring(rows, self.ring, self._place, logprobs=self.logprobs)
        self._told, self._place = len(rows), (self._place + 1) % self.read_every
        for row in rows:
            row.unread += 1
        self.count(len(rows))
        return chosen

    def _first(self, key: tuple[int, int, Choice, bool]) -> None:
        """Run a step that is to be captured, which is a step like any; then capture it for the next ones.

        Raises:
            torch.OutOfMemoryError: The step did not fit. What the capture lacks only ends the capturing.
        """

        def step() -> None:
            self.run(*key[:2])

        self.backend.warm_up(step)
        self._allocations = self.cache.allocations
        try:
            self.replays[key] = self.backend.capture(step)
            self.counters.captures += 1
        except RuntimeError as error:
            self.refuse(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def run(self, number: int, length: int) -> None:
        """The step itself. Every tensor that it takes or leaves has its place, and the host is asked for nothing.

        Args:
            number: Slots that take part, the first ones.
            length: Keys of each, of which a row sees those up to its own.
        """
        import torch

        state, last, ring = self.state, self.last, self.ring
        assert state is not None
        assert last is not None
        assert ring is not None
        at = state[AT, :number]
        self.cache.write_at(at, length)
        visible = torch.arange(length, device=at.device)[None, None, :] <= at[:, None, None]
        logits, finite = self._logits(self._run(last[:number, None], visible, at[:, None], self.cache)[:, -1])
        seen = self.seen[:number] if self.seen is not None and self.choice.repetition_penalty != 1.0 else None
        noise = counters_of(state[SEED, :number], state[STEP, :number]) if self.choice.sample else None
        chosen = choose_by(logits, seen, self.choice, noise)
        logprobs = logprobs_of(logits, chosen).double().view(torch.int64) if self.logprobs else torch.zeros_like(chosen)
        written = torch.stack([chosen, finite.long(), logprobs])[None]
        # below nothing is allocated: a step that runs out of memory has changed nothing that is read
        if seen is not None:
            seen.scatter_(1, chosen[:, None], True)
        last[:number].copy_(chosen)
        ring[:, :, :number].index_copy_(0, state[PLACE, :1], written)
        state[AT, :number].add_(state[ON, :number])
        state[STEP, :number].add_(state[ON, :number])
        state[PLACE, :1].add_(1).remainder_(self.read_every)

    def _tell(self, rows: Sequence[Row]) -> None:
        """Tell the device which rows stand in the first slots, and how far each is."""
        import torch

        assert self.state is not None
        state = torch.zeros(self.state.shape, dtype=torch.int64)
        state[AT, : len(rows)] = torch.tensor([row.position for row in rows])
        state[ON, : len(rows)] = 1
        state[SEED, : len(rows)] = torch.tensor([signed_seed(row.seed) for row in rows])
        state[STEP, : len(rows)] = torch.tensor([row.num_new for row in rows])
        state[PLACE, 0] = self._place
        self.state.copy_(sent(state, self.state.device))

    def _room(self) -> None:
        """Likewise for the state of the slots, and for the ring. Called before any step over so many slots."""
        import torch

        super()._room()
        num, device = self.cache.num_slots, self.hymt.device
        if self.state is None or self.state.shape[1] < num:
            self.state = torch.zeros(5, num, dtype=torch.int64, device=device)
        if self.ring is None or self.ring.shape[2] < num:
            self.ring = torch.zeros(self.read_every, 3, num, dtype=torch.int64, device=device)
            self._place = 0
