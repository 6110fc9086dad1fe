"""The environment of a session, and the ceilings of the GPU: what no engine can exceed."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import partial
from typing import Any

from benchmarks.gpu_session.session import Report
from hymt_batch.bench.timing import best_seconds

PACKAGES = ("hymt-batch", "torch", "transformers", "accelerate", "tokenizers", "triton", "hydra-core", "datasets")
QUERY = "name,driver_version,memory.total,memory.used,clocks.sm,clocks.max.sm,power.limit"
NUM_LAUNCHES = 1000
REPEATS = 5


def measure(report: Report) -> None:
    """Report versions, the card, and its rates: copies, products, launches, replays of a graph."""
    import torch

    report.add(python=platform.python_version(), versions={name: version(name) for name in PACKAGES})
    device = torch.device(report.sizes.device)
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        report.add(
            device=properties.name,
            capability=f"{properties.major}.{properties.minor}",
            multiprocessors=properties.multi_processor_count,
            memory_gib=round(properties.total_memory / 2**30, 1),
            cuda=torch.version.cuda,
            cudnn=torch.backends.cudnn.version(),
            nvidia_smi=subprocess.run(
                ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"],
                capture_output=True, text=True, timeout=20, check=False,
            ).stdout.strip(),
        )  # fmt: skip
    is_gpu = device.type == "cuda"
    size = 1 << 30 if is_gpu else 1 << 22
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    report.add(
        copy_gb_per_s=round(2 * size / best_seconds(lambda: target.copy_(source), str(device), REPEATS) / 1e9, 1)
    )
    products = {}
    for rows in (8192, 512, 256) if is_gpu else (64,):
        width = 8192 if is_gpu else 64
        left, right = (torch.randn(n, width, device=device, dtype=torch.bfloat16) for n in (rows, width))
        seconds = best_seconds(partial(torch.matmul, left, right), str(device), REPEATS)
        products[rows] = round(2 * rows * width * width / seconds / 1e12, 3)
    report.add(product_tflops_per_s=products)
    report.add(**launch_costs(device))


def launch_costs(device: Any) -> dict[str, float]:
    """Return the microseconds of a small operator: launched one by one, and as a node of a replayed graph."""
    import torch

    small = torch.ones(64, device=device)

    def many() -> None:
        for _ in range(NUM_LAUNCHES):
            small.add_(1)

    costs = {"launch_us": round(best_seconds(many, str(device), REPEATS) / NUM_LAUNCHES * 1e6, 2)}
    if device.type == "cuda":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            many()
        costs["graph_node_us"] = round(best_seconds(graph.replay, str(device), REPEATS) / NUM_LAUNCHES * 1e6, 2)
    return costs


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
