"""The machine that a benchmark runs on: its device, threads and memory."""

from __future__ import annotations

import os
import resource
from typing import Any

from hymt_batch.errors import PreflightError


def prepare(device: str, num_threads: int | None) -> None:
    """Set the number of CPU threads; None leaves the choice to torch.

    Raises:
        PreflightError: This machine has no such device.
    """
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device != "cpu" and int(device.partition(":")[2]) >= torch.cuda.device_count():
        raise PreflightError(
            f"device={device}: torch finds {torch.cuda.device_count()} GPUs here",
            fix="Set device=cpu, or run `hymt-batch doctor` to see why.",
        )


def figures(device: str) -> dict[str, Any]:
    """Return the name of the device, and what runs on it."""
    import torch

    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
    }


def peak_memory(device: str) -> dict[str, int]:
    """Return the largest number of bytes that this process has held, in main memory and on the GPU."""
    import torch

    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_gpu_bytes": 0 if device == "cpu" else torch.cuda.max_memory_allocated(device),
    }
