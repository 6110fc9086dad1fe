"""Strategy -> placement: which device holds the model. Plain Python; plans without torch.

Does not load anything. Facts: a model that fits one device is never split, because splitting it over cards gains
nothing; on a machine without a GPU, transformers would put every layer on the CPU in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError, PreflightError

RESERVE_BYTES = 1 << 30
"""Left free beside the weights for the key-value cache and the libraries' own memory."""


class Strategy(Enum):
    """How the model is laid over the devices."""

    replicate = "replicate"  # a whole model on a device
    single = "single"  # one device, named by device_map.device
    cpu = "cpu"


@dataclass(kw_only=True, slots=True)
class DeviceMapConfig:
    """Where the model goes; every field is explained in conf/device_map/."""

    strategy: Strategy = Strategy.replicate
    device: Any = None

    def __post_init__(self) -> None:
        if self.device is not None and not (re.fullmatch(r"[0-9]{1,3}", str(self.device))):
            raise ConfigError(
                f"device_map.device={self.device} is not the number of a GPU. Set it to 0, 1, ... or null."
            )
        if self.device is not None:
            self.device = int(self.device)
            if self.strategy is not Strategy.single:
                raise ConfigError(
                    f"device_map.device={self.device} has no effect with device_map={self.strategy.value}. "
                    "Set device_map=single."
                )


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the census found it."""

    name: str  # "cuda:0" or "cpu"
    label: str  # the hardware's own name
    free_bytes: int
    bfloat16: bool  # has it natively


@dataclass(frozen=True, slots=True)
class Census:
    """What the machine has and what torch can use of it."""

    devices: tuple[Device, ...]  # GPUs in order, then the CPU last
    broken: str = ""  # a GPU is in the machine but torch cannot use it: the cause

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.name != "cpu")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the model goes, and why."""

    device: Device
    map: dict[str, str]  # module name -> device; passed to the load as it is
    reasons: tuple[str, ...]


def place(config: DeviceMapConfig, census: Census, model_bytes: int) -> Placement:
    """Choose the device of the model.

    Args:
        config: The strategy asked for.
        census: Devices of this machine.
        model_bytes: Bytes of the weights in the dtype they will be loaded in.

    Raises:
        PreflightError: A GPU is there but unusable, missing, or too small.
    """
    cpu = census.devices[-1]
    if config.strategy is Strategy.cpu:
        return _on_cpu(cpu, model_bytes, "device_map=cpu asks for it")
    if census.broken:
        raise PreflightError(
            f"This machine has a GPU that torch cannot use: {census.broken} Mend that, or run on the CPU with "
            "device_map=cpu (many times slower)."
        )
    if config.strategy is Strategy.single and config.device is not None:
        return _fitting(_by_number(census, config.device), model_bytes, census)
    if not census.gpus:
        return _on_cpu(cpu, model_bytes, "no GPU in this machine")
    best = max(census.gpus, key=lambda device: device.free_bytes)
    first = census.gpus[0]
    return _fitting(first if _fits(first, model_bytes) else best, model_bytes, census)


def _by_number(census: Census, number: int) -> Device:
    for device in census.gpus:
        if device.name == f"cuda:{number}":
            return device
    names = ", ".join(device.name for device in census.gpus) or "none"
    raise PreflightError(f"device_map.device={number}: this process sees no such GPU (it sees: {names}).")


def _fits(device: Device, model_bytes: int) -> bool:
    return model_bytes + RESERVE_BYTES <= device.free_bytes


def _fitting(device: Device, model_bytes: int, census: Census) -> Placement:
    if not _fits(device, model_bytes):
        raise PreflightError(
            f"The weights take {model_bytes / 2**30:.2f} GiB and need {RESERVE_BYTES / 2**30:.0f} GiB beside them, but "
            f"{device.name} ({device.label}) has {device.free_bytes / 2**30:.2f} GiB free. Free it (nvidia-smi shows "
            "who holds it), choose model.dtype=bfloat16 or a smaller model, or run on the CPU with device_map=cpu."
        )
    reasons = [f"{model_bytes / 2**30:.2f} GiB of weights fit {device.name}, so the model is not split"]
    if len(census.gpus) > 1:
        reasons.append(f"{len(census.gpus) - 1} other GPUs stay idle: one process uses one GPU")
    return _on(device, *reasons)


def _on_cpu(cpu: Device, model_bytes: int, reason: str) -> Placement:
    if model_bytes > cpu.free_bytes:
        raise PreflightError(
            f"The weights take {model_bytes / 2**30:.2f} GiB, but this machine has {cpu.free_bytes / 2**30:.2f} GiB of "
            "memory left. Free some, choose model.dtype=bfloat16 or a smaller model."
        )
    return _on(cpu, reason)


def _on(device: Device, *reasons: str) -> Placement:
    return Placement(device, {"": device.name}, reasons)
