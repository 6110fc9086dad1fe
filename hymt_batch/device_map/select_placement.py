"""Strategy -> placement: decide which device holds which layer, without torch and without loading anything.

By default a model that fits one device is never split, because splitting it over GPUs gains nothing. Without a GPU,
transformers silently puts every layer on the CPU, and layers that do not fit silently go to main memory or disk. Here
each of these is reported, or refused with the override that allows it.
"""

from __future__ import annotations

from dataclasses import replace

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.placer import Placer
from hymt_batch.device_map.settings import DeviceInventory, DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError


def candidates(
    config: DeviceMapConfig,
    inventory: DeviceInventory,
    network: NetworkSpec,
    dtype_bytes: int,
    *,
    resaved: bool = False,
) -> list[Placement]:
    """Return the placements to try, in order; more than one only with device_map=fallback.

    Args:
        config: Settings of the placement.
        inventory: Devices of this machine, or simulated ones.
        network: The network to place.
        dtype_bytes: Bytes per element of the weights as they will be loaded.
        resaved: Weights on disk must be written to the offload folder, because they are converted on loading.

    Raises:
        PreflightError: A GPU is unusable, missing or too small, or no strategy fits.
        ConfigError: A manual map is invalid.
    """
    if inventory.gpu_error and config.strategy is not Strategy.cpu:
        raise PreflightError(
            "This machine has a GPU that torch cannot use",
            why=inventory.gpu_error,
            fix="Fix that, or run on the CPU with device_map=cpu (many times slower).",
            id=inventory.gpu_error_id,
        )
    placer = Placer(config, inventory, network, dtype_bytes, resaved)
    if config.strategy is not Strategy.fallback:
        return [placer.place(config.strategy)]
    placements, refused = [], []
    for strategy in config.order:
        try:
            placement = placer.place(strategy)
        except PreflightError as error:
            refused.append(f"{strategy.value}: {error.message}")
            continue
        reasons = (
            f"first of device_map.order that fits ({', '.join(listed.value for listed in config.order)})",
            *refused,
        )
        placements.append(replace(placement, reasons=(*placement.reasons, *reasons)))
    if not placements:
        raise PreflightError(
            "\n  ".join(["No strategy of device_map.order fits.", *refused]),
            fix="Do one of these, or add a strategy that fits to device_map.order, such as cpu.",
            id="C23",
        )
    return placements
