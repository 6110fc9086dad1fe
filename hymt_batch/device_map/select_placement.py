"""Strategy -> placement: which device holds which layer, why, and what it costs. Plain Python; plans without torch.

Does not load anything. Facts: a model that fits one device is never split by default, because splitting it over cards
gains nothing; on a machine without a GPU, transformers would put every layer on the CPU in silence; what does not fit
would go to main memory or disk in silence. Here each is said, or refused with the override that allows it.
"""

from __future__ import annotations

from dataclasses import replace

from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.placer import Placer
from hymt_batch.device_map.settings import DeviceInventory, DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError


def first_candidate(
    config: DeviceMapConfig, inventory: DeviceInventory, network: NetworkSpec, dtype_bytes: int
) -> Placement:
    """The placement of a network: the first of `candidates`."""
    return candidates(config, inventory, network, dtype_bytes)[0]


def candidates(
    config: DeviceMapConfig,
    inventory: DeviceInventory,
    network: NetworkSpec,
    dtype_bytes: int,
    *,
    resaved: bool = False,
) -> list[Placement]:
    """The placements to try, in order; more than one with device_map=fallback only.

    Args:
        config: The strategy asked for.
        census: Devices of this machine, or pretend ones.
        network: What is placed.
        dtype_bytes: Bytes of an element of the weights as they will be loaded.
        resaved: Whether weights on disk must be written there anew, because they are converted as they load.

    Raises:
        PreflightError: A GPU is there but unusable, missing, or too small; nothing fits.
        ConfigError: A manual map is wrong.
    """
    if inventory.gpu_error and config.strategy is not Strategy.cpu:
        raise PreflightError(
            f"This machine has a GPU that torch cannot use: {inventory.gpu_error} Mend that, or run on the CPU with "
            "device_map=cpu (many times slower).",
            id=inventory.gpu_error_id,
        )
    plan = Placer(config, inventory, network, dtype_bytes, resaved)
    if config.strategy is not Strategy.fallback:
        return [plan.place(config.strategy)]
    found, refused = [], []
    for strategy in config.order:
        try:
            placement = plan.place(strategy)
        except PreflightError as error:
            refused.append(f"{strategy.value}: {error.message}")
            continue
        said = (f"first of device_map.order that fits ({', '.join(one.value for one in config.order)})", *refused)
        found.append(replace(placement, reasons=(*placement.reasons, *said)))
    if not found:
        raise PreflightError("No strategy of device_map.order fits.\n  " + "\n  ".join(refused), id="C23")
    return found
