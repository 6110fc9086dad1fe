"""What a strategy decided: which device holds which layer, why, and what it costs. Records only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.device_map.settings import Device, DeviceInventory, Strategy


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What one device holds."""

    device: str
    weight_bytes: int
    num_layers: int  # whose keys and values it holds: its own, and on the main device those offloaded to it
    label: str = ""  # the hardware\'s own name


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the model goes, and why."""

    strategy: Strategy  # the one taken; never fallback
    map: dict[str, str]  # module name -> device; passed to the load
    device: Device  # where tokens enter, and where offloaded layers work
    usage: tuple[DeviceUsage, ...]  # of every device in the map
    replicas: tuple[tuple[str, ...], ...]  # devices of each whole model that would fit beside one another
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    offload_folder: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(use.device for use in self.usage)

    @property
    def is_split(self) -> bool:
        """Whether the model lies on more than one device, main memory and disk included."""
        return len(self.usage) > 1

    def free_cache_bytes(self, free: Mapping[str, int]) -> int:
        """Bytes of keys and values of the whole network that fit what is free on each device."""
        layers = sum(use.num_layers for use in self.usage)
        rooms = [free[use.device] * layers // use.num_layers for use in self.usage if use.num_layers]
        return max(0, min(rooms, default=0))

    def predicted_cache_bytes(self, inventory: DeviceInventory) -> int:
        """The same before loading: what is free now less the weights."""
        weights = {use.device: use.weight_bytes for use in self.usage}
        return self.free_cache_bytes({d.name: d.free_bytes - weights.get(d.name, 0) for d in inventory.devices})
