"""The steps of a session, ordered by value: a session that ends early has answered the questions that matter most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement, which runs in a process of its own."""

    name: str
    run: str  # "module:function"; called with a `Report` and `arguments`
    limit_s: float  # it is ended after this many seconds
    # seconds that earlier steps leave for it, because the rule of the default needs it; 0 if it does not
    reserved_s: float = 0.0
    arguments: Mapping[str, Any] = field(default_factory=dict)


HERE = "benchmarks.gpu_session"
STEPS = (
    Step("machine", f"{HERE}.machine:measure", 60),
    Step("texts", f"{HERE}.demo_jobs:compare_texts", 90, 45),
    Step("attention", f"{HERE}.attention_backends:compare", 60),
    Step("captured_256", f"{HERE}.speed:captured", 60, 25, {"max_rows": 256}),
    Step("captured_512", f"{HERE}.speed:captured", 60, 25, {"max_rows": 512}),
    Step("captured_1024", f"{HERE}.speed:captured", 60, 0, {"max_rows": 1024}),
    Step("kernels", f"{HERE}.speed:kernels", 75),
    Step("profile", f"{HERE}.profiler:top_kernels", 50),
    Step("baseline", f"{HERE}.speed:baseline", 90, 50),
    Step("memory", f"{HERE}.memory:force", 60, 30),
    Step("resume", f"{HERE}.demo_jobs:kill_and_resume", 90, 45),
    Step("sampling", f"{HERE}.demo_jobs:compare_sampling", 60),
)


def find(name: str) -> Step:
    """Return the step with this name."""
    return next(step for step in STEPS if step.name == name)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work the steps do."""

    device: str
    shape: str  # of the network with synthetic weights
    dtype: str
    rows: int  # decoded with captured steps, in parts of `part_rows`
    part_rows: int
    baseline_rows: int  # decoded by generate and by plain steps
    generate_rows: tuple[int, ...]  # batches of generate; the best counts
    demo_rows: int  # of the jobs with the demo model
    memory_rows: int
    attention_shape: str
    attention_rows: int
    attention_keys: int


GPU = Sizes(
    device="cuda:0",
    shape="1.8b",
    dtype="bfloat16",
    rows=4096,
    part_rows=2048,
    baseline_rows=512,
    generate_rows=(128, 256),
    demo_rows=433,
    memory_rows=2048,
    attention_shape="1.8b_slice",
    attention_rows=512,
    attention_keys=256,
)
DRY_RUN = Sizes(
    device="cpu",
    shape="demo",
    dtype="bfloat16",
    rows=8,
    part_rows=4,
    baseline_rows=4,
    generate_rows=(2, 4),
    demo_rows=6,
    memory_rows=6,
    attention_shape="demo",
    attention_rows=2,
    attention_keys=16,
)
