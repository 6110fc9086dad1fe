"""Format a placement as a table: ranges of layers, bytes, shares. Does not plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.planner import device_of

_NUMBERED = re.compile(r"(.*\.)(\d+)")


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Consecutive modules on one device."""

    modules: str  # "model.layers.0-17" or "model.embed_tokens, lm_head"
    device: str
    num_layers: int
    weight_bytes: int


def layer_groups(device_map: Mapping[str, str], network: NetworkSpec, dtype_bytes: int) -> list[LayerGroup]:
    """Return the network's modules in order, as groups.

    Consecutive layers on one device are one group; so are tied modules.

    Args:
        device_map: Module name -> device.
        network: The placed network.
        dtype_bytes: Bytes per element of the weights.
    """
    sizes = network.module_bytes(dtype_bytes)
    layers = {layer.name for layer in network.layers}
    tied = {weight.rpartition(".")[0]: name.rpartition(".")[0] for name, weight in network.tied.items()}
    groups: list[tuple[list[str], str]] = []
    layer_prefix: str | None = None
    for module in network.root.walk():
        if layer_prefix and module.name.startswith(layer_prefix):
            continue
        layer_prefix = f"{module.name}." if module.name in layers else None
        if not (module.name in layers or module.tensors) or module.name in tied.values():
            continue
        device = device_of(device_map, module.name) or "cpu"
        same_device = groups and groups[-1][1] == device and (groups[-1][0][-1] in layers) == (module.name in layers)
        if same_device and (module.name in layers or not any(tensor.stored for tensor in module.tensors)):
            groups[-1][0].append(module.name)
        else:
            groups.append(([module.name], device))
    return [
        LayerGroup(
            _label(names) + (f", {tied[names[0]]}" if names[0] in tied else ""),
            device,
            sum(name in layers for name in names),
            sum(sizes.get(name, 0) for name in names),
        )
        for names, device in groups
    ]


def _label(names: list[str]) -> str:
    match = _NUMBERED.fullmatch(names[0])
    if match is None or len(names) == 1:
        return ", ".join(names)
    return f"{match[1]}{match[2]}-{names[-1].rpartition('.')[2]}"


def compact_map(device_map: Mapping[str, str], network: NetworkSpec) -> dict[str, str]:
    """Return the map with consecutive layers as ranges, for manifests and logs; {"": device} for a single device."""
    if set(device_map) == {""}:
        return dict(device_map)
    return {group.modules: group.device for group in layer_groups(device_map, network, 2)}


def rows(placement: Placement, network: NetworkSpec, dtype_bytes: int, cache_bytes: int) -> list[tuple[str, ...]]:
    """Return the rows of the placement's table, header first: modules, device, weights, keys and values, share.

    Args:
        placement: The placement to show.
        network: The placed network.
        dtype_bytes: Bytes per element of the weights.
        cache_bytes: Bytes of keys and values of the configured slots, over all layers.
    """
    groups = layer_groups(placement.map, network, dtype_bytes)
    total_bytes = network.num_bytes(dtype_bytes) or 1
    num_layers = network.num_layers or 1
    table: list[tuple[str, ...]] = [("modules", "device", "GiB", "KV GiB", "share")]
    for group in groups:
        group_cache_bytes = cache_bytes * group.num_layers / num_layers
        table.append(
            (
                group.modules,
                group.device,
                f"{group.weight_bytes / 2**30:.3f}",
                f"{group_cache_bytes / 2**30:.3f}" if group.num_layers else "-",
                f"{100 * group.weight_bytes / total_bytes:.1f} %",
            )
        )
    return table


def render(table: list[tuple[str, ...]], indent: str = "  ") -> str:
    """Render a table as text, with the first two columns left-aligned and the numbers right-aligned."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        indent
        + "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
