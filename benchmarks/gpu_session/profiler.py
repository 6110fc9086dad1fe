"""The kernels of one step and of one prefill that take the most time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from benchmarks.gpu_session.session import Report
from benchmarks.gpu_session.speed import Network
from hymt_batch.bench.timing import synchronize

NUM_KERNELS = 25


def top_kernels(report: Report) -> None:
    """Report the top kernels of a captured step, a plain step and a prefill, with their times and launches."""
    from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
    from hymt_batch.decode.model_runner import ModelRunner

    network, device = Network(report), report.sizes.device
    max_rows = 512 if device.startswith("cuda") else 2
    # late calls: the first ones capture graphs, load kernels and allocate
    at = (40, 6) if device.startswith("cuda") else (4, 2)
    for capture, patches in (
        (True, {"captured_step": (CudaGraphRunner, "step", at[0]), "prefill": (ModelRunner, "prefill", at[1])}),
        (False, {"plain_step": (ModelRunner, "step", at[0])}),
    ):
        engine = network.open_engine("slots", max_rows, capture=capture)
        with ExitStack() as stack:
            for name, (owner, method, call) in patches.items():
                wrapper = profiled(getattr(owner, method), call, name, report)
                stack.enter_context(mock.patch.object(owner, method, wrapper))
            engine.generate(network.rows[: 3 * max_rows], lambda: None)


def profiled(method: Callable[..., Any], at: int, name: str, report: Report) -> Callable[..., Any]:
    """Return a method whose call number `at` is profiled and reported."""
    calls = 0

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != at:
            return method(*arguments, **options)
        import torch
        from torch.profiler import ProfilerActivity, profile

        is_gpu = torch.cuda.is_available()
        synchronize(report.sizes.device)
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]) as profiler:
            result = method(*arguments, **options)
            synchronize(report.sizes.device)
        report.add(**{name: summarize(profiler.key_averages(), is_gpu=is_gpu)})
        return result

    return call


def summarize(averages: Any, *, is_gpu: bool) -> dict[str, Any]:
    """Return the total and the largest entries of a profile, in microseconds."""
    attribute = "self_device_time_total" if is_gpu else "self_cpu_time_total"
    entries = [(float(getattr(entry, attribute)), entry.count, entry.key) for entry in averages]
    # on a GPU an operator is listed beside its kernels, with their time; only kernels have no time of the host
    if is_gpu:
        entries = [entry for entry, average in zip(entries, averages, strict=True) if not average.self_cpu_time_total]
    entries = sorted((entry for entry in entries if entry[0]), reverse=True)
    return {
        "total_us": round(sum(time for time, _, _ in entries), 1),
        "launches": sum(count for _, count, _ in entries),
        "top": [[round(time, 1), count, key[:120]] for time, count, key in entries[:NUM_KERNELS]],
    }
