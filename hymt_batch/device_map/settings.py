"""Settings of the placement: strategies, device names, memory sizes. Independent of network and machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hymt_batch.byte_size import parse_bytes
from hymt_batch.errors import ConfigError, Problem
from hymt_batch.setting import Environment


class Strategy(Enum):
    """How the model is distributed over the devices."""

    replicate = "replicate"  # the whole model on one device
    single = "single"  # one device, selected by device_map.device
    auto = "auto"  # layers spread evenly over the GPUs, as transformers' device_map="auto"
    balanced = "balanced"  # another name for auto
    balanced_low_0 = "balanced_low_0"  # evenly, but as little as possible on the first GPU
    sequential = "sequential"  # fill the first GPU before using the second
    cpu = "cpu"
    manual = "manual"  # as device_map.map defines it
    offload = "offload"  # GPUs first, then main memory, then disk
    fallback = "fallback"  # the first of device_map.order that fits


SPLIT_STRATEGIES = frozenset({Strategy.auto, Strategy.balanced, Strategy.balanced_low_0, Strategy.sequential})
"""Strategies that split one model over several GPUs."""


@dataclass(kw_only=True, slots=True)
class DeviceMapConfig:
    """Settings of the placement; conf/device_map/ explains every field."""

    strategy: Environment[Strategy] = Strategy.replicate
    device: Environment[Any] = None
    max_memory: Environment[Any] = None
    margin: Environment[Any] = "1.25GiB"
    map: Environment[Any] = None
    order: Environment[Any] = None
    offload_folder: Environment[str | None] = None
    accelerate_config: Environment[str | None] = None

    def __post_init__(self) -> None:
        if self.device is not None:
            if isinstance(self.device, bool) or not re.fullmatch(r"[0-9]{1,3}", str(self.device)):
                raise ConfigError(
                    f"device_map.device={self.device} is not the number of a GPU",
                    fix="Set it to 0, 1, ... or null.",
                    id="C2",
                )
            self.device = int(self.device)
            self._require_strategy("device", Strategy.single)
        parse_bytes("device_map.margin", self.margin)
        self.max_memory = parse_max_memory(self.max_memory)
        if self.max_memory is not None and self.strategy in (Strategy.cpu, Strategy.manual):
            raise ConfigError(
                f"device_map.max_memory has no effect with device_map={self.strategy.value}",
                fix="Set it to null, or choose device_map=auto, balanced, sequential or offload.",
            )
        if self.map is not None:
            self._require_strategy("map", Strategy.manual)
            if not isinstance(self.map, (str, Mapping)):
                raise ConfigError(
                    f"device_map.map={self.map!r} is neither the path of a YAML file nor a map",
                    fix="Set it to one, such as '{model.embed_tokens: 0, model.layers.0-15: 0, ...}'.",
                )
        elif self.strategy is Strategy.manual:
            raise ConfigError(
                "device_map=manual needs a map",
                fix="Set device_map.map to a YAML file with lines such as `model.layers.0-15: 0`, or to "
                "'{model.embed_tokens: 0, model.layers.*: 0, model.norm: 0, lm_head: 0}'.",
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
                f"device_map.{key}={getattr(self, key)} has no effect with device_map={self.strategy.value}",
                fix=f"Set device_map={strategy.value}.",
            )

    def _resolve_order(self) -> None:
        if self.order is None:
            if self.strategy is Strategy.fallback:
                self.order = [Strategy.replicate, Strategy.balanced, Strategy.offload]
            return
        self._require_strategy("order", Strategy.fallback)
        names = self.order if isinstance(self.order, (list, tuple)) else [self.order]
        usable = [strategy.value for strategy in Strategy if strategy not in (Strategy.fallback, Strategy.manual)]
        listed = [getattr(name, "value", name) for name in names]
        unusable = [name for name in listed if name not in usable]
        if unusable or not listed or len(set(listed)) < len(listed):
            problem = (
                f"lists {unusable[0]!r}" if unusable else "lists nothing" if not listed else "lists a strategy twice"
            )
            raise ConfigError(
                f"device_map.order={listed} {problem}", fix=f"List one or more of {', '.join(usable)}, each once."
            )
        self.order = [Strategy(name) for name in listed]


@dataclass(frozen=True, slots=True)
class Device:
    """One detected device."""

    name: str  # "cuda:0" or "cpu"
    label: str  # the hardware's name
    free_bytes: int
    bfloat16: bool  # native support


@dataclass(frozen=True, slots=True)
class DeviceInventory:
    """The devices of a machine that torch can use, and why it cannot use a GPU that is present."""

    devices: tuple[Device, ...]  # GPUs in order, then the CPU last
    gpu_error: str = ""  # why torch cannot use a GPU that the machine has; without a full stop
    gpu_error_id: str = ""  # id of that failure in doctor/catalogue.toml
    warnings: tuple[Problem, ...] = ()  # about single devices

    @property
    def gpus(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.name != "cpu")

    @property
    def cpu(self) -> Device:
        return self.devices[-1]


def parse_device(key: str, value: Any) -> str:
    """Normalise a device to "cuda:0", "cpu" or "disk", from 0, "0", "cuda:0", "cuda", "cpu" or "disk".

    Args:
        key: Name of the setting, for the message.
        value: The device as the user wrote it.

    Raises:
        ConfigError: The value is none of these.
    """
    text = str(value).strip().lower()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}|cuda|cuda:[0-9]{1,3}|cpu|disk", text):
        raise ConfigError(
            f"{key}: {value!r} is not a device",
            fix="Use the number of a GPU (0, 1, ... or cuda:0), cpu or disk.",
            id="C5" if "max_memory" in key else "C1",
        )
    if text.isdecimal():
        return f"cuda:{int(text)}"
    return "cuda:0" if text == "cuda" else text


def parse_max_memory(value: Any) -> dict[str, int] | None:
    """Parse max_memory to bytes by device: GPUs in order, then cpu, then disk; None if it is not set.

    Transformers rejects string keys ("0", "cuda:0"), which YAML and the command line produce; here they mean the same
    device as the number.

    Args:
        value: A map such as {0: 10GiB, cpu: 30GiB}, or a list with a size for each GPU.

    Raises:
        ConfigError: The value is not such a map.
    """
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(
            f"device_map.max_memory={value!r} is not a map",
            fix="Set it to null (use all free memory) or, for example, to '{0: 10GiB, cpu: 30GiB}'.",
            id="C8",
        )
    max_memory: dict[str, int] = {}
    for key, amount in value.items():
        name = parse_device("device_map.max_memory", key)
        if name in max_memory:
            raise ConfigError(f"device_map.max_memory names {name} twice", fix="Remove one of the two entries.")
        max_memory[name] = parse_bytes(f"device_map.max_memory.{key}", amount)
    return {name: max_memory[name] for name in sorted(max_memory, key=fill_order)}


def fill_order(device: str) -> tuple[int, int]:
    """Return a sort key for the order in which devices are filled: GPUs by number, then main memory, then disk."""
    kind, _, number = device.partition(":")
    return ("cuda", "cpu", "disk").index(kind), int(number or 0)


def gib(num_bytes: float) -> str:
    """Format bytes in MiB or GiB."""
    if not num_bytes:
        return "0"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 100 << 20 else f"{num_bytes / 2**20:.2f} MiB"
