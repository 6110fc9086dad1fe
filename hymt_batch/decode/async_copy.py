"""Copies between the host and a GPU for which neither waits longer than it must: by pinned memory, begun at once.

On the CPU these are plain copies. Never run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.sequence import SequenceState

if TYPE_CHECKING:
    from torch import Tensor

TOKEN, FINITE, LOGPROB = range(3)
"""Places in the second dimension of a ring; a logarithm stands there as the bits of a float64."""


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """Tokens of one pass, not read yet: of each row [B]."""

    sequences: tuple[SequenceState, ...]
    tokens: Tensor  # int64
    finite: Tensor  # bool, or int64 of 0 and 1
    logprobs: Tensor | None  # float32 or float64
    ring: Tensor | None = None  # [steps, 3, slots] int64, of which these are slices; None where they stand alone
    ring_index: int = 0  # in the ring


def from_ring(sequences: Sequence[SequenceState], ring: Tensor, ring_index: int, *, logprobs: bool) -> SampledTokens:
    """What a step wrote at a place of its ring."""
    import torch

    here = ring[ring_index, :, : len(sequences)]
    own = here[LOGPROB].view(torch.float64) if logprobs else None
    return SampledTokens(tuple(sequences), here[TOKEN], here[FINITE], own, ring, ring_index)


class AsyncCopy:
    """Tokens on their way to the host: the copies begin as this is made, behind what the GPU was given before."""

    def __init__(self, sampled: Sequence[SampledTokens]) -> None:
        self.sampled = tuple(sampled)
        self._copies: dict[int, Tensor] = {}  # of each tensor, a ring once for all that stand in it
        self._events: dict[Any, Any] = {}
        for one in self.sampled:
            alone = [one.tokens, one.finite, *([] if one.logprobs is None else [one.logprobs])]
            for tensor in alone if one.ring is None else [one.ring]:
                if id(tensor) not in self._copies:
                    self._copies[id(tensor)] = self._start_copy(tensor)
        for device in self._events:
            self._events[device] = _record_event(device)

    def wait(self) -> list[SampledTokens]:
        """The same on the host. Waits for the copies, and for nothing that the GPU was given after them."""
        for event in self._events.values():
            event.synchronize()
        arrived = []
        for one in self.sampled:
            if one.ring is not None:
                copied = self._copies[id(one.ring)]
                arrived.append(from_ring(one.sequences, copied, one.ring_index, logprobs=one.logprobs is not None))
                continue
            logprobs = None if one.logprobs is None else self._copies[id(one.logprobs)]
            arrived.append(
                SampledTokens(one.sequences, self._copies[id(one.tokens)], self._copies[id(one.finite)], logprobs)
            )
        return arrived

    def _start_copy(self, tensor: Tensor) -> Tensor:
        import torch

        if tensor.device.type != "cuda":
            return tensor.clone()
        self._events.setdefault(tensor.device)
        room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return room.copy_(tensor, non_blocking=True)


def _record_event(device: Any) -> Any:
    import torch

    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def to_device(tensor: Tensor, device: Any) -> Tensor:
    """A tensor on a device; from the host to a GPU without a wait.

    Source: torch's allocator of pinned memory gives a block to nobody before the copy out of it is done.
    """
    if tensor.device.type == "cpu" and str(device).startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
