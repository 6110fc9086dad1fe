"""Hide the differences between versions of transformers and accelerate. Loads a network but does not check it.

Differences between transformers 4.56 and 5.23: the argument for the number format was renamed from `torch_dtype` to
`dtype`; `hf_device_map` was always set, and is now set only if the model uses several devices or the disk; the layers
that a compressed-tensors checkpoint does not quantise are called `ignored_layers` in some checkpoints and `ignore` in
newer libraries. A network is never moved after loading, because it would lose its hooks.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymt_batch.device_map.planner import device_of

if TYPE_CHECKING:
    from torch import Tensor


def installed_version(package: str) -> tuple[int, ...]:
    """Return the release numbers of an installed package, without suffixes; () if it is not installed."""
    try:
        text = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ()
    numbers = []
    for part in text.split("+")[0].split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def is_satisfied(requirement: str) -> bool:
    """Return whether a package is installed and, if the requirement has `>=`, new enough."""
    package, _, min_version = requirement.partition(">=")
    version = installed_version(package)
    return bool(version) and version >= tuple(map(int, min_version.split("."))) if min_version else bool(version)


def from_pretrained(
    folder: Path,
    device_map: Mapping[str, str],
    dtype: str,
    attention: str,
    offload_folder: str | None,
) -> tuple[Any, dict[str, Any]]:
    """Load a network with an explicit device map, from safetensors only, without remote code and without the hub.

    Args:
        folder: Verified model folder.
        device_map: Module name -> device.
        dtype: Name of a torch dtype.
        attention: Attention implementation of transformers.
        offload_folder: Folder for weights on disk; None if no weight is on disk.

    Returns:
        The network, and transformers' loading info: missing, unexpected and mismatched weights.
    """
    import torch
    import transformers

    # its warnings are about faults that we check ourselves, and its progress bar would break our log
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    quantisation = getattr(config, "quantization_config", None)
    if isinstance(quantisation, dict) and "ignored_layers" in quantisation:
        renamed = {key: value for key, value in quantisation.items() if key != "ignored_layers"}
        config.quantization_config = {"ignore": quantisation["ignored_layers"], **renamed}
    network, info = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder),
        config=config,
        # GPUs as integers, because accelerate rejects "cuda:0" in some places
        device_map={name: _to_library_device(device) for name, device in device_map.items()},
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        offload_folder=offload_folder,
        **{"dtype" if installed_version("transformers") >= (5,) else "torch_dtype": getattr(torch, dtype)},
    )
    return network, {key: value for key, value in info.items() if value}


def _to_library_device(device: str) -> int | str:
    return int(device.removeprefix("cuda:")) if device.startswith("cuda:") else device


def loaded_device_map(network: Any) -> dict[str, str] | None:
    """Return module -> device as reported by the library; None if it reports nothing."""
    device_map = getattr(network, "hf_device_map", None)
    return None if not device_map else {name: _from_library_device(device) for name, device in device_map.items()}


def _from_library_device(device: Any) -> str:
    text = str(device)
    return f"cuda:{text}" if text.isdecimal() else "cuda:0" if text == "cuda" else text


def iter_weights(network: Any, device_map: Mapping[str, str]) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, planned device and tensor of every weight; the tensor of an offloaded weight is on meta."""
    for name, weight in network.named_parameters():
        yield name, device_of(device_map, name) or "cpu", weight


def offloaded_weight(network: Any, name: str) -> Tensor | None:
    """Return an offloaded weight from its hook; None if no hook holds it.

    Source: accelerate keeps a `weights_map` in the hook of the nearest hooked module at or above the weight.
    """
    pieces = name.split(".")
    for length in range(len(pieces) - 1, -1, -1):
        hook = getattr(network.get_submodule(".".join(pieces[:length])), "_hf_hook", None)
        for single_hook in getattr(hook, "hooks", [hook]):
            weights_map = getattr(single_hook, "weights_map", None)
            if weights_map is not None:
                weight: Tensor = weights_map[".".join(pieces[length:])]
                return weight
    return None


def cache_argument(network: Any) -> str:
    """Return the argument name of the KV cache in a network's `forward`, which changed in transformers 5.24."""
    forward = getattr(type(network), "forward", None)
    return "cache" if forward and "cache" in inspect.signature(forward).parameters else "past_key_values"
