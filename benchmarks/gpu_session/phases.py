"""Times by phase while the slot engine runs: on the device, and of the host's calls.

A phase is on the device's own timeline: it lasts from the end of the work queued before it to the end of its own work.
What is left of the wall-clock time is the host's: scheduling, and waiting for nothing.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

PHASES = {
    "prefill": ("ModelRunner", "prefill"),
    "prefix": ("ModelRunner", "compute_prefix"),
    "step": ("ModelRunner", "step"),
    "replay": ("CudaGraphRunner", "step"),
    "capture": ("CudaGraphRunner", "_capture"),
    "move": ("ModelRunner", "move"),
    "resize": ("ModelRunner", "resize"),
    "read": ("AsyncCopy", "wait"),
}
"""Phase -> the class and method of the engine whose calls it covers; the innermost phase counts."""


class PhaseClock:
    """Measures phases in its `with` block."""

    def __init__(self, device: str) -> None:
        self._is_gpu = device.startswith("cuda")
        self._open: list[str] = []  # phases that are running, the innermost last
        self._marks: list[tuple[str, Any]] = []  # (phase that begins here, "" for none; event or time)
        self._host_s: dict[str, float] = defaultdict(float)
        self._calls: dict[str, int] = defaultdict(int)
        self._stack = ExitStack()

    def __enter__(self) -> PhaseClock:
        from hymt_batch.decode import async_copy, cuda_graph_runner, model_runner

        classes = {
            "ModelRunner": model_runner.ModelRunner,
            "CudaGraphRunner": cuda_graph_runner.CudaGraphRunner,
            "AsyncCopy": async_copy.AsyncCopy,
        }
        for phase, (owner, method) in PHASES.items():
            original = getattr(classes[owner], method)
            self._stack.enter_context(mock.patch.object(classes[owner], method, self._timed(phase, original)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _timed(self, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            self._begin(phase)
            began = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                self._host_s[phase] += time.perf_counter() - began
                self._calls[phase] += 1
                self._open.pop()
                self._mark(self._open[-1] if self._open else "")

        return call

    def _begin(self, phase: str) -> None:
        self._open.append(phase)
        self._mark(phase)

    def _mark(self, phase: str) -> None:
        if not self._is_gpu:
            self._marks.append((phase, time.perf_counter()))
            return
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append((phase, event))

    def figures(self, wall_s: float) -> dict[str, Any]:
        """Return seconds on the device and of the host's calls by phase, the numbers of calls, and what is left."""
        seconds: dict[str, float] = defaultdict(float)
        for (phase, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
            seconds[phase] += begin.elapsed_time(end) / 1000 if self._is_gpu else end - begin
        between = seconds.pop("", 0.0)
        return {
            "device_s": {phase: round(value, 4) for phase, value in seconds.items()},
            "host_call_s": {phase: round(value, 4) for phase, value in self._host_s.items()},
            "calls": dict(self._calls),
            "host_s": round(max(0.0, wall_s - sum(seconds.values())), 4),
            "between_phases_s": round(between, 4),
        }
