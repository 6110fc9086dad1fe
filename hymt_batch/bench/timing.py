"""Time work on a device. Knows nothing of models."""

from __future__ import annotations

import time
from collections.abc import Callable


def synchronize(device: str) -> None:
    """Wait until a GPU has finished its queued work."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def best_seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Return the shortest of several times, in seconds, after a warm-up."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])
