"""Compute the device maps of transformers' strategies without torch, weights or devices.

`infer_device_map` returns the maps that transformers 5.23 infers for `device_map="auto"`, "balanced", "balanced_low_0"
and "sequential" with the same memory limits; tests compare both on random networks and limits. Loading passes the map
explicitly, so that all versions of the libraries place the model in the same way. Does not judge whether a placement
is a good one.

The algorithm places modules in the network's order. A module that does not fit is replaced by its children, except for
a decoder layer, which is never split. If a module cannot be split, the next device is opened; earlier devices are never
filled again. The first GPU and main memory reserve room for the largest layer not yet placed, because offloaded layers
are copied there to run. Tied weights go to the device of the first one in their group.

Source: behaviour of `get_balanced_memory` and `infer_auto_device_map` in transformers 5.23, integrations/accelerate.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from hymt_batch.device_map.network_spec import ModuleSpec, NetworkSpec
from hymt_batch.device_map.settings import Strategy

SHARE_BUFFER = 1.25
"""Extra room on a balanced GPU beyond its even share, as a multiple of the largest layer."""


def infer_device_map(
    network: NetworkSpec, strategy: Strategy, max_memory: Mapping[str, int], dtype_bytes: int
) -> dict[str, str]:
    """Assign the modules of a network to devices.

    Args:
        network: The network to place.
        strategy: auto, balanced, balanced_low_0 or sequential.
        max_memory: Bytes of weights by device: GPUs in order, then "cpu", then "disk". What fits nowhere goes to disk.
        dtype_bytes: Bytes per element of the weights.

    Returns:
        Module name -> device, with modules on the same device grouped; {"": device} if all are on one device.
    """
    sizes = network.module_bytes(dtype_bytes)
    if strategy is not Strategy.sequential:
        max_memory = _balance_max_memory(network, max_memory, sizes, low_first=strategy is Strategy.balanced_low_0)
    return group_modules(_assign(network, max_memory, sizes))


def _balance_max_memory(
    network: NetworkSpec, max_memory: Mapping[str, int], sizes: Mapping[str, int], *, low_first: bool
) -> dict[str, int]:
    """Reduce the limits to even shares; the last GPU keeps its limit, in case the shares are too small."""
    balanced = dict(max_memory)
    gpus = [device for device in max_memory if device.startswith("cuda") and max_memory[device] > 0]
    if not gpus:
        return balanced
    low_first = low_first and len(gpus) > 1
    largest = max(
        max((sizes[module.name] for module in network.layers), default=0),
        max(_direct_tensor_bytes(network, sizes), default=0),
    )
    share = sizes[""] // (len(gpus) - low_first) + int(SHARE_BUFFER * largest)
    for device in gpus[:-1]:
        if not (low_first and device == gpus[0]):
            balanced[device] = min(share, max_memory[device])
    if low_first:
        others_bytes = sum(balanced[device] for device in gpus[1:])
        balanced[gpus[0]] = min(max(0, sizes[""] - others_bytes), max_memory[gpus[0]])
    return balanced


def _direct_tensor_bytes(network: NetworkSpec, sizes: Mapping[str, int]) -> Iterable[int]:
    """Yield, for each module with direct tensors, their bytes."""
    for module in network.root.walk():
        if module.tensors:
            yield sum(sizes.get(tensor.name, 0) for tensor in module.tensors)


class _Node:
    """A module or a single tensor that is to be placed."""

    def __init__(self, name: str, module: ModuleSpec | None) -> None:
        self.name, self.module = name, module

    @property
    def children(self) -> list[_Node]:
        """The nodes that may replace it; none for a tensor, a leaf or a decoder layer."""
        if self.module is None or self.module.no_split or not self.module.children:
            return []
        # the buffers of a split module get no entry in the map
        tensors = [_Node(tensor.name, None) for tensor in self.module.tensors if tensor.stored]
        return tensors + [_Node(child.name, child) for child in self.module.children]

    def contains(self, tensor: str) -> bool:
        return f"{tensor}.".startswith(f"{self.name}.")


def _assign(network: NetworkSpec, max_memory: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, str]:
    devices = [device for device in max_memory if device != "disk"] + ["disk"]
    gpus = [device for device in devices if device.startswith("cuda")]
    reserving = {*gpus[:1], "cpu"}
    used = dict.fromkeys(devices, 0)
    ties = list(network.tied.items())
    queue = deque(_Node(child.name, child) for child in network.root.children)
    largest, names = _largest_layers(queue, sizes)
    placed: dict[str, str] = {}
    device_index = 0
    while queue:
        node = queue.popleft()
        names = [name for name in names if name != node.name and not name.startswith(f"{node.name}.")]
        if not names:
            largest, names = _largest_layers(queue, sizes)
        split_groups = [group for group in ties if 0 < sum(map(node.contains, group)) < len(group)]
        partners = _tied_nodes(
            [tensor for group in split_groups for tensor in group if not node.contains(tensor)], queue
        )
        need = sizes.get(node.name, 0)
        group_bytes = need + sum(sizes.get(partner.name, 0) for partner in partners)
        device = devices[device_index]
        reserved = largest if device in reserving else 0
        available = None if device == "disk" else max_memory[device] - reserved - used[device]
        if available is None or group_bytes <= available:
            used[device] += group_bytes
            for member in (node, *partners):
                placed[member.name] = device
            for partner in partners:
                queue.remove(partner)
            continue
        if need <= available and _split_tied_node(partners, queue):
            queue.appendleft(node)
            largest, names = _largest_layers(queue, sizes)
            continue
        if parts := node.children:
            queue.extendleft(reversed(parts))
            largest, names = _largest_layers(queue, sizes)
            continue
        used[device] += reserved
        device_index += 1
        queue.appendleft(node)
    return placed


def _tied_nodes(tensors: Iterable[str], queue: Iterable[_Node]) -> list[_Node]:
    """Return the queued nodes that contain the given tensors, which are tied to the current node."""
    nodes: list[_Node] = []
    for tensor in tensors:
        partner = next(node for node in queue if node.contains(tensor))
        if partner not in nodes:
            nodes.append(partner)
    return nodes


def _split_tied_node(tied_nodes: Iterable[_Node], queue: deque[_Node]) -> bool:
    """Replace the first tied node that can be split by its children, at the same position; return False if none can."""
    for partner in tied_nodes:
        if parts := partner.children:
            position = queue.index(partner)
            queue.remove(partner)
            for offset, part in enumerate(parts):
                queue.insert(position + offset, part)
            return True
    return False


def _largest_layers(nodes: Iterable[_Node], sizes: Mapping[str, int]) -> tuple[int, list[str]]:
    """Return the bytes of the largest remaining layer, and the names of all layers of that size."""
    largest, names = 0, list[str]()
    stack = [node for node in nodes if node.module][::-1]
    while stack:
        node = stack.pop()
        children = [_Node(child.name, child) for child in node.module.children] if node.module else []
        if children and not (node.module and node.module.no_split):
            stack += children[::-1]
            continue
        size = sizes.get(node.name, 0)
        if size > largest:
            largest, names = size, [node.name]
        elif size == largest:
            names.append(node.name)
    return largest, names


def group_modules(device_map: Mapping[str, str]) -> dict[str, str]:
    """Replace modules that are on one device by their parent module, from the root down."""
    grouped: dict[str, str] = {}

    def group(name: str, entries: dict[str, str]) -> None:
        if len(set(entries.values())) == 1 and (len(entries) > 1 or name in entries):
            grouped[name] = next(iter(entries.values()))
            return
        depth = name.count(".") + 1 if name else 0
        children: dict[str, dict[str, str]] = {}
        for key, device in entries.items():
            children.setdefault(".".join(key.split(".")[: depth + 1]), {})[key] = device
        for child, child_entries in children.items():
            group(child, child_entries)

    group("", dict(device_map))
    return grouped


def device_of(device_map: Mapping[str, str], name: str) -> str | None:
    """Return the device of a module or tensor: that of its nearest ancestor in the map; None if there is none."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return device_map[name]
