"""How vLLM runs a model that a placement splits over GPUs: with tensor or pipeline parallelism, or why it cannot.

The planner gives whole layers to GPUs. vLLM keeps that with pipeline parallelism: device_map=sequential and
balanced_low_0. An even split, device_map=auto and balanced, is tensor parallelism instead: each GPU holds an equal
share of every layer, so that all of them work on every step. Independent of torch and of vLLM.

Not run on GPUs yet; tests run both forms on a CPU.

Source: vLLM 0.32, distributed/utils.py (get_pp_indices), model_executor/models/transformers/base.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hymt_batch.decode.engine import UnsupportedError
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import DeviceInventory, Strategy, gib

TENSOR = frozenset({Strategy.auto, Strategy.balanced})
PIPELINE = frozenset({Strategy.sequential, Strategy.balanced_low_0})

LAYERS_VARIABLE = "VLLM_PP_LAYER_PARTITION"
"""The environment variable from which vLLM reads how many layers each stage of a pipeline has."""


@dataclass(frozen=True, slots=True)
class Parallelism:
    """A placement as vLLM runs it."""

    placement: Placement  # with what each device then holds; see `resolve`
    tensor: int = 1  # GPUs that share each layer
    stage_layers: tuple[int, ...] = ()  # layers of each stage of a pipeline; empty if there is none

    @property
    def num_gpus(self) -> int:
        """Number of vLLM's processes, one for each GPU; 1 on a CPU."""
        return self.tensor * max(1, len(self.stage_layers))

    @property
    def options(self) -> dict[str, Any]:
        """The fields of vLLM's EngineArgs; none for a single device."""
        if self.num_gpus == 1:
            return {}
        return {
            "tensor_parallel_size": self.tensor,
            "pipeline_parallel_size": max(1, len(self.stage_layers)),
            "distributed_executor_backend": "mp",
        }

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of vLLM's processes."""
        return {LAYERS_VARIABLE: ",".join(map(str, self.stage_layers))} if self.stage_layers else {}

    @property
    def environment(self) -> dict[str, Any]:
        """What it adds to the environment of a part; nothing for a single device."""
        if self.stage_layers:
            return {"pipeline_parallel": list(self.stage_layers)}
        if self.tensor == 1:
            return {}
        device_map = {"strategy": self.placement.strategy.value, **self.placement.map}
        return {"tensor_parallel": self.tensor, "device_map": device_map}

    def describe(self) -> str:
        """Return how the model is split, for people; empty if it is not."""
        if self.stage_layers:
            return f"pipeline parallelism with {' + '.join(map(str, self.stage_layers))} layers"
        return f"tensor parallelism over {self.tensor} GPUs" if self.tensor > 1 else ""

    def cache_bytes(self, num_tokens: int, bytes_per_token: int) -> int:
        """Return the bytes of keys and values that one of the GPUs holds, the one that holds most.

        Args:
            num_tokens: Tokens of all rows.
            bytes_per_token: Bytes of keys and values of a token over all layers.
        """
        largest, all_layers = (max(self.stage_layers), sum(self.stage_layers)) if self.stage_layers else (1, 1)
        return -(-num_tokens * bytes_per_token * largest // (all_layers * self.tensor))


def resolve(
    placement: Placement,
    network: NetworkSpec,
    config: Mapping[str, Any],
    dtype_bytes: int,
    inventory: DeviceInventory,
) -> Parallelism:
    """Return how vLLM runs a placement, whose map and usage are changed to what the devices hold with vLLM.

    Args:
        placement: The placement of one replica.
        network: The network, as it is in memory.
        config: The model's config.json.
        dtype_bytes: Bytes per element of the weights.
        inventory: Devices and their free memory.

    Raises:
        UnsupportedError: vLLM cannot keep what the placement promises.
    """
    strategy = placement.strategy
    if strategy is Strategy.manual:
        raise UnsupportedError(
            "device_map=manual gives single modules to devices, which vLLM does not; it needs one device, "
            "device_map=balanced (tensor parallelism) or sequential (pipeline parallelism)"
        )
    if not placement.is_split:
        return Parallelism(placement)
    if not_gpus := [name for name in placement.devices if not name.startswith("cuda")]:
        raise UnsupportedError(
            f"device_map={strategy.value} puts weights on {' and '.join(not_gpus)}, and with vLLM all of them must be "
            "on GPUs"
        )
    if len(labels := dict.fromkeys(use.label for use in placement.usage)) > 1:
        raise UnsupportedError(f"a model is split over GPUs of one kind only, and these are {' and '.join(labels)}")
    split = (
        _tensor_parallel(placement, network, config, dtype_bytes)
        if strategy in TENSOR
        else _pipeline_parallel(placement, network, dtype_bytes)
    )
    free = {device.name: device.free_bytes for device in inventory.devices}
    for use in split.placement.usage:
        if use.weight_bytes > free[use.device]:
            raise UnsupportedError(
                f"device_map={strategy.value} ({split.describe()}) puts {gib(use.weight_bytes)} of weights on "
                f"{use.device}, which has {gib(free[use.device])} free"
            )
    return split


def _tensor_parallel(
    placement: Placement, network: NetworkSpec, config: Mapping[str, Any], dtype_bytes: int
) -> Parallelism:
    num = len(placement.usage)
    heads = config["num_attention_heads"]
    cache_heads = config.get("num_key_value_heads") or heads
    if heads % num or cache_heads % num:
        raise UnsupportedError(
            f"{num} GPUs cannot share {heads} attention heads and {cache_heads} key-value heads evenly, as "
            f"device_map={placement.strategy.value} (tensor parallelism) needs; device_map=sequential splits between "
            "layers, and CUDA_VISIBLE_DEVICES can leave GPUs out"
        )
    share = -(-network.num_bytes(dtype_bytes) // num)
    # each GPU has a part of every layer: that all have all layers makes `free_cache_bytes` right
    usage = tuple(replace(use, weight_bytes=share, num_layers=max(1, network.num_layers)) for use in placement.usage)
    shared = replace(placement, map={"": " + ".join(placement.devices)}, usage=usage)
    return Parallelism(shared, tensor=num)


def _pipeline_parallel(placement: Placement, network: NetworkSpec, dtype_bytes: int) -> Parallelism:
    layers = tuple(use.num_layers for use in placement.usage)
    if not all(layers):
        empty = next(use.device for use in placement.usage if not use.num_layers)
        raise UnsupportedError(
            f"device_map={placement.strategy.value} puts no layer on {empty}, and each stage of vLLM's pipeline needs "
            "one; device_map=balanced uses all GPUs, and CUDA_VISIBLE_DEVICES can leave that one out"
        )
    return Parallelism(replace(placement, usage=_stage_usage(placement, network, dtype_bytes)), stage_layers=layers)


def _stage_usage(placement: Placement, network: NetworkSpec, dtype_bytes: int) -> tuple[DeviceUsage, ...]:
    """Return what the stages hold: the first one has the embeddings; the last one has the head and, if tied, a copy."""
    sizes = network.module_bytes(dtype_bytes)
    layers = [sizes[layer.name] for layer in network.layers]
    tied = {source: name for name, source in network.tied.items()}
    ends = {"first": 0, "last": 0}
    for weight in network.weights():
        if any(weight.name.startswith(f"{layer.name}.") for layer in network.layers):
            continue
        is_embedding = "embed_tokens" in weight.name
        ends["first" if is_embedding else "last"] += weight.num_bytes(dtype_bytes)
        if weight.name in tied:
            ends["last"] += weight.num_bytes(dtype_bytes)
    usage, first = [], 0
    for index, use in enumerate(placement.usage):
        size = sum(layers[first : first + use.num_layers])
        size += ends["first"] if index == 0 else ends["last"] if index == len(placement.usage) - 1 else 0
        usage.append(replace(use, weight_bytes=size))
        first += use.num_layers
    return tuple(usage)
