"""Devices of this machine: as torch sees them, as nvidia-smi does, or pretend ones for a plan. Loads nothing."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hymt_batch.device_map.settings import Device, DeviceInventory, parse_bytes
from hymt_batch.errors import ConfigError
from hymt_batch.model import cudnn, nvidia
from hymt_batch.model.memory import available_bytes, read_text

log = logging.getLogger(__name__)


def torch_devices() -> DeviceInventory:
    """Devices of this machine as torch sees them, the CPU last."""
    cudnn.deprioritise()
    import torch

    devices = []
    broken = broken_id = ""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            try:
                free, _ = torch.cuda.mem_get_info(number)
            except RuntimeError as error:  # full, or in exclusive mode and taken: the others may serve
                free = 0
                log.warning("cuda:%d cannot be used: %s", number, str(error).splitlines()[0])
            native = torch.cuda.get_device_capability(number) >= (8, 0)
            devices.append(Device(f"cuda:{number}", torch.cuda.get_device_name(number), free, native))
    elif Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists() or nvidia.query():
        if torch.version.cuda is None:
            broken = f"torch {torch.__version__} is built without CUDA."
            broken_id = "A16"
        elif nvidia.hides_all_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")):
            broken = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}, which hides it."
            broken_id = "A13" if os.environ["CUDA_VISIBLE_DEVICES"] else "D6"
        else:
            broken = f"torch {torch.__version__} (CUDA {torch.version.cuda}) does not work with the driver."
            broken_id = "A3"
    return DeviceInventory((*devices, cpu_device()), broken, broken_id)


@dataclass(frozen=True, slots=True)
class TorchInfo:
    """What torch says of itself; nothing where it cannot be imported."""

    version: str = ""
    cuda: str | None = None  # the CUDA it is built for
    num_gpus: int = 0
    peer_access: Callable[[int, int], bool] | None = None  # whether one GPU reads another's memory


def torch_info() -> TorchInfo:
    """Ask torch, which takes its seconds to be imported."""
    cudnn.deprioritise()
    try:
        import torch
    except Exception:  # a broken installation is what the doctor is asked about; its check of versions says more
        return TorchInfo()
    available = torch.cuda.is_available()
    return TorchInfo(
        str(torch.__version__),
        torch.version.cuda,
        torch.cuda.device_count() if available else 0,
        torch.cuda.can_device_access_peer if available else None,
    )


def nvidia_smi_devices() -> DeviceInventory:
    """The same as nvidia-smi tells it, in the order of CUDA_VISIBLE_DEVICES; for plans, which need no torch."""
    found = nvidia.query()
    gpus, _ = nvidia.visible_gpus(found.gpus, os.environ.get("CUDA_VISIBLE_DEVICES")) if found else ([], "")
    devices = [
        Device(f"cuda:{number}", gpu.name, gpu.free_bytes, bfloat16=gpu.capability is None or gpu.capability >= (8, 0))
        for number, gpu in enumerate(gpus)
    ]
    return DeviceInventory((*devices, cpu_device()))


def simulated_devices(value: Any) -> DeviceInventory:
    """Devices that a plan pretends to have.

    Args:
        value: Free memory of each GPU, such as [24GiB, 24GiB] or [8x80GiB]; cpu:64GiB among them is the main memory.

    Raises:
        ConfigError: Not such a list.
    """
    words = value if isinstance(value, (list, tuple)) else [value]
    devices: list[Device] = []
    main = cpu_device()
    for word in words:
        match = re.fullmatch(r"\s*(?:(cpu)\s*:|([0-9]{1,3})\s*x)?\s*([^:x]+)", str(word))
        if match is None:
            raise ConfigError(f"devices: {word!r} is no size. Write for example devices=[24GiB,24GiB,cpu:64GiB].")
        free = parse_bytes("devices", match[3])
        if match[1]:
            main = Device("cpu", "pretended", free, bfloat16=False)
        for _ in range(0 if match[1] else int(match[2] or 1)):
            devices.append(Device(f"cuda:{len(devices)}", "pretended", free, bfloat16=True))
    return DeviceInventory((*devices, main))


def cpu_device() -> Device:
    """The processor and the main memory that is left."""
    return Device("cpu", _cpu_label(), available_bytes(), bfloat16=False)


def _cpu_label() -> str:
    for line in read_text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"
