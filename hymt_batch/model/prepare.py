"""Prepare a model without reading its weights: files, device, dtype.

Every check that is cheap runs here, before the weights are read (`load.py`). Does not know about prompts or decoding.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hymt_batch.device_map import accelerate_file, manual
from hymt_batch.device_map import select_placement as placing
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import Device, DeviceInventory, DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError, Problem
from hymt_batch.model import files as model_files
from hymt_batch.model import hashes
from hymt_batch.model.detect_devices import torch_devices
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.load import PreparedModel, set_num_threads
from hymt_batch.model.requirements import check_libraries
from hymt_batch.model.settings import Dtype, ModelConfig, dtype_bytes

log = logging.getLogger(__name__)

CPU_FLOPS = 4e10
"""Rough speed of a CPU in operations per second; a row is predicted to take 40 tokens of 2 operations per parameter."""


def prepare_model(
    config: ModelConfig,
    device_map: DeviceMapConfig,
    num_threads: int | None = None,
    find_devices: Callable[[], DeviceInventory] | None = None,
) -> PreparedModel:
    """Verify the files, detect the devices, choose dtype and placement. Reads weights only to hash them.

    Args:
        config: The model's settings.
        device_map: Settings of the placement.
        num_threads: CPU threads for torch; None leaves the choice to torch.
        find_devices: Returns the devices of the machine that will translate; None: those of this one.

    Raises:
        PreflightError: The model is missing, incomplete or not supported, or fits no device.
    """
    folder, commit = model_files.resolve(config.path, config.revision, config.download)
    files = model_files.verify(folder, commit)
    check_libraries(files, config.attention)
    devices = (find_devices or torch_devices)()
    if "torch" in sys.modules:  # else `load` does it: a job that has nothing to decode needs no torch
        set_num_threads(num_threads)
    plan = plan_placement(config, device_map, devices, files)
    placement = plan.placements[0]
    warnings = [warning.text for warning in (*plan.warnings, *placement.warnings)]
    if placement.device.name == "cpu" and files.num_parameters > 50_000_000:
        rows = 3600 * CPU_FLOPS / (2 * files.num_parameters) / 40
        warnings.append(f"running on the CPU ({'; '.join(placement.reasons)}): expect about {rows:,.0f} rows per hour")
    for warning in warnings:
        log.warning("%s", warning)
    return PreparedModel(
        config,
        files,
        plan.placements,
        plan.dtype,
        plan.network,
        # last, because it reads every byte: faults that the headers show have been refused by now
        identity=_identity(config, files, plan.dtype),
        num_threads=num_threads,
        warnings=tuple(warnings),
    )


def is_unchanged(model: PreparedModel) -> bool:
    """Return whether the files of a prepared model are still those that were prepared.

    Raises:
        PreflightError: The model is missing or incomplete now.
    """
    config = model.config
    folder, commit = model_files.resolve(config.path, config.revision, config.download)
    return model.identity == _identity(config, model_files.verify(folder, commit), model.dtype)


def _identity(config: ModelConfig, files: ModelFiles, dtype: str) -> dict[str, Any]:
    return {
        "files": _file_digests(config, files),
        "commit": files.commit,
        "family": config.family.value,
        "dtype": dtype,
    }


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """The dtype of a model and the placements to try."""

    dtype: str
    network: NetworkSpec  # as it will be in memory
    placements: tuple[Placement, ...]  # in the order to try; each has its own warnings
    warnings: tuple[Problem, ...]  # about devices, ignored settings and the dtype


def plan_placement(
    config: ModelConfig, device_map: DeviceMapConfig, inventory: DeviceInventory, files: ModelFiles
) -> PlacementPlan:
    """Choose the dtype and the placements to try.

    Args:
        config: The model's settings.
        device_map: Settings of the placement.
        inventory: Devices to place the model on.
        files: The verified model.

    Raises:
        PreflightError: No placement fits.
        ConfigError: The device map or the accelerate file is invalid.
    """
    warnings = list(inventory.warnings)
    accelerate = accelerate_file.AccelerateOptions()
    if device_map.accelerate_config is not None:
        accelerate = accelerate_file.read(device_map.accelerate_config)
        inventory = accelerate.restrict(inventory)
        warnings += accelerate.warnings(config.dtype.value)
    dtype = resolve_dtype(config, device_map, inventory, files, accelerate)
    network = network_in_memory(files)
    placements = placing.candidates(
        device_map,
        inventory,
        network,
        dtype_bytes(dtype),
        # weights that are converted on loading are written to the offload folder if they are offloaded to disk
        resaved=bool(files.quantisation) or files.config["model_type"] == "hy_v3",
    )
    used = [device for device in inventory.devices if device.name in placements[0].devices]
    warnings += [warning for device in used if (warning := _dtype_warning(dtype, device))]
    return PlacementPlan(dtype, network, tuple(placements), tuple(warnings))


def _dtype_warning(dtype: str, device: Device) -> Problem | None:
    if dtype == "bfloat16" and device.name != "cpu" and not device.bfloat16:
        what, why = f"{device.label} has no native bfloat16", "emulating it is slow"
        return Problem(what=what, why=why, fix="Set model.dtype=float16.", id="A12")
    if dtype == "float16" and device.name == "cpu":
        return Problem(what="float16 on the CPU is slow and may overflow", fix="Set model.dtype=bfloat16.", id="C28")
    return None


def network_in_memory(files: ModelFiles) -> NetworkSpec:
    """Return the network as it will be in memory: packed integers stay packed, FP8 weights are decompressed.

    Source: compressed-tensors decompresses to bfloat16 at the first forward (sokuji#275: 1.9 GiB became 4.26 GiB).
    """
    if files.quantisation in ("", "compressed-tensors"):
        return files.network
    headers = {name: (model_files.element_bytes(dtype), shape) for name, (dtype, shape) in files.tensors.items()}
    return files.network.with_stored_tensors(headers)


def _file_digests(config: ModelConfig, files: ModelFiles) -> dict[str, str]:
    """Return the sha256 of every file that affects the translations, after checking the pinned ones."""
    digests = hashes.compute(files.folder, files.file_names, ignore_cache=config.sha256 is not None)
    check_pins(config, files, digests)
    return digests


def check_pins(config: ModelConfig, files: ModelFiles, digests: Mapping[str, str]) -> None:
    """Compare the weight files with model.sha256.

    Raises:
        PreflightError: A weight file has a hash that is not pinned, or a pinned hash has no file (B13).
    """
    if config.sha256 is None:
        return
    actual = {name: digests[name] for name in files.weight_files}
    wrong = [name for name, digest in actual.items() if digest not in config.sha256]
    missing = [pin for pin in config.sha256 if pin not in actual.values()]
    if wrong or missing:
        detail = f"{wrong[0]} has {actual[wrong[0]]}" if wrong else f"no weight file has {missing[0]}"
        raise PreflightError(
            f"{files.folder}: the weights are not those pinned by model.sha256: {detail}",
            fix="Download the model again, correct model.sha256 (one for each weight file), or set model.sha256=null.",
            id="B13",
        )


def resolve_dtype(
    config: ModelConfig,
    device_map: DeviceMapConfig,
    inventory: DeviceInventory,
    files: ModelFiles,
    accelerate: accelerate_file.AccelerateOptions | None = None,
) -> str:
    """Return the dtype of the model; model.dtype=auto is resolved for the given devices."""
    if config.dtype is not Dtype.auto:
        return str(config.dtype.value)
    if accelerate is not None and accelerate.dtype is not None:
        return accelerate.dtype
    if files.quantisation:
        return "bfloat16"  # both supported quantisation formats decompress to it
    gpus = () if device_map.strategy is Strategy.cpu else inventory.gpus
    if device_map.strategy is Strategy.manual:
        named = set(manual.read(device_map.map).values())
        gpus = tuple(device for device in gpus if device.name in named)
    return "bfloat16" if gpus and all(device.bfloat16 for device in gpus) else "float32"
