"""How many replicas of a placed model run at the same time, on which devices, and which GPUs stay idle.

Independent of processes and of torch: `run/executor.py` starts a worker for each replica; `plan` and `doctor` show
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import DeviceInventory, DeviceMapConfig, Strategy, gib
from hymt_batch.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class ReplicaChoice:
    """The replicas of a model that may run at the same time."""

    devices: tuple[tuple[str, ...], ...]  # devices of each replica; the first ones are those of the placement
    uses_workers: bool  # True if they run in worker processes, even a single one
    warnings: tuple[Problem, ...] = ()

    def describe(self, workers: int | str) -> str:
        """Return one line: the setting launch.workers, what it stands for, and where the replicas run."""
        num, names = len(self.devices), ", ".join(device for group in self.devices for device in group)
        if num == 1:
            return f"launch.workers={workers}: 1 replica of the model on {names}"
        where = "the CPU, whose cores they share" if "cpu" in self.devices[0] else names
        return f"launch.workers={workers}: up to {num} workers, each with a replica of the model, on {where}"


def choose(workers: int | str, placement: Placement, num_cpus: int) -> ReplicaChoice:
    """Resolve launch.workers.

    Args:
        workers: The setting: a number, or "auto" for one replica on each GPU that holds one, and one on the CPU.
        placement: The placement of the model.
        num_cpus: CPU cores that this process may use; on a CPU, there are at most as many workers.

    Raises:
        ConfigError: More replicas are asked for than fit the GPUs.
    """
    uses_workers = workers not in ("auto", 1)
    if placement.device.name == "cpu":
        return _choose_on_cpu(1 if workers == "auto" else int(workers), placement, num_cpus)
    num_fitting = len(placement.replicas)
    num = num_fitting if workers == "auto" else int(workers)
    if num > num_fitting:
        raise ConfigError(
            f"launch.workers={workers}, but only {num_fitting} replica{'s' * (num_fitting != 1)} of the model fit"
            f"{'s' * (num_fitting == 1)} the GPUs with device_map={placement.strategy.value}",
            fix="Set launch.workers=auto.",
        )
    warnings = []
    if idle := [name for group in placement.replicas[num:] for name in group]:
        each = "it" if len(idle) == 1 else "each"
        what = f"{_describe_idle(idle)}: {each} could hold a replica of the model, but launch.workers={workers}"
        warnings.append(Problem(what=what, fix="launch.workers=auto", id="C29"))
    return ReplicaChoice(placement.replicas[:num], uses_workers or num > 1, tuple(warnings))


def _choose_on_cpu(requested: int, placement: Placement, num_cpus: int) -> ReplicaChoice:
    weight_bytes = max(1, sum(use.weight_bytes for use in placement.usage if use.device == "cpu"))
    num_in_memory = max(1, placement.device.free_bytes // weight_bytes)
    num = min(requested, num_cpus, num_in_memory)
    warnings = []
    if num < requested:
        limit = f"this process may use only {num_cpus} CPU core{'s' * (num_cpus != 1)}"
        if num_in_memory < num_cpus:
            limit = f"a replica takes {gib(weight_bytes)} of the {gib(placement.device.free_bytes)} of free memory"
        what = f"launch.workers={requested}, but {limit}: at most {num} worker{'s' * (num != 1)} at a time"
        warnings.append(Problem(what=what, fix=f"launch.workers={num}"))
    return ReplicaChoice((placement.devices,) * num, requested > 1, tuple(warnings))


def split_warning(fitting: Sequence[str]) -> Problem:
    """Return the warning that a split model fits each of these GPUs alone; the gain is estimated, not measured."""
    gain = f"{len(fitting)} times the throughput" if len(fitting) > 1 else "the same speed with one GPU"
    what = f"the model fits {fitting[0]} alone: device_map=replicate gives an estimated {gain}"
    why = "because the devices of a split wait for one another"
    return Problem(what=what, why=why, fix="device_map=replicate", id="C27")


def idle_warnings(
    strategy: Strategy,
    config: DeviceMapConfig,
    inventory: DeviceInventory,
    used: Collection[str],
    spare_bytes: Mapping[str, int],
) -> list[Problem]:
    """Return a warning if a placement leaves GPUs idle that the settings do not leave out by name.

    Args:
        strategy: The strategy of the placement.
        config: Its settings.
        inventory: All devices; a GPU without free memory has a warning of its own.
        used: Devices of all replicas.
        spare_bytes: Bytes that a whole model would leave free, by GPU; negative if it does not fit.
    """
    if strategy is Strategy.manual or config.device is not None:
        return []
    idle = [gpu for gpu in inventory.gpus if gpu.name not in used and gpu.free_bytes]
    if config.max_memory is not None:
        idle = [gpu for gpu in idle if gpu.name in config.max_memory]
    if not idle:
        return []
    what = _describe_idle([gpu.name for gpu in idle])
    if all(spare_bytes[gpu.name] >= 0 for gpu in idle):
        why, fix = f"device_map={strategy.value} does not use them", "device_map=replicate"
    else:
        lacking = [f"{gib(-spare_bytes[gpu.name])} on {gpu.name}" for gpu in idle if spare_bytes[gpu.name] < 0]
        why = f"a replica of the model lacks {', '.join(lacking)} (with device_map.margin={config.margin})"
        fix = "Free their memory (nvidia-smi shows which processes use it), or choose a smaller model."
    return [Problem(what=what, why=why, fix=fix, id="C29")]


def _describe_idle(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'stays' if len(names) == 1 else 'stay'} idle"


def place_replica(placement: Placement, devices: Sequence[str], inventory: DeviceInventory) -> Placement:
    """Return the placement of one replica of a model, which has the same modules on other devices.

    Args:
        placement: The placement of the first replica. A module that several devices share stays where it is: then there
            is one replica.
        devices: The devices of this one, in the same order.
        inventory: All devices.
    """
    names = dict(zip(placement.devices, devices, strict=True))
    by_name = {device.name: device for device in inventory.devices}
    return replace(
        placement,
        map={module: names.get(device, device) for module, device in placement.map.items()},
        device=by_name[names[placement.device.name]],
        usage=tuple(
            replace(use, device=names[use.device], label=by_name[names[use.device]].label)
            if names[use.device] in by_name
            else use
            for use in placement.usage
        ),
    )


def settings_for_worker(config: DeviceMapConfig, placement: Placement, gpu: str) -> DeviceMapConfig:
    """Return the settings of a worker that sees a single GPU, as cuda:0.

    Args:
        config: The settings of the job.
        placement: The placement that was chosen with them.
        gpu: The GPU of the worker, as the job numbers it.
    """
    order = [placement.strategy] if config.strategy is Strategy.fallback else config.order
    max_memory = config.max_memory
    if max_memory is not None:
        max_memory = {
            "cuda:0" if name == gpu else name: size for name, size in max_memory.items() if name in (gpu, "cpu", "disk")
        }
    # the parent has read the accelerate file: its GPUs and its precision are chosen
    return replace(config, order=order, max_memory=max_memory, accelerate_config=None)
