"""Records of a placement: which device holds which layer, why, and how many bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.device_map.settings import Device, DeviceInventory, Strategy
from hymt_batch.errors import Problem


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """What one device holds."""

    device: str
    weight_bytes: int
    num_layers: int  # layers whose keys and values it holds: its own and, on the main device, the offloaded ones
    label: str = ""  # the hardware's name


@dataclass(frozen=True, slots=True)
class Placement:
    """The device of each module of a model, and why it was chosen."""

    strategy: Strategy  # the strategy used; never fallback
    map: dict[str, str]  # module name -> device; passed to transformers
    device: Device  # main device: gets the input tokens and runs offloaded layers
    usage: tuple[DeviceUsage, ...]  # one for every device in the map
    replicas: tuple[tuple[str, ...], ...]  # devices of each whole replica that would fit at the same time
    reasons: tuple[str, ...]
    warnings: tuple[Problem, ...] = ()
    offload_folder: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(use.device for use in self.usage)

    @property
    def is_split(self) -> bool:
        """True if the model is on more than one device; main memory and disk count as devices."""
        return len(self.usage) > 1

    def free_cache_bytes(self, free: Mapping[str, int]) -> int:
        """Return how many bytes of keys and values of the whole network fit.

        Args:
            free: Free bytes by device.
        """
        layers = sum(use.num_layers for use in self.usage)
        fitting_bytes = [free[use.device] * layers // use.num_layers for use in self.usage if use.num_layers]
        return max(0, min(fitting_bytes, default=0))

    def predicted_cache_bytes(self, inventory: DeviceInventory) -> int:
        """Return `free_cache_bytes` predicted before loading: free memory now, minus the weights."""
        weights = {use.device: use.weight_bytes for use in self.usage}
        return self.free_cache_bytes({d.name: d.free_bytes - weights.get(d.name, 0) for d in inventory.devices})
