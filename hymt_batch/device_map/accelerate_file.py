"""Read a file of `accelerate config`: the settings that a translation can use, and those that are ignored.

The file is meant for training: most of its settings describe how to launch processes, which does not apply to this job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hymt_batch.device_map.settings import DeviceInventory, parse_device
from hymt_batch.errors import ConfigError, Problem, first_line

_NO_EFFECT = {
    "compute_environment": ("LOCAL_MACHINE",),
    "debug": (False,),
    "distributed_type": ("NO", "MULTI_GPU", "MULTI_CPU"),
    "downcast_bf16": ("no", False),
    "enable_cpu_affinity": (False,),
    "machine_rank": (0,),
    "num_machines": (1,),
    "rdzv_backend": ("static",),
    "same_network": (True, False),
    "tpu_env": ([],),
    "tpu_use_cluster": (False,),
    "tpu_use_sudo": (False,),
    "main_training_function": ("main",),
}
"""Fields whose default values have no effect; `accelerate config` always writes them."""

_IGNORED_REASONS = {
    "num_processes": "one process runs one replica; see device_map=replicate",
    "distributed_type": "translation uses no training strategy",
    "fsdp_config": "weights are not sharded by FSDP",
    "deepspeed_config": "DeepSpeed is not used",
    "megatron_lm_config": "Megatron-LM is not used",
    "dynamo_config": "this setting does not compile the network",
    "num_machines": "the cluster's scheduler assigns machines",
    "mixed_precision": "model.dtype sets the number format",
}


@dataclass(frozen=True, slots=True)
class AccelerateOptions:
    """The settings of the file that apply to a translation."""

    gpus: tuple[str, ...] | None = None  # GPUs that may be used; None: all
    use_cpu: bool = False
    dtype: str | None = None  # used if model.dtype=auto
    ignored: tuple[str, ...] = ()  # "key=value (why)"

    def warnings(self, dtype: str) -> list[Problem]:
        """Return a warning for each setting of the file that is ignored.

        Args:
            dtype: The setting model.dtype; "auto" leaves the choice to the file.
        """
        key = "device_map.accelerate_config"
        reports = [f"{key}: {setting} is ignored" for setting in self.ignored]
        warnings = [Problem(what=what, fix=f"{key}=null", id="C25") for what in reports]
        if self.dtype and dtype not in ("auto", self.dtype):
            what = f"{key}: mixed_precision asks for {self.dtype}, but model.dtype={dtype} is used"
            warnings.append(Problem(what=what, fix="model.dtype=auto", id="C25"))
        return warnings

    def restrict(self, inventory: DeviceInventory) -> DeviceInventory:
        """Return the inventory with only the GPUs that the file names.

        Raises:
            ConfigError: The file names a GPU that this process does not see.
        """
        if self.use_cpu:
            return replace(inventory, devices=inventory.devices[-1:], gpu_error="")
        if self.gpus is None:
            return inventory
        seen = [device.name for device in inventory.gpus]
        if missing := [name for name in self.gpus if name not in seen]:
            raise ConfigError(
                f"device_map.accelerate_config: gpu_ids names {missing[0]}, but this process sees "
                f"{', '.join(seen) or 'no GPU'}",
                fix="Correct gpu_ids in the file.",
                id="C26",
            )
        return replace(inventory, devices=(*(d for d in inventory.gpus if d.name in self.gpus), inventory.cpu))


def read(path: str) -> AccelerateOptions:
    """Read a `default_config.yaml` that accelerate wrote.

    Raises:
        ConfigError: The file cannot be read, or a setting that applies has an invalid value.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(
            f"device_map.accelerate_config={path} cannot be read ({reason})",
            fix="Set it to a file that `accelerate config` wrote, or to null.",
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"device_map.accelerate_config={path} contains no settings", fix="Set it to null.")
    fields: dict[str, Any] = {str(key): value for key, value in content.items()}
    gpus = _parse_gpu_ids(fields.pop("gpu_ids", None))
    cpu = bool(fields.pop("use_cpu", False))
    precision = str(fields.get("mixed_precision", "no") or "no").lower()
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(precision)
    if dtype or precision == "no":
        fields.pop("mixed_precision", None)
    ignored = [
        f"{key}={_truncate(value)} ({_IGNORED_REASONS.get(key, 'it describes how to launch training processes')})"
        for key, value in sorted(fields.items())
        if value not in (None, {}, "")
        and value not in _NO_EFFECT.get(key, ())
        and not (key == "num_processes" and value == 1)
    ]
    return AccelerateOptions(gpus, cpu, dtype, tuple(ignored))


def _parse_gpu_ids(value: Any) -> tuple[str, ...] | None:
    if value is None or str(value).strip().lower() in ("all", ""):
        return None
    names = value if isinstance(value, list) else str(value).split(",")
    return tuple(parse_device("device_map.accelerate_config: gpu_ids", name) for name in names)


def _truncate(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
