"""The one place that knows how versions of transformers and accelerate differ. Loads a network; judges nothing.

What differs, between transformers 4.56 and 5.23: the number format is `torch_dtype`, then `dtype`; `hf_device_map` is
always set, then only where several devices or disk serve one model; a checkpoint of compressed-tensors calls its
exceptions `ignored_layers` and newer libraries `ignore`. A network is never moved after loading: hooks would be lost.
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
    """The installed version as numbers, without what follows them; () where it is not installed."""
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
    """Whether a package is installed, and new enough where the requirement says `>=`."""
    package, _, least = requirement.partition(">=")
    have = installed_version(package)
    return bool(have) and have >= tuple(map(int, least.split("."))) if least else bool(have)


def from_pretrained(
    folder: Path,
    device_map: Mapping[str, str],
    dtype: str,
    attention: str,
    offload_folder: str | None,
) -> tuple[Any, dict[str, Any]]:
    """Load a network under an explicit map, from safetensors alone, without code of the checkpoint and without a hub.

    Returns:
        The network, and what the library says of missing, unexpected and mismatched weights.
    """
    import torch
    import transformers

    # its warnings are about what is checked by us, and its bar would stand between our lines
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
        # GPUs as numbers: accelerate refuses "cuda:0" in some places
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
    """Where the library says that modules are; None where it does not say."""
    found = getattr(network, "hf_device_map", None)
    return None if not found else {name: _from_library_device(device) for name, device in found.items()}


def _from_library_device(device: Any) -> str:
    text = str(device)
    return f"cuda:{text}" if text.isdecimal() else "cuda:0" if text == "cuda" else text


def iter_weights(network: Any, device_map: Mapping[str, str]) -> Iterator[tuple[str, str, Tensor]]:
    """Every weight: name, device that the map gives it, tensor. Of an offloaded weight, the tensor is on meta."""
    for name, weight in network.named_parameters():
        yield name, device_of(device_map, name) or "cpu", weight


def offloaded_weight(network: Any, name: str) -> Tensor | None:
    """An offloaded weight from where its hook finds it; None where no hook holds it.

    Source: accelerate keeps a `weights_map` at the nearest hooked module at or above the weight.
    """
    pieces = name.split(".")
    for length in range(len(pieces) - 1, -1, -1):
        hook = getattr(network.get_submodule(".".join(pieces[:length])), "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            held = getattr(one, "weights_map", None)
            if held is not None:
                found: Tensor = held[".".join(pieces[length:])]
                return found
    return None


def cache_argument(network: Any) -> str:
    """What a network's `forward` calls its keys and values: another word since transformers 5.24."""
    forward = getattr(type(network), "forward", None)
    return "cache" if forward and "cache" in inspect.signature(forward).parameters else "past_key_values"
