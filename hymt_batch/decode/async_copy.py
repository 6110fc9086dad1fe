"""Asynchronous copies between host and GPU through pinned memory: a copy starts at once and is awaited when read.

On the CPU these are plain copies. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hymt_batch.decode.sequence import SequenceState

if TYPE_CHECKING:
    from torch import Tensor

TOKEN, FINITE, LOGPROB = range(3)
"""Indices into the second dimension of a ring buffer; a log-probability is stored as the bits of a float64."""


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The tokens that one forward pass chose, possibly still on the device; each tensor is [B]."""

    sequences: tuple[SequenceState, ...]
    tokens: Tensor  # int64
    finite: Tensor  # bool, or int64 of 0 and 1
    logprobs: Tensor | None  # float32 or float64
    ring: Tensor | None = None  # [steps, 3, slots] int64: the tensors are slices of it; None if they are separate
    ring_index: int = 0  # index of the step in the ring buffer


def from_ring(sequences: Sequence[SequenceState], ring: Tensor, ring_index: int, *, logprobs: bool) -> SampledTokens:
    """Return the tokens that a step wrote at index `ring_index` of the ring buffer."""
    import torch

    entry = ring[ring_index, :, : len(sequences)]
    logprobs_of_step = entry[LOGPROB].view(torch.float64) if logprobs else None
    return SampledTokens(tuple(sequences), entry[TOKEN], entry[FINITE], logprobs_of_step, ring, ring_index)


class AsyncCopy:
    """Tokens being copied to the host; the copies start in the constructor, queued behind earlier GPU work."""

    def __init__(self, sampled: Sequence[SampledTokens]) -> None:
        self.sampled = tuple(sampled)
        self._copies: dict[int, Tensor] = {}  # by id of the source tensor; a ring buffer is copied once
        self._events: dict[Any, Any] = {}
        for step in self.sampled:
            tensors = [step.tokens, step.finite, *([] if step.logprobs is None else [step.logprobs])]
            for tensor in tensors if step.ring is None else [step.ring]:
                if id(tensor) not in self._copies:
                    self._copies[id(tensor)] = self._start_copy(tensor)
        for device in self._events:
            self._events[device] = _record_event(device)

    def wait(self) -> list[SampledTokens]:
        """Return the same tokens on the host; waits for the copies, not for GPU work queued after them."""
        for event in self._events.values():
            event.synchronize()
        host_tokens = []
        for step in self.sampled:
            if step.ring is not None:
                ring = self._copies[id(step.ring)]
                host_tokens.append(from_ring(step.sequences, ring, step.ring_index, logprobs=step.logprobs is not None))
                continue
            logprobs = None if step.logprobs is None else self._copies[id(step.logprobs)]
            host_tokens.append(
                SampledTokens(step.sequences, self._copies[id(step.tokens)], self._copies[id(step.finite)], logprobs)
            )
        return host_tokens

    def _start_copy(self, tensor: Tensor) -> Tensor:
        import torch

        if tensor.device.type != "cuda":
            return tensor.clone()
        self._events.setdefault(tensor.device)
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return target.copy_(tensor, non_blocking=True)


def _record_event(device: Any) -> Any:
    import torch

    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def is_gpu(device: Any) -> bool:
    """Return whether copies to a device can run beside the host."""
    return str(device).startswith("cuda")


def to_device(tensor: Tensor, device: Any) -> Tensor:
    """Copy a tensor to a device; a copy from the host to a GPU does not block.

    Source: torch's pinned-memory allocator does not reuse a block before the copy out of it has finished.
    """
    if tensor.device.type == "cpu" and is_gpu(device):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
