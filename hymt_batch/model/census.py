"""Devices of this machine as torch sees them, and a GPU that torch cannot use. Loads nothing."""

from __future__ import annotations

import os
from pathlib import Path

from hymt_batch.device_map import Census, Device


def census() -> Census:
    """Devices of this machine as torch sees them, the CPU last."""
    import torch

    devices = []
    broken = ""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, _ = torch.cuda.mem_get_info(number)
            native = torch.cuda.get_device_capability(number) >= (8, 0)
            devices.append(Device(f"cuda:{number}", torch.cuda.get_device_name(number), free, native))
    elif Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists():
        if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
            broken = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides it."
        elif torch.version.cuda is None:
            broken = f"torch {torch.__version__} is built without CUDA."
        else:
            broken = f"torch {torch.__version__} (CUDA {torch.version.cuda}) does not work with the driver."
    devices.append(Device("cpu", _cpu_label(), available_memory(), bfloat16=False))
    return Census(tuple(devices), broken)


def available_memory() -> int:
    """Bytes of main memory this process may still take: what the kernel calls available, within the cgroup's limit."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _text(limit).strip(), _text(used).strip()
        if most.isdecimal() and now.isdecimal():
            available = min(available, max(0, int(most) - int(now)))
    return available


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpu_label() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"
