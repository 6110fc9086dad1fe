"""Roofline of a device: the least time for a workload, from the measured memory bandwidth and arithmetic rate.

Both are measured at run time on the network's device. No engine is as fast: kernel launches and waits are not included,
and attention counts only as the bytes that it reads. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hymt_batch.bench.timing import best_seconds
from hymt_batch.decode.request import Request
from hymt_batch.decode.sequence import Counters
from hymt_batch.model.loaded_model import LoadedModel

COPY_BYTES = {"cpu": 1 << 26, "cuda": 1 << 30}
GEMM_SIZE = {"cpu": 768, "cuda": 8192}
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Roofline:
    """Measured rates, and the seconds that a workload takes at these rates."""

    bytes_per_s: float  # bytes read plus bytes written, during a copy on the device
    flops_per_s: float  # in a large square product in the network's number format; a multiply-add is 2
    seconds: float


def measure_roofline(hymt: LoadedModel, work: Sequence[Request], counters: Counters) -> Roofline:
    """Measure the device's rates, and compute how long a run's work takes at these rates.

    Args:
        hymt: The network.
        work: Rows with their exact numbers of new tokens.
        counters: Counters of the run.

    Returns:
        The rates and the total time. A step takes the time to read all weights or the time of its products, whichever
        is longer, plus the time to read each row's keys and values. Prefill takes the time of its products.
    """
    bandwidth, rate = _measure_bandwidth(hymt), _measure_flops(hymt)
    head = hymt.network.lm_head.weight
    layers = [weight for name, weight in hymt.network.model.named_parameters() if "embed_tokens" not in name]
    num_weights = sum(weight.numel() for weight in layers)
    weights = sum(weight.nbytes for weight in layers) + head.nbytes
    steps = sum(
        num_steps * max(weights / bandwidth, rows * 2 * (num_weights + head.numel()) / rate)
        for rows, num_steps in counters.steps_of_rows.items()
    )
    # a row of p prompt tokens sees p + 1, p + 2, ... keys in the steps after its first token
    keys = sum(
        (new - 1) * len(request.prompt_ids) + new * (new - 1) // 2
        for request, new in ((request, request.max_new_tokens) for request in work)
    )
    prompts = 2 * (counters.prefill_tokens + counters.prefix_tokens) * num_weights
    firsts = 2 * counters.first_tokens * head.numel()
    seconds = steps + keys * hymt.cache_bytes_per_token / bandwidth + (prompts + firsts) / rate
    return Roofline(bandwidth, rate, seconds)


def _measure_bandwidth(hymt: LoadedModel) -> float:
    import torch

    size = COPY_BYTES[torch.device(hymt.device).type]
    source = torch.ones(size, dtype=torch.uint8, device=hymt.device)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source), hymt.device, REPEATS)


def _measure_flops(hymt: LoadedModel) -> float:
    import torch

    size = GEMM_SIZE[torch.device(hymt.device).type]
    matrix = torch.randn(size, size).to(hymt.device, getattr(torch, hymt.dtype))
    out = torch.empty_like(matrix)
    return 2 * size**3 / best_seconds(lambda: torch.mm(matrix, matrix, out=out), hymt.device, REPEATS)
