"""A placement as people read it: runs of layers, bytes, shares. Does not plan."""

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
    """Modules that stand together on one device."""

    modules: str  # "model.layers.0-17" or "model.embed_tokens, lm_head"
    device: str
    num_layers: int
    weight_bytes: int


def layer_groups(device_map: Mapping[str, str], network: NetworkSpec, dtype_bytes: int) -> list[LayerGroup]:
    """The network's modules in order, neighbouring layers of one device as one line; tied modules on one line."""
    sizes = network.module_bytes(dtype_bytes)
    layers = {layer.name for layer in network.layers}
    tied = {weight.rpartition(".")[0]: name.rpartition(".")[0] for name, weight in network.tied.items()}
    found: list[tuple[list[str], str]] = []
    inside: str | None = None
    for module in network.root.walk():
        if inside and module.name.startswith(inside):
            continue
        inside = f"{module.name}." if module.name in layers else None
        if not (module.name in layers or module.tensors) or module.name in tied.values():
            continue
        device = device_of(device_map, module.name) or "cpu"
        beside = found and found[-1][1] == device and (found[-1][0][-1] in layers) == (module.name in layers)
        if beside and (module.name in layers or not any(tensor.stored for tensor in module.tensors)):
            found[-1][0].append(module.name)
        else:
            found.append(([module.name], device))
    return [
        LayerGroup(
            _label(names) + (f", {tied[names[0]]}" if names[0] in tied else ""),
            device,
            sum(name in layers for name in names),
            sum(sizes.get(name, 0) for name in names),
        )
        for names, device in found
    ]


def _label(names: list[str]) -> str:
    match = _NUMBERED.fullmatch(names[0])
    if match is None or len(names) == 1:
        return ", ".join(names)
    return f"{match[1]}{match[2]}-{names[-1].rpartition('.')[2]}"


def compact_map(device_map: Mapping[str, str], network: NetworkSpec) -> dict[str, str]:
    """The map with neighbouring layers as ranges, for manifests and logs; {"": device} where all is on one."""
    if set(device_map) == {""}:
        return dict(device_map)
    return {run.modules: run.device for run in layer_groups(device_map, network, 2)}


def rows(placement: Placement, network: NetworkSpec, dtype_bytes: int, cache_bytes: int) -> list[tuple[str, ...]]:
    """Cells of the placement's table, the header first: modules, device, weights, keys and values, share.

    Args:
        placement: What is shown.
        network: Its network.
        dtype_bytes: Bytes of an element.
        cache_bytes: Keys and values of the configured slots, over all layers.
    """
    lines = layer_groups(placement.map, network, dtype_bytes)
    total = network.num_bytes(dtype_bytes) or 1
    layers = network.num_layers or 1
    table: list[tuple[str, ...]] = [("modules", "device", "GiB", "KV GiB", "share")]
    for run in lines:
        cache = cache_bytes * run.num_layers / layers
        table.append(
            (
                run.modules,
                run.device,
                f"{run.weight_bytes / 2**30:.3f}",
                f"{cache / 2**30:.3f}" if run.num_layers else "-",
                f"{100 * run.weight_bytes / total:.1f} %",
            )
        )
    return table


def render(table: list[tuple[str, ...]], indent: str = "  ") -> str:
    """A table as text: the first two columns to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        indent
        + "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
