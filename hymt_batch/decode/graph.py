"""How a step is run again without its Python: captured in a CUDA graph, or, on the CPU, only pretended.

Never run on a GPU yet. Knows no rows: a step is a function without arguments and without a result, which reads and
writes tensors that stay where they are, and asks the host for nothing.

Source: torch's notes on CUDA graphs (side stream, private pool, no synchronisation while capturing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Step = Callable[[], None]

SLOT_BUCKETS = (1, 2, 4, 8, 16, 32, 48, 64)
"""Numbers of slots of a step; above the last, its multiples by a half."""

LENGTH_BUCKET = 256
"""Keys of a step are a multiple of so many: fewer graphs, and attention over some keys that are masked."""


def bucket_slots(num: int, max_slots: int) -> int:
    """The smallest number of slots that holds `num` rows, out of few; at most `most`."""
    last = SLOT_BUCKETS[-1]
    wanted = next((one for one in SLOT_BUCKETS if one >= num), -(-num // (last // 2)) * (last // 2))
    return max(num, min(wanted, max_slots))


def bucket_length(num: int) -> int:
    """The smallest length that holds `num` keys, out of few."""
    return -(-num // LENGTH_BUCKET) * LENGTH_BUCKET


class GraphBackend(Protocol):
    """Runs a step for the first time, and makes of it what runs it again."""

    def warm_up(self, step: Step) -> None: ...

    def capture(self, step: Step) -> Step: ...

    def release(self) -> None: ...


class EmulatedGraphs:
    """Runs the same function again; what it costs is what it cost before."""

    def warm_up(self, step: Step) -> None:
        step()

    def capture(self, step: Step) -> Step:
        return step

    def release(self) -> None:
        pass


class CudaGraphs:
    """CUDA graphs that share one pool of memory, since never two of them run at once."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def warm_up(self, step: Step) -> None:
        """Run a step in the stream of the captures: libraries make their plans and workspaces now, outside of one."""
        import torch

        before = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            step()
        before.wait_stream(self._stream)

    def capture(self, step: Step) -> Step:
        """Record a step without running it.

        Raises:
            RuntimeError: Something in it cannot be captured, or there is no memory for it.
        """
        import torch

        before = torch.cuda.current_stream(self._device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with (
                torch.cuda.device(self._device),
                # other threads, which read and write files, may do as they like
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                step()
        finally:
            # a capture that fails as it ends leaves its stream the current one (torch.cuda.graph.__exit__)
            torch.cuda.set_stream(before)
        replay: Step = graph.replay
        return replay

    def release(self) -> None:
        """Before graphs are given up: wait for them; the next ones have another pool, since this one's memory goes."""
        import torch

        torch.cuda.synchronize(self._device)
        self._pool = None


def make_backend(device: str) -> GraphBackend:
    """For a device of the network: graphs on a GPU, else pretended ones."""
    return CudaGraphs(device) if device.startswith("cuda") else EmulatedGraphs()
