"""Resolve a device map that the user wrote (ranges and patterns of module names -> devices) before anything is loaded.

If a map omits a module, transformers silently puts it on the CPU; if tied weights or the parts of a layer are on
different devices, it fails in the first step. Here each of these is refused, naming the module.
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
from hymt_batch.errors import ConfigError, first_line

RANGE_SPECIFICITY = 3
_RANGE_PATTERN = re.compile(r"(.*\.)(\d+)-(\d+)")
_EXAMPLE = "{model.embed_tokens: 0, model.layers.0-15: 0, model.layers.16-31: 1, model.norm: 1, lm_head: 0}"


def read(value: str | Mapping[Any, Any]) -> dict[str, str]:
    """Return the entries of a map: pattern -> device.

    Args:
        value: The map itself, or the path of a YAML file that contains it.

    Raises:
        ConfigError: The file is missing or does not contain a map, or an entry does not name a device.
    """
    if isinstance(value, str):
        value = _read_yaml(Path(os.path.expanduser(value)))
    if not value:
        raise ConfigError("device_map.map is empty", fix=f"Set it to, for example, {_EXAMPLE}.")
    return {str(key).strip(): parse_device(f"device_map.map.{key}", device) for key, device in value.items()}


def _read_yaml(path: Path) -> Mapping[Any, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"device_map.map={path} cannot be read ({error.strerror})",
            fix=f"Set it to a YAML file or to a map: {_EXAMPLE}.",
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"device_map.map={path} is not YAML ({reason})", fix="Write lines such as model.norm: 0."
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"device_map.map={path} does not contain a map", fix="Write lines such as `model.layers.0-15: 0`."
        )
    return content


def resolve(entries: Mapping[str, str], network: NetworkSpec) -> dict[str, str]:
    """Resolve patterns to a grouped map of module -> device.

    Args:
        entries: Module names, ranges (`model.layers.0-15`) or globs (`model.layers.*`) -> device. The most specific
            entry wins: a name over a range, a range over a glob, a glob over one that matches more modules.
        network: The network to place. Modules without weights, such as the rotary embedding, go with the final norm.

    Raises:
        ConfigError: An entry matches nothing, two entries disagree, a module has no device, or a layer or tied weights
            are split over devices (C13-C17, C24).
    """
    modules = _placeable_modules(network)
    chosen: dict[str, tuple[tuple[int, int], str, str]] = {}  # module -> (specificity, pattern, device)
    for pattern, device in entries.items():
        level, matched = _match(pattern, modules, network)
        specificity = (level, 0 if level == RANGE_SPECIFICITY else -len(matched))
        for module in matched:
            current = chosen.get(module)
            if current and current[0] == specificity and current[2] != device:
                raise ConfigError(
                    f"device_map.map puts {module} on {current[2]} ({current[1]}) and on {device} ({pattern})",
                    fix="Remove one of the two entries.",
                )
            if current is None or specificity > current[0]:
                chosen[module] = (specificity, pattern, device)
    device_map = {module: device for module, (_, _, device) in chosen.items()}
    missing = [module for module in modules if module not in device_map and modules[module]]
    if missing:
        raise ConfigError(
            f"device_map.map gives no device for {_join_names(missing)}",
            why=f"transformers would silently put {'it' if len(missing) == 1 else 'them'} on the CPU",
            fix="Add an entry for each, or one for all modules, such as '*: cpu'.",
            id="C13",
        )
    for module in modules:
        device_map.setdefault(module, device_map.get("model.norm", next(iter(device_map.values()))))
    for tied, weight in network.tied.items():
        tied_module, source_module = tied.rpartition(".")[0], weight.rpartition(".")[0]
        if device_map[tied_module] != device_map[source_module]:
            raise ConfigError(
                f"device_map.map puts {tied_module} on {device_map[tied_module]} and {source_module} on "
                f"{device_map[source_module]}, but they share one weight (tied)",
                fix="Put both on the same device.",
                id="C16",
            )
    if set(device_map.values()) == {"disk"}:
        raise ConfigError(
            "device_map.map puts the whole model on disk, where it cannot run", fix="Set device_map=cpu.", id="C17"
        )
    return group_modules({module: device_map[module] for module in modules})


def _placeable_modules(network: NetworkSpec) -> dict[str, bool]:
    """Return the modules that a map can place -> whether they have weights, in the network's order.

    These are the decoder layers and the modules outside of them.
    """
    modules: dict[str, bool] = {}
    inside = {module.name for layer in network.layers for module in layer.walk()} - {m.name for m in network.layers}
    for module in network.root.walk():
        if module.name in inside or not (module.no_split or module.tensors):
            continue
        modules[module.name] = any(tensor.stored for tensor in module.all_tensors())
    return modules


def _match(pattern: str, modules: Mapping[str, bool], network: NetworkSpec) -> tuple[int, list[str]]:
    """Return how specific an entry is (higher wins) and the modules that it places."""
    if pattern in ("", "*"):
        return 0, list(modules)
    if pattern in modules:
        return 4, [pattern]
    children = [module for module in modules if module.startswith(f"{pattern}.")]
    if children:  # a parent module, such as model or model.layers
        return 1, children
    if match := _RANGE_PATTERN.fullmatch(pattern):
        first, last = int(match[2]), int(match[3])
        layer_names = [f"{match[1]}{index}" for index in range(first, last + 1)] if last - first < 10_000 else []
        if first <= last and layer_names and all(name in modules for name in layer_names):
            return RANGE_SPECIFICITY, layer_names
        layers = len(network.layers)
        raise ConfigError(
            f"device_map.map: {pattern} is not a range of this network, whose layers are model.layers.0-{layers - 1}",
            fix="Correct the range.",
        )
    layer_parts = [
        m.name for layer in network.layers for m in layer.walk() if m.name == pattern or _has_tensor(m, pattern)
    ]
    if layer_parts:
        layer = next(layer.name for layer in network.layers if pattern.startswith(f"{layer.name}."))
        raise ConfigError(
            f"device_map.map: {pattern} would split {layer}, whose parts must be on one device",
            fix=f"Place {layer} instead.",
            id="C24",
        )
    matched = fnmatch.filter(modules, pattern)
    if not matched:
        similar = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.3)
        raise ConfigError(
            f"device_map.map: {pattern} matches no module of this network",
            fix=f"Most similar: {', '.join(similar) or 'nothing'}. The modules are model.embed_tokens, "
            f"model.layers.0-{len(network.layers) - 1}, model.norm, lm_head.",
            id="C15",
        )
    return 2, matched


def _has_tensor(module: Any, name: str) -> bool:
    return any(tensor.name == name for tensor in module.tensors)


def _join_names(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
