"""A device map that a person wrote: ranges and patterns of module names -> devices, checked before anything loads.

Transformers takes a map that forgets a module and puts it on the CPU in silence, or fails in the first step when tied
weights or the halves of a layer lie apart; here each is refused with the module's name.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.planner import group_modules
from hymt_batch.device_map.settings import parse_device
from hymt_batch.errors import ConfigError

RANGE_SPECIFICITY = 3
_RANGE_PATTERN = re.compile(r"(.*\.)(\d+)-(\d+)")
_EXAMPLE = "{model.embed_tokens: 0, model.layers.0-15: 0, model.layers.16-31: 1, model.norm: 1, lm_head: 0}"


def read(value: str | Mapping[Any, Any]) -> dict[str, str]:
    """The lines of a map, from a YAML file or as they are: pattern -> device.

    Raises:
        ConfigError: The file is not there or is no map, or a line names no device.
    """
    if isinstance(value, str):
        value = _read_yaml(Path(os.path.expanduser(value)))
    if not value:
        raise ConfigError(f"device_map.map is empty. Write for example {_EXAMPLE}.")
    return {str(key).strip(): parse_device(f"device_map.map.{key}", device) for key, device in value.items()}


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"device_map.map={path} cannot be read ({error.strerror}). Give a YAML file, or the map itself: {_EXAMPLE}."
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        what = str(error).splitlines()[0]
        raise ConfigError(f"device_map.map={path} is not YAML ({what}). Write lines such as model.norm: 0.") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"device_map.map={path} holds no map. Write lines such as `model.layers.0-15: 0`.")
    return content


def resolve(entries: Mapping[str, str], network: NetworkSpec) -> dict[str, str]:
    """Module -> device, grouped, from patterns.

    Args:
        lines: Module names, ranges (`model.layers.0-15`) or globs (`model.layers.*`) -> device. A more exact line
            wins over a wider one: a name over a range, a range over a glob, a glob over one that matches more.
        network: What is to be placed. Modules without weights, such as the rotary embedding, go with the norm.

    Raises:
        ConfigError: A line matches nothing, two lines disagree, a layer is cut, tied weights lie apart (C13-C16, C24).
    """
    units = _placeable_modules(network)
    chosen: dict[str, tuple[tuple[int, int], str, str]] = {}  # unit -> (exactness, pattern, device)
    for pattern, device in entries.items():
        kind, found = _match(pattern, units, network)
        exactness = (kind, 0 if kind == RANGE_SPECIFICITY else -len(found))
        for unit in found:
            held = chosen.get(unit)
            if held and held[0] == exactness and held[2] != device:
                raise ConfigError(
                    f"device_map.map puts {unit} on {held[2]} ({held[1]}) and on {device} ({pattern}). Keep one."
                )
            if held is None or exactness > held[0]:
                chosen[unit] = (exactness, pattern, device)
    placed = {unit: device for unit, (_, _, device) in chosen.items()}
    missing = [unit for unit in units if unit not in placed and units[unit]]
    if missing:
        raise ConfigError(
            f"device_map.map gives no device for {_join_names(missing)}; transformers would put "
            f"{'it' if len(missing) == 1 else 'them'} on the CPU in silence. Add a line, or one for "
            "all, such as '*: cpu'.",
            id="C13",
        )
    for unit in units:
        placed.setdefault(unit, placed.get("model.norm", next(iter(placed.values()))))
    for tied, weight in network.tied.items():
        one, other = tied.rpartition(".")[0], weight.rpartition(".")[0]
        if placed[one] != placed[other]:
            raise ConfigError(
                f"device_map.map puts {one} on {placed[one]} and {other} on {placed[other]}, but they are one weight "
                f"(tied). Put both on one device.",
                id="C16",
            )
    if set(placed.values()) == {"disk"}:
        raise ConfigError(
            "device_map.map puts the whole model on disk, where it cannot work. Use device_map=cpu.", id="C17"
        )
    return group_modules({unit: placed[unit] for unit in units})


def _placeable_modules(network: NetworkSpec) -> dict[str, bool]:
    """What a map may place, in the network's order: decoder layers and modules outside of them; with weights or not."""
    found: dict[str, bool] = {}
    inside = {module.name for layer in network.layers for module in layer.walk()} - {m.name for m in network.layers}
    for module in network.root.walk():
        if module.name in inside or not (module.no_split or module.tensors):
            continue
        found[module.name] = any(tensor.stored for tensor in module.all_tensors())
    return found


def _match(pattern: str, modules: Mapping[str, bool], network: NetworkSpec) -> tuple[int, list[str]]:
    """How exact a line is, and the units it places."""
    if pattern in ("", "*"):
        return 0, list(modules)
    if pattern in modules:
        return 4, [pattern]
    below = [unit for unit in modules if unit.startswith(f"{pattern}.")]
    if below:  # a module above, such as model or model.layers
        return 1, below
    if match := _RANGE_PATTERN.fullmatch(pattern):
        first, last = int(match[2]), int(match[3])
        wanted = [f"{match[1]}{number}" for number in range(first, last + 1)] if last - first < 10_000 else []
        if first <= last and wanted and all(name in modules for name in wanted):
            return RANGE_SPECIFICITY, wanted
        layers = len(network.layers)
        raise ConfigError(
            f"device_map.map: {pattern} is no range of this network, whose layers are model.layers.0-{layers - 1}."
        )
    inside = [m.name for layer in network.layers for m in layer.walk() if m.name == pattern or _has_tensor(m, pattern)]
    if inside:
        layer = next(layer.name for layer in network.layers if pattern.startswith(f"{layer.name}."))
        raise ConfigError(
            f"device_map.map: {pattern} would cut {layer}, whose parts must be on one device. Place {layer}.",
            id="C24",
        )
    found = fnmatch.filter(modules, pattern)
    if not found:
        near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.3)
        raise ConfigError(
            f"device_map.map: {pattern} matches nothing in this network. Near it: {', '.join(near) or 'nothing'}. "
            f"Modules are model.embed_tokens, model.layers.0-{len(network.layers) - 1}, model.norm, lm_head.",
            id="C15",
        )
    return 2, found


def _has_tensor(module: Any, name: str) -> bool:
    return any(tensor.name == name for tensor in module.tensors)


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
