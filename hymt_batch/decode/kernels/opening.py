"""Decide whether a run uses the kernels, and check them; what is left out is logged with the reason."""

from __future__ import annotations

import logging

from hymt_batch.decode.kernels.fused_layers import FusedLayers, unsupported_reason
from hymt_batch.decode.kernels.operator_check import KernelError, check_operators
from hymt_batch.decode.settings import DecodeConfig, Kernels
from hymt_batch.errors import DeviceError, first_line
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.memory import is_gpu_failure

log = logging.getLogger(__name__)


def open_fused_layers(hymt: LoadedModel, settings: DecodeConfig) -> FusedLayers | None:
    """Return the layers of a network with kernels, which passed the checks of `operator_check.py`.

    Args:
        hymt: The loaded model.
        settings: `kernels` says whether they are wanted; with auto, only with captured steps.

    Returns:
        None if they are not wanted, cannot run here, or failed a check; the reason is logged.

    Raises:
        DeviceError: The GPU failed.
    """
    if settings.kernels is Kernels.off or (settings.kernels is Kernels.auto and not settings.capture):
        return None
    if not hymt.device.startswith("cuda"):
        if settings.kernels is Kernels.on:
            log.warning(
                "decode.kernels=on is the same as auto here: the kernels run on CUDA only, and the model is on the CPU"
            )
        return None
    reason = unsupported_reason(hymt)
    if not reason:
        layers, reason = check(hymt)
        if layers is not None:
            return layers
    log.warning("decode.kernels: off, and torch's own operators are used: %s", reason)
    return None


def check(hymt: LoadedModel) -> tuple[FusedLayers | None, str]:
    """Return the checked layers of a supported network, or None and the reason.

    Raises:
        DeviceError: The GPU failed.
    """
    import torch

    try:
        with torch.inference_mode():
            layers = FusedLayers(hymt.network)
            ratios = check_operators(layers)
    except KernelError as error:
        return None, str(error)
    except Exception as error:  # a compiler fails with many kinds of errors; the engine works without the kernels
        if is_gpu_failure(error):
            raise DeviceError(f"The GPU failed ({first_line(error)})", fix="Set decode.kernels=off.") from error
        return None, f"{type(error).__name__}: {first_line(error)}"
    log.info(
        "kernels checked error_to_torch: %s",
        " ".join(f"{name}={ratio:.2f}" for name, ratio in ratios.items()),
    )
    return layers, ""
