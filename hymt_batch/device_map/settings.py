"""Settings of the placement: strategies, device names, sizes of memory. Does not know a network or this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.errors import ConfigError

_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)},
}


class Strategy(Enum):
    """How the model is laid over the devices."""

    replicate = "replicate"  # a whole model on a device
    single = "single"  # one device, named by device_map.device
    auto = "auto"  # the layers evenly over the GPUs, as transformers' device_map="auto"
    balanced = "balanced"  # another name for auto
    balanced_low_0 = "balanced_low_0"  # evenly, but as little as possible on the first GPU
    sequential = "sequential"  # the first GPU filled before the second is touched
    cpu = "cpu"
    manual = "manual"  # as device_map.map says
    offload = "offload"  # GPUs first, then main memory, then disk
    fallback = "fallback"  # the first of device_map.order that fits


SPLIT_STRATEGIES = frozenset({Strategy.auto, Strategy.balanced, Strategy.balanced_low_0, Strategy.sequential})
"""Strategies that lay one model over several GPUs."""


@dataclass(kw_only=True, slots=True)
class DeviceMapConfig:
    """Where the model goes; every field is explained in conf/device_map/."""

    strategy: Strategy = Strategy.replicate
    device: Any = None
    max_memory: Any = None
    margin: Any = "1.25GiB"
    map: Any = None
    order: Any = None
    offload_folder: str | None = None
    accelerate_config: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None:
            if isinstance(self.device, bool) or not re.fullmatch(r"[0-9]{1,3}", str(self.device)):
                raise ConfigError(
                    f"device_map.device={self.device} is not the number of a GPU. Set it to 0, 1, ... or null.", id="C2"
                )
            self.device = int(self.device)
            self._require_strategy("device", Strategy.single)
        parse_bytes("device_map.margin", self.margin)
        self.max_memory = parse_max_memory(self.max_memory)
        if self.max_memory is not None and self.strategy in (Strategy.cpu, Strategy.manual):
            raise ConfigError(
                f"device_map.max_memory has no effect with device_map={self.strategy.value}. Set it to null, or choose "
                "device_map=auto, balanced, sequential or offload."
            )
        if self.map is not None:
            self._require_strategy("map", Strategy.manual)
            if not isinstance(self.map, (str, Mapping)):
                raise ConfigError(
                    f"device_map.map={self.map!r} is neither the path of a YAML file nor a map such as "
                    "'{model.embed_tokens: 0, model.layers.0-15: 0, ...}'."
                )
        elif self.strategy is Strategy.manual:
            raise ConfigError(
                "device_map=manual needs a map. Set device_map.map to a YAML file with lines such as "
                "`model.layers.0-15: 0`, or to '{model.embed_tokens: 0, model.layers.*: 0, model.norm: 0, lm_head: 0}'."
            )
        if self.offload_folder is not None:
            self.offload_folder = os.path.expanduser(self.offload_folder)
        self._resolve_order()

    @property
    def margin_bytes(self) -> int:
        return parse_bytes("device_map.margin", self.margin)

    def _require_strategy(self, key: str, strategy: Strategy) -> None:
        if self.strategy is not strategy:
            raise ConfigError(
                f"device_map.{key}={getattr(self, key)} has no effect with device_map={self.strategy.value}. "
                f"Set device_map={strategy.value}."
            )

    def _resolve_order(self) -> None:
        if self.order is None:
            if self.strategy is Strategy.fallback:
                self.order = [Strategy.replicate, Strategy.balanced, Strategy.offload]
            return
        self._require_strategy("order", Strategy.fallback)
        names = self.order if isinstance(self.order, (list, tuple)) else [self.order]
        usable = [one.value for one in Strategy if one not in (Strategy.fallback, Strategy.manual)]
        found = [getattr(name, "value", name) for name in names]
        wrong = [name for name in found if name not in usable]
        if wrong or not found or len(set(found)) < len(found):
            what = f"lists {wrong[0]!r}" if wrong else "lists nothing" if not found else "lists a strategy twice"
            raise ConfigError(f"device_map.order={found} {what}. List some of {', '.join(usable)}, each once.")
        self.order = [Strategy(name) for name in found]


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the census found it."""

    name: str  # "cuda:0" or "cpu"
    label: str  # the hardware's own name
    free_bytes: int
    bfloat16: bool  # has it natively


@dataclass(frozen=True, slots=True)
class DeviceInventory:
    """What the machine has and what torch can use of it."""

    devices: tuple[Device, ...]  # GPUs in order, then the CPU last
    gpu_error: str = ""  # a GPU is in the machine but torch cannot use it: the cause
    gpu_error_id: str = ""  # its failure mode, in doctor/catalogue.toml

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.name != "cpu")

    @property
    def cpu(self) -> Device:
        return self.devices[-1]


def parse_device(key: str, value: Any) -> str:
    """A device as we spell it: "cuda:0", "cpu" or "disk", from 0, "0", "cuda:0", "cuda", "cpu" or "disk".

    Raises:
        ConfigError: None of these.
    """
    text = str(value).strip().lower()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}|cuda|cuda:[0-9]{1,3}|cpu|disk", text):
        raise ConfigError(
            f"{key}: {value!r} is not a device. Devices are the numbers of GPUs (0, 1, ... or cuda:0), cpu and disk.",
            id="C5" if "max_memory" in key else "C1",
        )
    if text.isdecimal():
        return f"cuda:{int(text)}"
    return "cuda:0" if text == "cuda" else text


def parse_bytes(key: str, value: Any) -> int:
    """Bytes of a size in human units: 10GiB, 10GB, 500MiB, 1.5 GB, or a plain number of bytes.

    Raises:
        ConfigError: Not a size.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", str(value))
    unit = match[2].upper() if match else ""
    if match is None or isinstance(value, bool) or unit not in _UNITS:
        raise ConfigError(
            f"{key}={value} is not a size. Write bytes, or a number with a unit such as 10GiB or 500MB.", id="C6"
        )
    return int(float(match[1]) * _UNITS[unit]) if "." in match[1] or unit else int(match[1])


def parse_max_memory(value: Any) -> dict[str, int] | None:
    """max_memory as bytes by device, GPUs in order, then cpu, then disk; None where it is not set.

    Args:
        value: A map such as {0: 10GiB, cpu: 30GiB}, or a list with a size for each GPU.

    Raises:
        ConfigError: Not such a map.

    Transformers refuses keys that are texts ("0", "cuda:0"), as YAML and the command line give them; here both are
    one device.
    """
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(
            f"device_map.max_memory={value!r} is not a map. Set it to null (all that is free) or for example to "
            "'{0: 10GiB, cpu: 30GiB}'.",
            id="C8",
        )
    found: dict[str, int] = {}
    for key, amount in value.items():
        name = parse_device("device_map.max_memory", key)
        if name in found:
            raise ConfigError(f"device_map.max_memory names {name} twice.")
        found[name] = parse_bytes(f"device_map.max_memory.{key}", amount)
    return {name: found[name] for name in sorted(found, key=fill_order)}


def fill_order(device: str) -> tuple[int, int]:
    """Sorts devices as they are filled: GPUs by number, then main memory, then disk."""
    kind, _, number = device.partition(":")
    return ("cuda", "cpu", "disk").index(kind), int(number or 0)


def gib(num_bytes: float) -> str:
    """Bytes as people read them."""
    if not num_bytes:
        return "0"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 100 << 20 else f"{num_bytes / 2**20:.2f} MiB"
