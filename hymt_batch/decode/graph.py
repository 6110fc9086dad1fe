"""Replay a step without its Python code: as a captured CUDA graph or, on the CPU, as an emulated one.

Not yet run on a GPU. Independent of rows: a step is a function without arguments or result that reads and writes
tensors at fixed addresses and never synchronises with the host.

Source: torch's notes on CUDA graphs (side stream, private pool, no synchronisation while capturing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Step = Callable[[], None]

SLOT_BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64)
"""Bucket sizes for the number of slots in a step; above the last one, buckets are multiples of half of it."""

LENGTH_BUCKET = 256
"""The keys of a step are padded to a multiple of this: fewer graphs, but attention over some masked keys."""


def bucket_slots(num: int, max_slots: int) -> int:
    """Return the smallest bucket of slots that holds `num` rows, at most `max_slots`."""
    last = SLOT_BUCKETS[-1]
    smallest = next((bucket for bucket in SLOT_BUCKETS if bucket >= num), -(-num // (last // 2)) * (last // 2))
    return max(num, min(smallest, max_slots))


def bucket_length(num: int) -> int:
    """Return the smallest bucket length that holds `num` keys."""
    return -(-num // LENGTH_BUCKET) * LENGTH_BUCKET


class GraphBackend(Protocol):
    """Runs a step once, then captures it for replay."""

    def warm_up(self, step: Step) -> None: ...

    def capture(self, step: Step) -> Step: ...

    def release(self) -> None: ...


class EmulatedGraphs:
    """Emulates a graph: replay calls the function again, at its full cost."""

    def warm_up(self, step: Step) -> None:
        step()

    def capture(self, step: Step) -> Step:
        return step

    def release(self) -> None:
        pass


class CudaGraphs:
    """CUDA graphs that share one memory pool, since no two of them run at once."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def warm_up(self, step: Step) -> None:
        """Run a step on the capture stream, so that libraries create plans and workspaces before the capture."""
        import torch

        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        """Record a step without running it.

        Raises:
            RuntimeError: An operation in it cannot be captured, or memory ran out.
        """
        import torch

        current = torch.cuda.current_stream(self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        captured = False
        try:
            with (
                torch.cuda.device(self._device),
                # other threads read and write files and must not invalidate the capture
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                step()
            captured = True
        finally:
            # a capture that fails in torch.cuda.graph.__exit__ leaves its stream as the current one
            torch.cuda.set_stream(current)
            if not captured:
                self._end_allocation()
        replay: Step = graph.replay
        return replay

    def _end_allocation(self) -> None:
        """Tell the allocator that a failed capture has ended; otherwise it refuses to free cached memory from then on.

        Needed up to torch 2.12; later versions do it themselves.

        Source: pytorch#180395, pytorch#190348.
        """
        import torch

        end, release_pool = (getattr(torch._C, name, None) for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"))
        if end is None or release_pool is None:
            return
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        try:
            end(index, self._pool)
        except RuntimeError:  # torch has already done it
            return
        release_pool(index, self._pool)

    def release(self) -> None:
        """Wait for running graphs before they are dropped; later graphs use a new pool, and this one is freed."""
        import torch

        torch.cuda.synchronize(self._device)
        self._pool = None


def make_backend(device: str) -> GraphBackend:
    """Make CUDA graphs for a GPU, emulated ones for any other device."""
    return CudaGraphs(device) if device.startswith("cuda") else EmulatedGraphs()
