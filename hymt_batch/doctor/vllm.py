"""Checks of decode.engine=vllm: its interpreter and version, the model, the placement. Starts no vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.vllm import engine, process
from hymt_batch.device_map.settings import DeviceInventory, DeviceMapConfig
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import PreflightError
from hymt_batch.model import cudnn
from hymt_batch.model import prepare as prepare_model

if TYPE_CHECKING:
    from hymt_batch.model.files import ModelFiles
    from hymt_batch.model.prepare import PlacementPlan
    from hymt_batch.schema import PlanJob

CHECK = "vLLM"


def prepare(decode: DecodeConfig, python: str | None) -> None:
    """Refuse a job with decode.engine=vllm whose interpreter has no vLLM, before its model is looked at.

    Raises:
        PreflightError: It has none (A19).
    """
    if decode.engine == engine.NAME:
        process.probe(python)


def place(decode: DecodeConfig, plan: PlacementPlan, files: ModelFiles, inventory: DeviceInventory) -> PlacementPlan:
    """Return a plan as the engine runs it; unchanged with another engine than vLLM.

    Raises:
        PreflightError: vLLM cannot run the model, or not as it is placed.
    """
    return engine.place(plan, files, inventory)[0] if decode.engine == engine.NAME else plan


def plan_placement(
    job: PlanJob, files: ModelFiles, inventory: DeviceInventory, device_map: DeviceMapConfig
) -> PlacementPlan:
    """Plan a placement as decode.engine runs it; see `model/prepare.py`.

    Raises:
        HymtError: No placement fits, or vLLM refuses the one that does.
    """
    return place(job.decode, prepare_model.plan_placement(job.model, device_map, inventory, files), files, inventory)


def check(
    decode: DecodeConfig,
    python: str | None,
    files: ModelFiles | None,
    plan: PlacementPlan | None,
    inventory: DeviceInventory,
) -> Iterator[Finding]:
    """Check what a job with decode.engine=vllm needs; nothing with another engine.

    Args:
        decode: The decoding settings.
        python: The setting launch.vllm_python.
        files: The model's files; None if they are not here.
        plan: Where the model would be; None if it is unknown.
        inventory: Devices and their free memory.
    """
    if decode.engine != engine.NAME:
        return
    try:
        installed = process.probe(python)
    except PreflightError as error:
        yield Finding.of_problem(CHECK, Level.FAIL, error.problem)
        return
    versions = ", ".join(f"{name} {version}" for name, version in installed.versions.items())
    yield Finding("interpreter of vLLM", Level.OK, f"{installed.path}: {versions}")
    if reason := engine.unsupported_version(installed):
        yield Finding(CHECK, Level.FAIL, reason, "decode.engine=auto")
    elif files is None or plan is None:
        yield Finding(CHECK, Level.SKIP, "the model or its placement is not known")
    else:
        try:
            split = engine.place(plan, files, inventory)[1]
        except PreflightError as error:
            yield Finding.of_problem(CHECK, Level.FAIL, error.problem)
            return
        seen = f"it gets {engine.describe_rope(files.config, installed)}"
        if split.num_gpus > 1:
            seen += f"; device_map={split.placement.strategy.value} is {split.describe()}"
        if split.placement.device.name == "cpu":
            yield Finding(CHECK, Level.OK, seen)
            return
        yield Finding(CHECK, Level.OK, f"{seen}; it was not run on a GPU yet")
        version = installed.versions.get("cudnn", "of an unknown version")
        yield Finding(
            "cuDNN of vLLM",
            Level.OK,
            f"cuDNN {version}: vLLM's attention kernels are its own, and torch's prefer cuDNN's least in its processes "
            f"({cudnn.ENV_VARIABLE}=1)",
        )
