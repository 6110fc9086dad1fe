"""Devices of this machine as torch or nvidia-smi reports them, or simulated devices for a plan. Loads no model."""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.byte_size import parse_bytes
from hymt_batch.device_map.settings import Device, DeviceInventory
from hymt_batch.errors import ConfigError, Problem, first_line
from hymt_batch.model import cudnn, nvidia
from hymt_batch.model.memory import available_bytes, read_text

GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvhost*", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Device files by which a program finds a GPU: of NVIDIA's drivers, of Jetson, of WSL, of ROCm."""


def may_have_gpu() -> bool:
    """Return whether anything shows a GPU, or a driver of one; a machine without needs no torch to know that."""
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        return True
    return sys.platform != "linux" or any(glob.glob(pattern) for pattern in GPU_FILES)


def torch_devices() -> DeviceInventory:
    """Return the devices that torch sees, the CPU last. Without a sign of a GPU, it does not import torch for that."""
    cudnn.deprioritise()
    if "torch" not in sys.modules and not may_have_gpu():
        return DeviceInventory((cpu_device(),))
    import torch

    devices, warnings = [], []
    gpu_error = gpu_error_id = ""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            try:
                free, _ = torch.cuda.mem_get_info(index)
            except RuntimeError as error:  # its memory is full, or another process uses it exclusively
                free = 0
                warnings.append(
                    Problem(
                        what=f"cuda:{index} cannot be used",
                        why=first_line(error),
                        fix="Run nvidia-smi to see which processes use it.",
                        id="C21",
                    )
                )
            native_bfloat16 = torch.cuda.get_device_capability(index) >= (8, 0)
            devices.append(Device(f"cuda:{index}", torch.cuda.get_device_name(index), free, native_bfloat16))
    elif Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists() or nvidia.query():
        if torch.version.cuda is None:
            gpu_error = f"torch {torch.__version__} is built without CUDA"
            gpu_error_id = "A16"
        elif nvidia.hides_all_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")):
            gpu_error = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides it"
            gpu_error_id = "A13" if os.environ["CUDA_VISIBLE_DEVICES"] else "D6"
        else:
            gpu_error = f"torch {torch.__version__} (CUDA {torch.version.cuda}) does not work with the driver"
            gpu_error_id = "A3"
    return DeviceInventory((*devices, cpu_device()), gpu_error, gpu_error_id, tuple(warnings))


@dataclass(frozen=True, slots=True)
class TorchInfo:
    """torch's version and its view of the GPUs; all fields are empty if torch cannot be imported."""

    version: str = ""
    cuda: str | None = None  # CUDA version that torch was built for
    num_gpus: int = 0
    peer_access: Callable[[int, int], bool] | None = None  # returns whether one GPU can read another's memory


def torch_info() -> TorchInfo:
    """Return torch's version and GPUs; importing torch takes seconds."""
    cudnn.deprioritise()
    try:
        import torch
    except Exception:  # a broken installation; the doctor's check of versions reports the cause
        return TorchInfo()
    available = torch.cuda.is_available()
    return TorchInfo(
        str(torch.__version__),
        torch.version.cuda,
        torch.cuda.device_count() if available else 0,
        torch.cuda.can_device_access_peer if available else None,
    )


def nvidia_smi_devices() -> DeviceInventory:
    """Return the devices that nvidia-smi reports, in the order of CUDA_VISIBLE_DEVICES; for plans, without torch."""
    info = nvidia.query()
    gpus, _ = nvidia.visible_gpus(info.gpus, os.environ.get("CUDA_VISIBLE_DEVICES")) if info else ([], "")
    devices = [
        Device(f"cuda:{index}", gpu.name, gpu.free_bytes, bfloat16=gpu.capability is None or gpu.capability >= (8, 0))
        for index, gpu in enumerate(gpus)
    ]
    return DeviceInventory((*devices, cpu_device()))


def simulated_devices(value: Any) -> DeviceInventory:
    """Return the simulated devices of a plan.

    Args:
        value: Free memory of each GPU, such as [24GiB, 24GiB] or [8x80GiB]; an entry cpu:64GiB sets the main memory.

    Raises:
        ConfigError: The value is not such a list.
    """
    entries = value if isinstance(value, (list, tuple)) else [value]
    devices: list[Device] = []
    main_memory = cpu_device()
    for entry in entries:
        match = re.fullmatch(r"\s*(?:(cpu)\s*:|([0-9]{1,3})\s*x)?\s*([^:x]+)", str(entry))
        if match is None:
            raise ConfigError(
                f"devices: {entry!r} is not a size", fix="Write, for example, devices=[24GiB,24GiB,cpu:64GiB]."
            )
        free = parse_bytes("devices", match[3])
        if match[1]:
            main_memory = Device("cpu", "simulated", free, bfloat16=False)
        for _ in range(0 if match[1] else int(match[2] or 1)):
            devices.append(Device(f"cuda:{len(devices)}", "simulated", free, bfloat16=True))
    return DeviceInventory((*devices, main_memory))


def cpu_device() -> Device:
    """Return the CPU as a device, with the main memory that is free."""
    return Device("cpu", _cpu_label(), available_bytes(), bfloat16=False)


def _cpu_label() -> str:
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"
