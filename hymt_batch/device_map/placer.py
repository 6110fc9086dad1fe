"""Place one network on the devices of one machine with any strategy; an error suggests what would fit instead.

Does not import torch and loads nothing. The public functions are in `select_placement.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hymt_batch.device_map import disk, manual, planner
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.replicas import idle_warnings, split_warning
from hymt_batch.device_map.settings import (
    SPLIT_STRATEGIES,
    Device,
    DeviceInventory,
    DeviceMapConfig,
    Strategy,
    fill_order,
    gib,
)
from hymt_batch.errors import HymtError, PreflightError, Problem
from hymt_batch.records import plural

CPU_MEMORY_SHARE = 0.9
"""Share of the free main memory that an offloaded model may use; transformers 5.23 uses the same share."""

BUS_BYTES_PER_S, DISK_BYTES_PER_S = 20e9, 2e9
"""Optimistic transfer speeds of offloaded weights to a GPU (PCIe 4.0, an NVMe disk); only for the warning."""


class Placer:
    """Places one network on one machine, with any strategy."""

    def __init__(
        self, config: DeviceMapConfig, inventory: DeviceInventory, network: NetworkSpec, dtype_bytes: int, resaved: bool
    ) -> None:
        self.config, self.inventory, self.network, self.resaved = config, inventory, network, resaved
        self.dtype_bytes = dtype_bytes
        self.module_bytes = network.module_bytes(dtype_bytes)
        self.total_bytes = self.module_bytes[""]
        self.largest_layer = max((self.module_bytes[layer.name] for layer in network.layers), default=0)
        self.devices_by_name = {device.name: device for device in inventory.devices}
        for name in config.max_memory or ():
            if name != "disk" and name not in self.devices_by_name:
                raise self._unknown_device_error(f"device_map.max_memory names {name}")

    def place(self, strategy: Strategy) -> Placement:
        if strategy is Strategy.cpu:
            return self._place_on_cpu("device_map=cpu is set")
        if strategy is Strategy.manual:
            return self._place_manually()
        if strategy is Strategy.single and self.config.device is not None:
            return self._place_on_device(f"cuda:{self.config.device}")
        if strategy is Strategy.offload:
            return self._place_offloaded()
        if not self.inventory.gpus:
            return self._place_on_cpu("this machine has no GPU")
        return self._place_split(strategy) if strategy in SPLIT_STRATEGIES else self._place_whole(strategy)

    def _place_whole(self, strategy: Strategy) -> Placement:
        """Place the whole model on the first GPU that has room for it."""
        fitting = [device for device in self.inventory.gpus if self._spare_bytes(device.name, self.total_bytes) >= 0]
        if not fitting:
            best = max(self.inventory.gpus, key=lambda device: device.free_bytes)
            raise self._too_large_error(best, f"device_map={strategy.value}")
        first = fitting[0]
        reasons = [f"{gib(self.total_bytes)} of weights fit on {first.name}, so the model is not split"]
        if strategy is not Strategy.replicate:
            return self._build_placement(strategy, {"": first.name}, reasons)
        if len(fitting) > 1:
            reasons.append(f"{len(fitting)} GPUs can hold a replica each")
        replicas = tuple((device.name,) for device in fitting)
        return self._build_placement(strategy, {"": first.name}, reasons, replicas=replicas)

    def _place_on_device(self, name: str) -> Placement:
        if name not in self.devices_by_name:
            raise self._unknown_device_error(f"device_map.device={self.config.device}")
        if self._spare_bytes(name, self.total_bytes) < 0:
            raise self._too_large_error(self.devices_by_name[name], "device_map=single")
        return self._build_placement(Strategy.single, {"": name}, [f"device_map.device={self.config.device} is set"])

    def _place_split(self, strategy: Strategy) -> Placement:
        """Split the model over the GPUs; it goes to main memory or disk only if device_map.max_memory names them."""
        limits = self._max_memory(cpu=False)
        device_map = planner.infer_device_map(self.network, strategy, limits, self.dtype_bytes)
        overflow_devices = [
            device for device in ("cpu", "disk") if device in device_map.values() and device not in limits
        ]
        if overflow_devices:
            raise self._overflow_error(strategy, device_map, limits)
        reasons = [f"{strategy.value} over {plural(len(_gpus(limits)), 'GPU')}, {gib(self.total_bytes)} of weights"]
        warnings = []
        fitting = [device for device in self.inventory.gpus if self._spare_bytes(device.name, self.total_bytes) >= 0]
        if len(set(device_map.values())) > 1 and fitting:
            warnings.append(split_warning([device.name for device in fitting]))
        return self._build_placement(strategy, device_map, reasons, warnings=warnings)

    def _place_offloaded(self) -> Placement:
        limits = self._max_memory(cpu=True)
        if self.config.offload_folder is not None:
            limits.setdefault("disk", 1 << 62)
        device_map = planner.infer_device_map(self.network, Strategy.auto, limits, self.dtype_bytes)
        if "disk" in device_map.values() and "disk" not in limits:
            raise PreflightError(
                f"GPUs and main memory hold {gib(sum(v for k, v in limits.items() if k != 'disk'))} of the "
                f"{gib(self.total_bytes)} of weights",
                fix="Set device_map.offload_folder=FOLDER to put the rest on disk (very slow), free memory, or "
                "choose a smaller model.",
                id="C8",
            )
        if set(device_map.values()) == {"disk"}:
            raise PreflightError(
                "device_map=offload would put the whole model on disk, where it cannot run",
                fix="Raise the limit of main memory (cpu) or of a GPU in device_map.max_memory.",
                id="C17",
            )
        return self._build_placement(
            Strategy.offload, device_map, ["device_map=offload: GPUs first, then main memory, then disk"]
        )

    def _place_manually(self) -> Placement:
        device_map = manual.resolve(manual.read(self.config.map), self.network)
        for name in sorted(set(device_map.values()) - {"disk"}, key=fill_order):
            if name not in self.devices_by_name:
                raise self._unknown_device_error(f"device_map.map names {name}")
        return self._build_placement(Strategy.manual, device_map, ["device_map.map is set"])

    def _place_on_cpu(self, reason: str) -> Placement:
        cpu = self.inventory.cpu
        available = min(cpu.free_bytes, (self.config.max_memory or {}).get("cpu", cpu.free_bytes))
        if self.total_bytes > available:
            raise PreflightError(
                f"The weights take {gib(self.total_bytes)}, but this machine has {gib(available)} of memory left "
                "for them",
                fix="Free memory, set model.dtype=bfloat16, or choose a smaller model.",
                id="G1",
            )
        return self._build_placement(Strategy.cpu, {"": "cpu"}, [reason])

    def _max_memory(self, *, cpu: bool) -> dict[str, int]:
        """Return the limit of weights in bytes by device: max_memory if set, else free memory minus the margin."""
        if self.config.max_memory is not None:
            limits = dict(self.config.max_memory)
        else:
            limits = {d.name: max(0, d.free_bytes - self.config.margin_bytes) for d in self.inventory.gpus}
        if cpu and self.config.max_memory is None:
            limits["cpu"] = int(self.inventory.cpu.free_bytes * CPU_MEMORY_SHARE)
        return {name: limits[name] for name in sorted(limits, key=fill_order)}

    def _spare_bytes(self, name: str, weight_bytes: int) -> int:
        """Return the bytes left on a device after weights and margin; negative if they do not fit."""
        free = self.devices_by_name[name].free_bytes - (self.config.margin_bytes if name != "cpu" else 0)
        limit = (self.config.max_memory or {}).get(name, free if self.config.max_memory is None else 0)
        return int(min(free, limit) - weight_bytes)

    def _build_placement(
        self,
        strategy: Strategy,
        device_map: Mapping[str, str],
        reasons: Sequence[str],
        *,
        warnings: Sequence[Problem] = (),
        replicas: tuple[tuple[str, ...], ...] | None = None,
    ) -> Placement:
        """Build the placement after checking that the weights fit on each device.

        Raises:
            PreflightError: A GPU, the main memory or the offload folder has too little room.
        """
        weights = dict.fromkeys(sorted(set(device_map.values()), key=fill_order), 0)
        for tensor in self.network.weights():
            weights[planner.device_of(device_map, tensor.name) or "cpu"] += tensor.num_bytes(self.dtype_bytes)
        gpus = _gpus(weights)
        main_device = self.devices_by_name[gpus[0] if gpus else "cpu"]
        offloaded = [name for name in weights if name == "disk" or (name == "cpu" and gpus)]
        num_layers = dict.fromkeys(weights, 0)
        num_layers.setdefault(main_device.name, 0)
        for layer in self.network.layers:
            device = planner.device_of(device_map, layer.name) or "cpu"
            num_layers[main_device.name if device in offloaded else device] += 1
        self._check_memory(weights, main_device.name if offloaded else None)
        if weights.get("disk", 0):
            max_disk_bytes = (self.config.max_memory or {}).get("disk")
            disk.check(self.config.offload_folder, weights["disk"], max_disk_bytes, resaved=self.resaved)
        if offloaded:
            warnings = [*warnings, self._offload_warning(weights, offloaded, main_device)]
        replicas = replicas or (tuple(weights),)
        if gpus:
            used = {name for group in replicas for name in group}
            spare_bytes = {gpu.name: self._spare_bytes(gpu.name, self.total_bytes) for gpu in self.inventory.gpus}
            warnings = [*warnings, *idle_warnings(strategy, self.config, self.inventory, used, spare_bytes)]
        labels = {name: device.label for name, device in self.devices_by_name.items()}
        return Placement(
            strategy=strategy,
            map=dict(device_map),
            device=main_device,
            usage=tuple(DeviceUsage(name, weights[name], num_layers[name], labels.get(name, name)) for name in weights),
            replicas=replicas,
            reasons=tuple(reasons),
            warnings=tuple(warnings),
            offload_folder=self.config.offload_folder,
        )

    def _check_memory(self, weights: Mapping[str, int], copied_to: str | None) -> None:
        """Refuse weights that do not fit; offloaded layers are copied to the device `copied_to`, one at a time."""
        for name in _gpus(weights):
            margin = gib(self.config.margin_bytes)
            needed = weights[name] + (self.largest_layer if name == copied_to else 0)
            free = self.devices_by_name[name].free_bytes - self.config.margin_bytes
            if needed > free:
                raise PreflightError(
                    f"{name} ({self.devices_by_name[name].label}) would hold {gib(needed)} of weights, but has "
                    f"{gib(self.devices_by_name[name].free_bytes)} free, of which device_map.margin={margin} is "
                    "kept for keys, values and the libraries",
                    fix="Lower its share in device_map.max_memory, free its memory (nvidia-smi shows which "
                    "processes use it), set model.dtype=bfloat16, or choose a smaller model.",
                    id="C15c" if self.config.max_memory else "C21",
                )
        if weights.get("cpu", 0) > self.inventory.cpu.free_bytes:
            raise PreflightError(
                f"Main memory would hold {gib(weights['cpu'])} of weights, but has "
                f"{gib(self.inventory.cpu.free_bytes)} free",
                fix="Lower device_map.max_memory.cpu, free memory, or choose a smaller model.",
                id="G1",
            )

    def _offload_warning(self, weights: Mapping[str, int], offloaded: Sequence[str], main_device: Device) -> Problem:
        offloaded_bytes = sum(weights[name] for name in offloaded)
        seconds = weights.get("disk", 0) / DISK_BYTES_PER_S
        if main_device.name != "cpu":
            seconds += offloaded_bytes / BUS_BYTES_PER_S
        where = " and ".join({"cpu": "in main memory", "disk": "on disk"}[name] for name in offloaded)
        return Problem(
            what=f"offloaded: {gib(offloaded_bytes)} of {gib(self.total_bytes)} of weights are {where} and are copied "
            f"to {main_device.name} at every step; a step takes at least {seconds:.2g} s for any batch size",
            fix="Free memory of the GPU (nvidia-smi shows which processes use it), or choose a smaller model.",
            id="C9",
        )

    def _unknown_device_error(self, subject: str) -> PreflightError:
        names = ", ".join(device.name for device in self.inventory.gpus)
        return PreflightError(
            f"{subject}: this process sees no such GPU (it sees: {names or 'none'})",
            fix="Number the GPUs from 0 in the order of CUDA_VISIBLE_DEVICES, or set device_map=cpu.",
            id="C26" if names else "A5",
        )

    def _too_large_error(self, device: Device, setting: str) -> PreflightError:
        limit = (self.config.max_memory or {}).get(device.name)
        capped = f", of which device_map.max_memory allows {gib(limit)}" if limit is not None else ""
        return PreflightError(
            f"The weights take {gib(self.total_bytes)} and need {gib(self.config.margin_bytes)} more "
            f"(device_map.margin), but {device.name} ({device.label}) has {gib(device.free_bytes)} free{capped}",
            why=f"{setting} needs the whole model on one device",
            fix=self._suggest_fixes(),
            id="C23",
        )

    def _overflow_error(
        self, strategy: Strategy, device_map: Mapping[str, str], max_memory: Mapping[str, int]
    ) -> PreflightError:
        room = sum(amount for name, amount in max_memory.items() if name.startswith("cuda"))
        outside = sum(planner.device_of(device_map, layer.name) in ("cpu", "disk") for layer in self.network.layers)
        return PreflightError(
            f"The weights take {gib(self.total_bytes)}, but device_map={strategy.value} has room for {gib(room)} on "
            f"{plural(len(_gpus(max_memory)), 'GPU')}",
            why=f"{outside} of {len(self.network.layers)} layers would silently go to main memory or disk",
            fix=self._suggest_fixes(exclude=strategy),
            id="C8" if self.config.max_memory else "C23",
        )

    def _suggest_fixes(self, exclude: Strategy | None = None) -> str:
        """Return a sentence with the alternatives; placements are suggested only if they were tried and fit."""
        suggestions = []
        plain = replace(self.config, strategy=Strategy.auto, device=None, map=None, order=None, max_memory=None)
        for strategy, suggestion in (
            (Strategy.balanced, "split the model over the GPUs with device_map=balanced"),
            (Strategy.offload, "put the rest into main memory with device_map=offload (slow)"),
        ):
            too_few_gpus = strategy is Strategy.balanced and len(self.inventory.gpus) < 2
            if strategy is exclude or too_few_gpus or self.config.strategy is Strategy.fallback:
                continue
            try:
                Placer(plain, self.inventory, self.network, self.dtype_bytes, self.resaved).place(strategy)
                suggestions.append(suggestion)
            except HymtError:
                continue
        suggestions.append("free memory of the GPU (nvidia-smi shows which processes use it)")
        if self.dtype_bytes > 2:
            suggestions.append("set model.dtype=bfloat16")
        suggestions += ["choose a smaller model", "run on the CPU with device_map=cpu"]
        first, *others = suggestions
        return f"{first[0].upper()}{first[1:]}; or {', or '.join(others)}."


def _gpus(names: Mapping[str, int]) -> list[str]:
    return [name for name in names if name.startswith("cuda")]
