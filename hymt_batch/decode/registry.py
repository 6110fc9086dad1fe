"""The table of engines: their names, who may choose them, and the module that each is in.

Settings, `auto`, completion, jobs and the benchmark ask this table. It imports no engine; `engine.py` imports the
module of the one that is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

AUTO = "auto"


class InBenchmark(Enum):
    """When a benchmark runs an engine."""

    never = "never"
    default = "default"
    on_request = "on_request"  # only if `engines` names it


class Draws(Enum):
    """How an engine that samples draws its tokens."""

    shared = "shared"  # with decode/sampling.py: the same tokens, whatever the engine is
    own = "own"  # in its own way: the identity of a job that samples records the engine
    none = "none"  # it decodes greedily only: settings that sample are refused


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One row of the table."""

    module: Any  # dotted name of its module, which defines `open_engine`; tests register an object that does
    in_jobs: bool = False  # True if decode.engine may name it
    auto_on: str = ""  # "cpu" or "gpu": decode.engine=auto selects it there; only for shared draws
    draws: Draws = Draws.shared
    temperatures: tuple[float, float] = (0.0, float("inf"))  # smallest and largest that it samples with
    shares_layers: bool = False  # True if device_map=auto and balanced give each GPU an equal share of every layer
    in_worker: bool = False  # True if jobs run it in worker processes only, since a process of its own may die
    in_benchmark: InBenchmark = InBenchmark.never
    benchmark_module: Any = None  # its module in a benchmark, where that is another one
    benchmark_rows: str = "max_rows"  # the benchmark's setting that limits its rows
    # of another project, which the engine needs; if it needs some, a benchmark runs it in a process of its own
    packages: tuple[str, ...] = ()


ENGINES: dict[str, EngineEntry] = {
    "slots": EngineEntry(
        module="hymt_batch.decode.slots", in_jobs=True, auto_on="cpu", in_benchmark=InBenchmark.default
    ),
    # on a GPU, slots has not been run yet
    "generate": EngineEntry(module="hymt_batch.decode.generate", in_jobs=True, auto_on="gpu"),
    "vllm": EngineEntry(
        module="hymt_batch.decode.vllm.engine",
        in_jobs=True,
        draws=Draws.own,
        temperatures=(0.01, 2.0),  # it refuses larger ones, and changes smaller ones
        shares_layers=True,
        in_worker=True,
        in_benchmark=InBenchmark.on_request,
        benchmark_module="hymt_batch.bench.baselines.vllm_process",
    ),
    "sorted_generate": EngineEntry(
        module="hymt_batch.bench.baselines.sorted_generate",
        in_benchmark=InBenchmark.default,
        benchmark_rows="generate_rows",
    ),
    "generate_in_order": EngineEntry(
        module="hymt_batch.bench.baselines.generate_in_order",
        in_benchmark=InBenchmark.default,
        benchmark_rows="generate_rows",
    ),
    "pipeline": EngineEntry(
        module="hymt_batch.bench.baselines.pipeline", in_benchmark=InBenchmark.default, benchmark_rows="generate_rows"
    ),
    "slots_captured": EngineEntry(
        module="hymt_batch.bench.baselines.slots_captured", in_benchmark=InBenchmark.on_request
    ),
    "continuous": EngineEntry(module="hymt_batch.bench.baselines.continuous", in_benchmark=InBenchmark.on_request),
    "llama_cpp": EngineEntry(
        module="hymt_batch.bench.baselines.llama",
        in_benchmark=InBenchmark.on_request,
        packages=("llama_cpp", "gguf"),
    ),
    "ctranslate2": EngineEntry(
        module="hymt_batch.bench.baselines.ctranslate",
        in_benchmark=InBenchmark.on_request,
        packages=("ctranslate2",),
    ),
}
"""Engine name -> its entry, in the order in which a benchmark runs them."""


def job_choices() -> list[str]:
    """Return the values of decode.engine."""
    return [AUTO, *(name for name, entry in ENGINES.items() if entry.in_jobs)]


def draws_of(name: str) -> Draws:
    """Return how the engine that decode.engine names draws; all that `auto` may select draw alike."""
    return Draws.shared if name == AUTO else ENGINES[name].draws


def temperatures_of(name: str) -> tuple[float, float]:
    """Return the smallest and the largest temperature of the engine that decode.engine names."""
    return (0.0, float("inf")) if name == AUTO else ENGINES[name].temperatures


def shares_layers(name: str) -> bool:
    """Return whether the engine that decode.engine names gives each GPU of an even split a share of every layer."""
    return name != AUTO and ENGINES[name].shares_layers


def auto_choice(device: str) -> str:
    """Return the engine that decode.engine=auto selects on a device such as cpu or cuda:0."""
    kind = "cpu" if device == "cpu" else "gpu"
    return next(name for name, entry in ENGINES.items() if entry.auto_on == kind)


def benchmark_choices(*when: InBenchmark) -> list[str]:
    """Return the engines that a benchmark runs at one of these times."""
    return [name for name, entry in ENGINES.items() if entry.in_benchmark in when]
