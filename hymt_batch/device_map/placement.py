"""What a strategy decided: which device holds which layer, why, and what it costs. Records only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.device_map.settings import Census, Device, Strategy


@dataclass(frozen=True, slots=True)
class Use:
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
    uses: tuple[Use, ...]  # of every device in the map
    replicas: tuple[tuple[str, ...], ...]  # devices of each whole model that would fit beside one another
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    offload_folder: str | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(use.device for use in self.uses)

    @property
    def splits(self) -> bool:
        """Whether the model lies on more than one device, main memory and disk included."""
        return len(self.uses) > 1

    def cache_room(self, free: Mapping[str, int]) -> int:
        """Bytes of keys and values of the whole network that fit what is free on each device."""
        layers = sum(use.num_layers for use in self.uses)
        rooms = [free[use.device] * layers // use.num_layers for use in self.uses if use.num_layers]
        return max(0, min(rooms, default=0))

    def predicted_room(self, census: Census) -> int:
        """The same before loading: what is free now less the weights."""
        weights = {use.device: use.weight_bytes for use in self.uses}
        return self.cache_room({d.name: d.free_bytes - weights.get(d.name, 0) for d in census.devices})
