"""One network laid over the devices of one machine, by any strategy; each refusal with what would fit instead.

Knows no torch and loads nothing. `place.py` is the stage's face.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hymt_batch.device_map import disk, manual, planner
from hymt_batch.device_map.placement import Placement, Use
from hymt_batch.device_map.settings import SPLITTING, Census, Device, DeviceMapConfig, Strategy, gib, rank
from hymt_batch.device_map.sizes import Network
from hymt_batch.errors import HymtError, PreflightError, tagged

CPU_SHARE = 0.9
"""Of the main memory that is free, what an offloaded model may take; transformers 5.23 takes the same."""

BUS_BYTES_PER_S, DISK_BYTES_PER_S = 20e9, 2e9
"""Optimistic speeds at which offloaded weights reach a GPU (PCIe 4.0, an NVMe disk); for the warning alone."""


class Layout:
    """One network on one machine, laid by any strategy."""

    def __init__(
        self, config: DeviceMapConfig, census: Census, network: Network, dtype_bytes: int, resaved: bool
    ) -> None:
        self.config, self.census, self.network, self.resaved = config, census, network, resaved
        self.dtype_bytes = dtype_bytes
        self.sizes = network.module_bytes(dtype_bytes)
        self.total = self.sizes[""]
        self.largest_layer = max((self.sizes[layer.name] for layer in network.layers), default=0)
        self.by_name = {device.name: device for device in census.devices}
        for name in config.max_memory or ():
            if name != "disk" and name not in self.by_name:
                raise self._unseen(f"device_map.max_memory names {name}")

    def lay(self, strategy: Strategy) -> Placement:
        if strategy is Strategy.cpu:
            return self._on_cpu("device_map=cpu asks for it")
        if strategy is Strategy.manual:
            return self._manual()
        if strategy is Strategy.single and self.config.device is not None:
            return self._single(f"cuda:{self.config.device}")
        if strategy is Strategy.offload:
            return self._offload()
        if not self.census.gpus:
            return self._on_cpu("no GPU in this machine")
        return self._spread(strategy) if strategy in SPLITTING else self._whole(strategy)

    def _whole(self, strategy: Strategy) -> Placement:
        """A whole model on the first GPU that holds it."""
        fitting = [device for device in self.census.gpus if self._spare(device.name, self.total) >= 0]
        if not fitting:
            best = max(self.census.gpus, key=lambda device: device.free_bytes)
            raise self._too_large(best, f"device_map={strategy.value}")
        first = fitting[0]
        reasons = [f"{gib(self.total)} of weights fit {first.name}, so the model is not split"]
        if len(fitting) > 1 and strategy is Strategy.replicate:
            reasons.append(
                f"{len(fitting)} devices could hold a replica each; this process works on one, "
                f"{len(fitting) - 1} stay idle"
            )
        return self._made(strategy, {"": first.name}, reasons, replicas=tuple((device.name,) for device in fitting))

    def _single(self, name: str) -> Placement:
        if name not in self.by_name:
            raise self._unseen(f"device_map.device={self.config.device}")
        if self._spare(name, self.total) < 0:
            raise self._too_large(self.by_name[name], "device_map=single")
        return self._made(Strategy.single, {"": name}, [f"device_map.device={self.config.device} asks for it"])

    def _spread(self, strategy: Strategy) -> Placement:
        """Over the GPUs; what does not fit goes only where device_map.max_memory names it."""
        limits = self._limits(cpu=False)
        placed = planner.spread(self.network, strategy, limits, self.dtype_bytes)
        beyond = [device for device in ("cpu", "disk") if device in placed.values() and device not in limits]
        if beyond:
            raise self._overflow(strategy, placed, limits)
        reasons = [f"{strategy.value} over {len(_gpus(limits))} GPU(s), {gib(self.total)} of weights"]
        warnings = []
        fits = [device for device in self.census.gpus if self._spare(device.name, self.total) >= 0]
        if len(set(placed.values())) > 1 and fits:
            times = f"{len(fits)} times the throughput" if len(fits) > 1 else "the same speed with the others left free"
            warnings.append(
                tagged(
                    f"the model fits {fits[0].name} alone: device_map=replicate gives about {times} of this split, in "
                    "which the devices wait for one another",
                    "C27",
                )
            )
        return self._made(strategy, placed, reasons, warnings=warnings)

    def _offload(self) -> Placement:
        limits = self._limits(cpu=True)
        if self.config.offload_folder is not None:
            limits.setdefault("disk", 1 << 62)
        placed = planner.spread(self.network, Strategy.auto, limits, self.dtype_bytes)
        if "disk" in placed.values() and "disk" not in limits:
            raise PreflightError(
                f"GPUs and main memory hold {gib(sum(v for k, v in limits.items() if k != 'disk'))} of the "
                f"{gib(self.total)} of weights. Set device_map.offload_folder=FOLDER to put the rest on disk (very "
                "slow), free memory, or choose a smaller model.",
                id="C8",
            )
        if set(placed.values()) == {"disk"}:
            raise PreflightError(
                "device_map=offload would put the whole model on disk, where it cannot work. Give main memory or a GPU "
                "more room in device_map.max_memory.",
                id="C17",
            )
        return self._made(Strategy.offload, placed, ["device_map=offload: GPUs first, then main memory, then disk"])

    def _manual(self) -> Placement:
        placed = manual.resolve(manual.read(self.config.map), self.network)
        for name in sorted(set(placed.values()) - {"disk"}, key=rank):
            if name not in self.by_name:
                raise self._unseen(f"device_map.map names {name}")
        return self._made(Strategy.manual, placed, ["device_map.map says so"])

    def _on_cpu(self, reason: str) -> Placement:
        cpu = self.census.cpu
        most = min(cpu.free_bytes, (self.config.max_memory or {}).get("cpu", cpu.free_bytes))
        if self.total > most:
            raise PreflightError(
                f"The weights take {gib(self.total)}, but this machine has {gib(most)} of memory left for them. Free "
                "some, choose model.dtype=bfloat16 or a smaller model.",
                id="G1",
            )
        return self._made(Strategy.cpu, {"": "cpu"}, [reason])

    def _limits(self, *, cpu: bool) -> dict[str, int]:
        """Bytes of weights that each device may take: as asked for, else what is free less the margin."""
        if self.config.max_memory is not None:
            limits = dict(self.config.max_memory)
        else:
            limits = {d.name: max(0, d.free_bytes - self.config.margin_bytes) for d in self.census.gpus}
        if cpu and self.config.max_memory is None:
            limits["cpu"] = int(self.census.cpu.free_bytes * CPU_SHARE)
        return {name: limits[name] for name in sorted(limits, key=rank)}

    def _spare(self, name: str, weight_bytes: int) -> int:
        """Bytes left on a device beside weights and margin; negative where they do not fit."""
        free = self.by_name[name].free_bytes - (self.config.margin_bytes if name != "cpu" else 0)
        limit = (self.config.max_memory or {}).get(name, free if self.config.max_memory is None else 0)
        return int(min(free, limit) - weight_bytes)

    def _made(
        self,
        strategy: Strategy,
        placed: Mapping[str, str],
        reasons: Sequence[str],
        *,
        warnings: Sequence[str] = (),
        replicas: tuple[tuple[str, ...], ...] | None = None,
    ) -> Placement:
        """The placement, after comparing what each device holds with what it has.

        Raises:
            PreflightError: A device, the main memory or the offload folder has too little room.
        """
        weights = dict.fromkeys(sorted(set(placed.values()), key=rank), 0)
        for tensor in self.network.weights():
            weights[planner.device_of(placed, tensor.name) or "cpu"] += tensor.num_bytes(self.dtype_bytes)
        gpus = _gpus(weights)
        main = self.by_name[gpus[0] if gpus else "cpu"]
        away = [name for name in weights if name == "disk" or (name == "cpu" and gpus)]
        layers = dict.fromkeys(weights, 0)
        layers.setdefault(main.name, 0)
        for layer in self.network.layers:
            device = planner.device_of(placed, layer.name) or "cpu"
            layers[main.name if device in away else device] += 1
        for name in gpus:
            margin = gib(self.config.margin_bytes)
            need = weights[name] + (self.largest_layer if away and name == main.name else 0)
            free = self.by_name[name].free_bytes - self.config.margin_bytes
            if need > free:
                raise PreflightError(
                    f"{name} ({self.by_name[name].label}) would hold {gib(need)} of weights, but has "
                    f"{gib(self.by_name[name].free_bytes)} free, of which device_map.margin={margin} "
                    "is kept for keys, values and the libraries. Lower its share in device_map.max_memory, free it "
                    "(nvidia-smi shows who holds it), or choose model.dtype=bfloat16 or a smaller model.",
                    id="C15c" if self.config.max_memory else "C21",
                )
        if weights.get("cpu", 0) > self.census.cpu.free_bytes:
            raise PreflightError(
                f"Main memory would hold {gib(weights['cpu'])} of weights, but has {gib(self.census.cpu.free_bytes)} "
                "free. Lower device_map.max_memory.cpu, free some, or choose a smaller model.",
                id="G1",
            )
        if weights.get("disk", 0):
            allowed = (self.config.max_memory or {}).get("disk")
            disk.check(self.config.offload_folder, weights["disk"], allowed, resaved=self.resaved)
        if away:
            warnings = [*warnings, self._cost(weights, away, main)]
        labels = {name: device.label for name, device in self.by_name.items()}
        return Placement(
            strategy=strategy,
            map=dict(placed),
            device=main,
            uses=tuple(Use(name, weights[name], layers[name], labels.get(name, name)) for name in weights),
            replicas=replicas or (tuple(weights),),
            reasons=tuple(reasons),
            warnings=tuple(warnings),
            offload_folder=self.config.offload_folder,
        )

    def _cost(self, weights: Mapping[str, int], away: Sequence[str], main: Device) -> str:
        moved = sum(weights[name] for name in away)
        seconds = weights.get("disk", 0) / DISK_BYTES_PER_S
        if main.name != "cpu":
            seconds += moved / BUS_BYTES_PER_S
        where = " and ".join({"cpu": "in main memory", "disk": "on disk"}[name] for name in away)
        return tagged(
            f"offloaded: {gib(moved)} of {gib(self.total)} of weights lie {where} and are brought to {main.name} at "
            f"every step; at best {seconds:.2g} s a step, whatever the batch",
            "C9",
        )

    def _unseen(self, what: str) -> PreflightError:
        names = ", ".join(device.name for device in self.census.gpus)
        return PreflightError(
            f"{what}: this process sees no such GPU (it sees: {names or 'none'}). Number them from 0 as "
            "CUDA_VISIBLE_DEVICES leaves them, or choose device_map=cpu.",
            id="C26" if names else "A5",
        )

    def _too_large(self, device: Device, asked: str) -> PreflightError:
        limit = (self.config.max_memory or {}).get(device.name)
        capped = f", of which device_map.max_memory gives {gib(limit)}" if limit is not None else ""
        return PreflightError(
            f"The weights take {gib(self.total)} and need {gib(self.config.margin_bytes)} beside them "
            f"(device_map.margin), but {device.name} ({device.label}) has {gib(device.free_bytes)} free{capped}; "
            f"{asked} wants the whole model on one device. {self._way_out()}",
            id="C23",
        )

    def _overflow(self, strategy: Strategy, placed: Mapping[str, str], limits: Mapping[str, int]) -> PreflightError:
        room = sum(amount for name, amount in limits.items() if name.startswith("cuda"))
        outside = sum(planner.device_of(placed, layer.name) in ("cpu", "disk") for layer in self.network.layers)
        return PreflightError(
            f"The weights take {gib(self.total)}, and device_map={strategy.value} has room for {gib(room)} on "
            f"{len(_gpus(limits))} GPU(s): {outside} of {len(self.network.layers)} layers would go to main memory or "
            f"disk in silence. {self._way_out(but=strategy)}",
            id="C8" if self.config.max_memory else "C23",
        )

    def _way_out(self, but: Strategy | None = None) -> str:
        """What would fit, tried."""
        ways = []
        plain = replace(self.config, strategy=Strategy.auto, device=None, map=None, order=None, max_memory=None)
        for strategy, words in (
            (Strategy.balanced, "lay it over the GPUs with device_map=balanced"),
            (Strategy.offload, "let main memory hold the rest with device_map=offload (slow)"),
        ):
            one_gpu = strategy is Strategy.balanced and len(self.census.gpus) < 2
            if strategy is but or one_gpu or self.config.strategy is Strategy.fallback:
                continue
            try:
                Layout(plain, self.census, self.network, self.dtype_bytes, self.resaved).lay(strategy)
                ways.append(words)
            except HymtError:
                continue
        ways.append("free the GPU (nvidia-smi shows who holds it)")
        if self.dtype_bytes > 2:
            ways.append("choose model.dtype=bfloat16")
        ways += ["choose a smaller model", "run on the CPU with device_map=cpu"]
        first, *others = ways
        return f"{first[0].upper()}{first[1:]}; or {', or '.join(others)}."


def _gpus(names: Mapping[str, int]) -> list[str]:
    return [name for name in names if name.startswith("cuda")]
