"""The strategies of transformers' device_map as a plan of our own: the same map, without torch, weights or devices.

`spread` gives what `device_map="auto"`, "balanced", "balanced_low_0" and "sequential" of transformers 5.23 give for the
same limits of memory; tests compare the two over random networks and limits. Each load then passes the map explicitly,
so that every version of the libraries places alike. Does not judge whether a placement is wise.

How it fills: modules in the network's order; a module that does not fit is replaced by its children, a decoder layer
never; what does not fit at all opens the next device, and a device that was left is never filled again. The first GPU
and main memory keep room for the largest layer still to come, as an offloaded layer is brought there to work. A tied
weight goes with the first of its group.

Source: behaviour of `get_balanced_memory` and `infer_auto_device_map` in transformers 5.23, integrations/accelerate.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from hymt_batch.device_map.network_spec import ModuleSpec, NetworkSpec
from hymt_batch.device_map.settings import Strategy

SHARE_BUFFER = 1.25
"""Room on a balanced GPU beyond its even share, in largest layers."""


def infer_device_map(
    network: NetworkSpec, strategy: Strategy, max_memory: Mapping[str, int], dtype_bytes: int
) -> dict[str, str]:
    """Lay a network over devices.

    Args:
        network: Its shape.
        strategy: auto, balanced, balanced_low_0 or sequential.
        limits: Bytes of weights by device: GPUs in order, then "cpu", then "disk". What fits none goes to disk.
        dtype_bytes: Bytes of one element of the weights.

    Returns:
        Module name -> device, modules on one device grouped; {"": device} where all of it is on one.
    """
    sizes = network.module_bytes(dtype_bytes)
    if strategy is not Strategy.sequential:
        max_memory = _balance_max_memory(network, max_memory, sizes, low_first=strategy is Strategy.balanced_low_0)
    return group_modules(_assign(network, max_memory, sizes))


def _balance_max_memory(
    network: NetworkSpec, max_memory: Mapping[str, int], sizes: Mapping[str, int], *, low_first: bool
) -> dict[str, int]:
    """The limits cut to even shares; the last GPU keeps its own, in case the shares are too small."""
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
        others = sum(balanced[device] for device in gpus[1:])
        balanced[gpus[0]] = min(max(0, sizes[""] - others), max_memory[gpus[0]])
    return balanced


def _direct_tensor_bytes(network: NetworkSpec, sizes: Mapping[str, int]) -> Iterable[int]:
    """Bytes of the tensors that each module holds itself."""
    for module in network.root.walk():
        if module.tensors:
            yield sum(sizes.get(tensor.name, 0) for tensor in module.tensors)


class _Node:
    """A module or a single tensor on the way to a device."""

    def __init__(self, name: str, module: ModuleSpec | None) -> None:
        self.name, self.module = name, module

    @property
    def children(self) -> list[_Node]:
        """What it may be replaced by; nothing for a tensor, a leaf or a decoder layer."""
        if self.module is None or self.module.no_split or not self.module.children:
            return []
        # buffers of a module that is cut have no line of their own
        tensors = [_Node(tensor.name, None) for tensor in self.module.tensors if tensor.stored]
        return tensors + [_Node(child.name, child) for child in self.module.children]

    def contains(self, tensor: str) -> bool:
        return f"{tensor}.".startswith(f"{self.name}.")


def _assign(network: NetworkSpec, max_memory: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, str]:
    devices = [device for device in max_memory if device != "disk"] + ["disk"]
    gpus = [device for device in devices if device.startswith("cuda")]
    roomy = {*gpus[:1], "cpu"}
    used = dict.fromkeys(devices, 0)
    ties = list(network.tied.items())
    queue = deque(_Node(child.name, child) for child in network.root.children)
    largest, names = _largest_layers(queue, sizes)
    placed: dict[str, str] = {}
    current = 0
    while queue:
        node = queue.popleft()
        names = [name for name in names if name != node.name and not name.startswith(f"{node.name}.")]
        if not names:
            largest, names = _largest_layers(queue, sizes)
        split = [group for group in ties if 0 < sum(map(node.contains, group)) < len(group)]
        partners = _tied_nodes([tensor for group in split for tensor in group if not node.contains(tensor)], queue)
        need = sizes.get(node.name, 0)
        together = need + sum(sizes.get(partner.name, 0) for partner in partners)
        device = devices[current]
        room = largest if device in roomy else 0
        left = None if device == "disk" else max_memory[device] - room - used[device]
        if left is None or together <= left:
            used[device] += together
            for one in (node, *partners):
                placed[one.name] = device
            for partner in partners:
                queue.remove(partner)
            continue
        if need <= left and _split_tied_node(partners, queue):
            queue.appendleft(node)
            largest, names = _largest_layers(queue, sizes)
            continue
        if parts := node.children:
            queue.extendleft(reversed(parts))
            largest, names = _largest_layers(queue, sizes)
            continue
        used[device] += room
        current += 1
        queue.appendleft(node)
    return placed


def _tied_nodes(tensors: Iterable[str], queue: Iterable[_Node]) -> list[_Node]:
    """The waiting nodes that hold weights tied to the current one."""
    found: list[_Node] = []
    for tensor in tensors:
        partner = next(node for node in queue if node.contains(tensor))
        if partner not in found:
            found.append(partner)
    return found


def _split_tied_node(tied_nodes: Iterable[_Node], queue: deque[_Node]) -> bool:
    """Replace the first tied module that can be cut by its children, where it stands."""
    for partner in tied_nodes:
        if parts := partner.children:
            place = queue.index(partner)
            queue.remove(partner)
            for offset, part in enumerate(parts):
                queue.insert(place + offset, part)
            return True
    return False


def _largest_layers(nodes: Iterable[_Node], sizes: Mapping[str, int]) -> tuple[int, list[str]]:
    """Bytes of the largest layer among what is left, and the names of all that are as large."""
    most, names = 0, list[str]()
    waiting = [node for node in nodes if node.module][::-1]
    while waiting:
        node = waiting.pop()
        inner = [_Node(child.name, child) for child in node.module.children] if node.module else []
        if inner and not (node.module and node.module.no_split):
            waiting += inner[::-1]
            continue
        size = sizes.get(node.name, 0)
        if size > most:
            most, names = size, [node.name]
        elif size == most:
            names.append(node.name)
    return most, names


def group_modules(device_map: Mapping[str, str]) -> dict[str, str]:
    """Write modules that are on one device as the module above them, from the root down."""
    found: dict[str, str] = {}

    def group(name: str, below: dict[str, str]) -> None:
        if len(set(below.values())) == 1 and (len(below) > 1 or name in below):
            found[name] = next(iter(below.values()))
            return
        depth = name.count(".") + 1 if name else 0
        children: dict[str, dict[str, str]] = {}
        for key, device in below.items():
            children.setdefault(".".join(key.split(".")[: depth + 1]), {})[key] = device
        for child, inside in children.items():
            group(child, inside)

    group("", dict(device_map))
    return found


def device_of(device_map: Mapping[str, str], name: str) -> str | None:
    """The device of a module or tensor: that of the nearest name at or above it; None where the map has none."""
    while name not in device_map:
        if not name:
            return None
        name = name.rpartition(".")[0]
    return device_map[name]
