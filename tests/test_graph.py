"""A capture that fails leaves a usable process, and the log says why; torch's allocator is imitated."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hymt_batch.decode.cuda_graph_runner import with_first_error
from hymt_batch.decode.graph import CudaGraphs

pytestmark = pytest.mark.core


class Allocator:
    """Imitates what torch's allocator remembers of captures.

    Source: torch 2.11, CUDAGraph.cpp and CUDACachingAllocator.cpp.
    """

    def __init__(self, *, ends_itself: bool) -> None:
        self.ends_itself = ends_itself  # torch 2.13 ends the allocation of a failed capture itself
        self.captures_underway, self.pool_uses = list[Any](), 0

    @contextmanager
    def graph(self, graph: Any, *, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        self.captures_underway.append(pool)
        self.pool_uses += 1
        try:
            yield
        except RuntimeError as error:
            if self.ends_itself:
                self.end(0, pool)
                self.pool_uses -= 1
            # `__exit__` raises, so the error of the step is only the context of this one
            try:
                raise error
            except RuntimeError:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904
        self.end(0, pool)

    def end(self, device: int, pool: Any) -> None:
        if pool not in self.captures_underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.captures_underway.remove(pool)

    def release_pool(self, device: int, pool: Any) -> None:
        self.pool_uses -= 1
        assert self.pool_uses >= 0

    def empty_cache(self) -> None:
        assert not self.captures_underway, "captures_underway.empty() INTERNAL ASSERT FAILED"


def graphs(allocator: Allocator, monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    fakes = {
        "Stream": lambda device: stream,
        "current_stream": lambda device: stream,
        "set_stream": lambda stream: None,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
        "graph_pool_handle": lambda: (0, 1),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": allocator.graph,
        "synchronize": lambda device: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", allocator.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", allocator.release_pool, raising=False)
    return CudaGraphs("cuda:0")


def failing_step() -> None:
    raise RuntimeError("operation not permitted when stream is capturing: aten::sort")


@pytest.mark.parametrize("ends_itself", [False, True])
def test_cached_memory_can_be_freed_after_a_capture_that_failed(
    monkeypatch: pytest.MonkeyPatch, ends_itself: bool
) -> None:
    allocator = Allocator(ends_itself=ends_itself)
    backend = graphs(allocator, monkeypatch)
    backend.capture(lambda: None)()
    allocator.empty_cache()
    with pytest.raises(RuntimeError, match="previous error") as raised:
        backend.capture(failing_step)
    allocator.empty_cache()
    assert allocator.pool_uses == 1, "only the graph that was captured still uses the pool"
    assert with_first_error(raised.value) == (
        "CUDA error: operation failed due to a previous error during capture "
        "(first error: operation not permitted when stream is capturing: aten::sort)"
    )


def test_an_error_without_a_chain_is_reported_once() -> None:
    assert with_first_error(RuntimeError("no\nmore")) == "no"
