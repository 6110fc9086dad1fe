"""How fast the engines decode a network with synthetic weights, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields
from typing import Any

from benchmarks.gpu_session.phases import PhaseClock
from benchmarks.gpu_session.session import Report
from hymt_batch.bench.timing import synchronize

SEED = 20261129
DRY_RUN_TOKENS = 16


class Network:
    """A network with random weights, made on the device, and rows with news-like lengths."""

    def __init__(self, report: Report) -> None:
        from hymt_batch.bench import benchmark
        from hymt_batch.model import synthetic

        sizes, began = report.sizes, time.perf_counter()
        self.hymt = synthetic.make_model(synthetic.Shape[sizes.shape], sizes.dtype, SEED, sizes.device)
        synchronize(sizes.device)
        report.add(weights_s=round(time.perf_counter() - began, 2))
        work = benchmark.make_workload(sizes.rows, self.hymt.vocab_size, SEED)
        if report.dry_run:
            for row in work:
                row.max_new_tokens = min(row.max_new_tokens, DRY_RUN_TOKENS)
        # as a job does: sorted by the length of the source, then cut into parts
        self.rows = sorted(work, key=lambda request: -len(request.prompt_ids))
        self.parts = [self.rows[start : start + sizes.part_rows] for start in range(0, sizes.rows, sizes.part_rows)]

    def open_engine(self, name: str, max_rows: int, **settings: Any) -> Any:
        """Open an engine of the benchmark's registry; a setting that this version does not have is left out."""
        from hymt_batch.decode.engine import EngineContext, find
        from hymt_batch.decode.sampling import GREEDY
        from hymt_batch.decode.settings import DecodeConfig

        known = {field.name for field in fields(DecodeConfig)}
        config = DecodeConfig(**{key: value for key, value in settings.items() if key in known})
        context = EngineContext(
            load=lambda: self.hymt, model=None, tokenizer=self.hymt.tokenizer, settings=config,
            sampling_params=GREEDY, max_rows=max_rows, max_tokens=1 << 30,
        )  # fmt: skip
        return find(name).open_engine(context)

    def evenly_spread(self, num_rows: int, batch: int) -> list[Any]:
        """Return whole batches of neighbouring rows, evenly spread over all of them.

        So batches are as even in length as those of a whole part, which favours an engine without refilling.
        """
        batch = min(batch, num_rows)
        num_batches = num_rows // batch
        stride = len(self.rows) // num_batches
        return [row for n in range(num_batches) for row in self.rows[n * stride : n * stride + batch]]


def decode(device: str, engine: Any, parts: Sequence[Sequence[Any]], clock: Any = None) -> tuple[list[float], int]:
    """Decode parts one after the other; return the seconds of each, and the number of new tokens."""
    seconds, num_tokens = [], 0
    context: AbstractContextManager[Any] = clock or nullcontext()
    with context:
        for part in parts:
            synchronize(device)
            began = time.perf_counter()
            completions = engine.generate(part, lambda: None)
            synchronize(device)
            seconds.append(time.perf_counter() - began)
            num_tokens += sum(len(completion.ids) for completion in completions)
    return seconds, num_tokens


def captured(report: Report, max_rows: int) -> None:
    """Report the speed of captured steps in parts, as a job runs them: times by phase, fraction of the roofline."""
    network = Network(report)
    measure_captured(report, network, "", max_rows)


def measure_captured(report: Report, network: Network, label: str, max_rows: int, **settings: Any) -> None:
    """Report the figures of captured steps under keys that begin with a label."""
    import torch

    from hymt_batch.bench.roofline import measure_roofline

    device = report.sizes.device
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    engine = network.open_engine("slots", max_rows, capture=True, **settings)
    clock = PhaseClock(device)
    seconds, num_tokens = decode(device, engine, network.parts, clock)
    counters = engine.counters
    roof = measure_roofline(network.hymt, network.rows, counters)
    figures = {
        "max_rows": max_rows,
        "complete": num_tokens == sum(row.max_new_tokens for row in network.rows) and not engine.uncaptured_reason,
        "uncaptured_reason": engine.uncaptured_reason,
        "environment": engine.environment,
        "part_s": [round(value, 3) for value in seconds],
        "new_tokens": num_tokens,
        "tokens_per_s": round(num_tokens / sum(seconds), 1),
        "phases": clock.figures(sum(seconds)),
        "roofline_s": round(roof.seconds, 3),
        "fraction_of_roofline": round(roof.seconds / sum(seconds), 4),
        "copy_gb_per_s": round(roof.bytes_per_s / 1e9, 1),
        "product_tflops_per_s": round(roof.flops_per_s / 1e12, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.startswith("cuda") else None,
        "counters": {name: value for name, value in asdict(counters).items() if name != "steps_of_rows"},
    }
    report.add(**{f"{label}{key}": value for key, value in figures.items()})


def kernels(report: Report) -> None:
    """Report captured steps with and without the kernels of this project, and whether their tokens are equal."""
    from benchmarks.gpu_session.demo_jobs import has_kernels

    if not has_kernels():
        report.add(available=False, note="this version has no setting decode.kernels")
        return
    from hymt_batch.decode.settings import Kernels

    network, device = Network(report), report.sizes.device
    max_rows = 512 if device.startswith("cuda") else 4
    report.add(available=True)
    for label, choice in (("on_", Kernels.on), ("off_", Kernels.off)):
        measure_captured(report, network, label, max_rows, kernels=choice)
    # false: a check refused them; log.txt has the reason
    report.add(used=report.figures["on_environment"].get("kernels"))
    part = network.evenly_spread(min(64, len(network.rows)), 64)
    tokens = [
        [row.ids for row in network.open_engine("slots", 64, kernels=choice).generate(part, lambda: None)]
        for choice in (Kernels.on, Kernels.off)
    ]
    equal_rows = sum(a == b for a, b in zip(*tokens, strict=True))
    report.add(equal_rows=f"{equal_rows}/{len(part)} (random weights: rounding decides near ties)")
    report.add(speed_up=round(report.figures["on_tokens_per_s"] / report.figures["off_tokens_per_s"], 3))


def baseline(report: Report) -> None:
    """Report sorted generate, plain slots and captured steps on the same rows."""
    sizes, network = report.sizes, Network(report)
    rows = network.evenly_spread(sizes.baseline_rows, max(sizes.generate_rows))
    report.add(rows=len(rows), new_tokens=sum(row.max_new_tokens for row in rows))
    runs = [("generate", "sorted_generate", num, {}) for num in sizes.generate_rows]
    for max_rows in (len(rows), len(rows) // 2):
        runs += [("slots", "slots", max_rows, {}), ("captured", "slots", max_rows, {"capture": True})]
    for label, name, max_rows, settings in runs:
        engine = network.open_engine(name, max_rows, **settings)
        decode(sizes.device, engine, [rows[: max(2, len(rows) // 16)]])  # the first calls load kernels
        seconds, num_tokens = decode(sizes.device, engine, [rows])
        speed = round(num_tokens / seconds[0], 1)
        best = max(speed, report.figures.get(f"{label}_tokens_per_s", 0.0))
        report.add(**{f"{label}_{max_rows}_rows_s": round(seconds[0], 3), f"{label}_tokens_per_s": best})
