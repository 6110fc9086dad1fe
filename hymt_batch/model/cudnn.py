"""Disable cuDNN's attention in torch on GPUs, because it has been reported to give wrong text without an error.

Uses two ways, since either one may fail: an environment variable that torch reads at its first attention call, and a
switch set after CUDA is initialised. No other part of cuDNN is affected. Without a GPU neither has an effect. Not yet
run on a GPU.

Source: pytorch#193893 (B200, fewer than 8 key/value heads, 92 % of the outputs wrong with torch 2.11 and 2.13);
sdp_utils.cpp of torch 2.13: cuDNN comes first on compute capability 9 and 10 with cuDNN above 9.15, unless
TORCH_CUDNN_SDPA_DEPRIORITIZED=1, which puts it after a backend that accepts every input. The older
TORCH_CUDNN_SDPA_ENABLED was removed with torch 2.5; no supported version reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hymt_batch.errors import PreflightError

ENV_VARIABLE = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
ENVIRONMENT_KEY = "cudnn_sdp"
"""Key in the recorded environment of a job on a GPU; torch's name of the switch."""


def deprioritise() -> None:
    """Set the variable for this process and its child processes; call before torch is imported."""
    os.environ[ENV_VARIABLE] = "1"


def uses_gpu(devices: Iterable[str]) -> bool:
    return any(device.startswith("cuda") for device in devices)


def disable_attention(devices: Iterable[str]) -> None:
    """Disable cuDNN's attention if a device is a GPU; call after the weights are loaded, when CUDA is initialised.

    Raises:
        PreflightError: It is still enabled (E25).
    """
    if not uses_gpu(devices):
        return
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
    if torch.backends.cuda.cudnn_sdp_enabled():  # type: ignore[no-untyped-call]
        raise PreflightError(
            f"torch {torch.__version__} keeps cuDNN's attention enabled, which may give wrong text without an error",
            fix="Set model.attention=eager and decode.engine=generate, or install the torch of constraints.txt.",
            id="E25",
        )
