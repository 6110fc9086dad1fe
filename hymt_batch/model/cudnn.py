"""Keeps torch from computing attention with cuDNN on a GPU, where it was seen to give wrong text without an error.

Twice, since either alone may be lost: a variable that torch reads at its first attention, and a switch set once CUDA
runs. Nothing else of cuDNN is touched. Without a GPU both change nothing. Never run on a GPU yet.

Source: pytorch#193893 (B200, fewer than 8 key/value heads, 92 % of the outputs wrong with torch 2.11 and 2.13);
sdp_utils.cpp of torch 2.13: cuDNN comes first on compute capability 9 and 10 with cuDNN above 9.15, unless
TORCH_CUDNN_SDPA_DEPRIORITIZED=1, with which it comes behind a back end that takes everything. The older
TORCH_CUDNN_SDPA_ENABLED went with torch 2.5 and is read by no supported version.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from hymt_batch.errors import PreflightError

ENV_VARIABLE = "TORCH_CUDNN_SDPA_DEPRIORITIZED"
ENVIRONMENT_KEY = "cudnn_sdp"
"""How the environment of a job on a GPU records it; torch's own name of the switch."""


def deprioritise() -> None:
    """Set the variable, for this process and those that it starts; call before torch is imported."""
    os.environ[ENV_VARIABLE] = "1"


def uses_gpu(devices: Iterable[str]) -> bool:
    return any(device.startswith("cuda") for device in devices)


def disable_attention(devices: Iterable[str]) -> None:
    """Switch cuDNN's attention off, where a model lies on a GPU; call when CUDA has started, as weights lie there.

    Raises:
        PreflightError: It is still on (E25).
    """
    if not uses_gpu(devices):
        return
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)
    if torch.backends.cuda.cudnn_sdp_enabled():  # type: ignore[no-untyped-call]
        raise PreflightError(
            f"torch {torch.__version__} keeps cuDNN's attention on, which may give wrong text without an error. Set "
            "model.attention=eager and decode.engine=generate, or install the torch of constraints.txt.",
            id="E25",
        )
