"""Count what the slot engine does in one part, with the rules of a CPU and with those of a GPU.

Steps, prefill passes, padding and moves follow from the lengths alone, so the network computes nothing here and the
counts are exact. Launches are counted on the meta device: operators that launch a kernel, one for each Triton kernel.
Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hymt_batch.bench import benchmark
from hymt_batch.decode.cache import PrefixCache
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.graph import EmulatedGraphs
from hymt_batch.decode.kernels.fused_layers import FusedLayers
from hymt_batch.decode.network_patch import patch_network
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import card_sampling_params
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import RecommendedSampling
from tests.campaigns import command
from tests.fakes.engine import make_context
from tests.test_slots import with_memory_errors

DEVICE_TYPES = ("cpu", "cuda")


class Launches(TorchDispatchMode):
    """Counts the operators on the meta device that would launch a kernel: all but views and empty allocations."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs, outputs = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_meta]
            for tree in ((args, kwargs or {}), result)
        )
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        is_new = any(tensor.untyped_storage()._cdata not in storages for tensor in outputs)
        is_written = func._schema.is_mutable and bool(inputs)
        if is_written or (is_new and not str(func).startswith(("aten.empty", "aten.new_empty"))):
            self.operators[str(func)] += 1
        return result


def model_on_meta(shape: synthetic.Shape) -> LoadedModel:
    """Return a network of a shape in bfloat16 on the meta device, where nothing is computed."""
    with torch.device("meta"):
        return synthetic.make_model(shape, "bfloat16", 0, "meta")


def count_launches(
    hymt: LoadedModel,
    sampling_params: SamplingParams,
    *,
    kernels: bool,
    num_rows: int = 512,
    num_prompt_tokens: int = 24,
) -> tuple[int, int]:
    """Return how many kernels a prefill pass over all slots and a captured step launch.

    Args:
        hymt: From `model_on_meta`.
        sampling_params: How a token is chosen.
        kernels: True to use the fused kernels.
        num_rows: Rows in the slots.
        num_prompt_tokens: Tokens of each prompt.
    """
    counters, layers = Counters(), FusedLayers(hymt.network) if kernels else None
    rows = [SequenceState(index, list(range(num_prompt_tokens)), 200, index) for index in range(num_rows)]
    runner = CudaGraphRunner(hymt, sampling_params, EmulatedGraphs(), "cuda", layers)
    runner.start(sampling_params, counters, num_rows, rows[0].max_length, max_tokens=1 << 30)
    with torch.inference_mode(), patch_network(hymt.network, rows[0].max_length + 1):
        with Launches() as prefill:
            runner.prefill(rows, 0)
        runner.step(rows)
        with Launches() as step:
            runner.run_step(num_rows, 256)
    return prefill.operators.total(), step.operators.total()


def count(device_type: str, rows: int, max_rows: int, seed: int = command.SEED) -> Counters:
    """Decode one part of news-like lengths, and return its counters.

    Args:
        device_type: Whose rules the engine follows.
        rows: Rows of the part.
        max_rows: Number of slots.
        seed: Seed of the lengths.
    """
    hymt = synthetic.make_model(synthetic.Shape["demo"], "float32", 0)
    empty = with_memory_errors(hymt)
    heads, size = hymt.network.config.num_key_value_heads, hymt.network.config.head_dim

    def model(**inputs: Any) -> Any:
        num, width = inputs["input_ids"].shape
        if isinstance(inputs["past_key_values"], PrefixCache):
            inputs["past_key_values"].update(*torch.zeros(2, 1, heads, width, size), 0)
        return SimpleNamespace(last_hidden_state=torch.zeros(num, width, 1))

    empty.network.model, empty.network.lm_head = model, lambda hidden: torch.zeros(len(hidden), 8)
    work = benchmark.make_workload(rows, hymt.vocab_size, seed)
    engine = SlotEngine(make_context(empty, max_rows=max_rows, max_tokens=1 << 30), device_type=device_type)
    completions = engine.generate(work, lambda: None)
    assert [len(row.ids) for row in completions] == [row.max_new_tokens for row in work]
    return engine.counters


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=command.SEED)
    parser.add_argument("--rows", type=int, default=2048, help="rows of the part")
    parser.add_argument("--slots", type=int, nargs="*", default=[256, 512, 1024])
    options = parser.parse_args()
    figures = []
    for max_rows in options.slots:
        for device_type in DEVICE_TYPES:
            counters = count(device_type, options.rows, max_rows, options.seed)
            figures.append(
                {
                    "rules": device_type,
                    "slots": max_rows,
                    "steps": counters.steps,
                    "prefill_passes": counters.prefills,
                    "padded_to_needed": round(counters.prefill_padded / counters.prefill_tokens, 3),
                    "moved_rows": counters.moved_rows,
                    "moves": counters.moves,
                }
            )
            print(figures[-1], flush=True)
    launches, large = [], model_on_meta(synthetic.Shape["1.8b"])
    for kernels in (False, True):
        for name, params in (("greedy", GREEDY), ("recommended", card_sampling_params(RecommendedSampling()))):
            prefill, step = count_launches(large, params, kernels=kernels)
            launches.append({"kernels": kernels, "method": name, "prefill_pass": prefill, "captured_step": step})
            print(launches[-1], flush=True)
    print(json.dumps({"rows": options.rows, "seed": options.seed, "parts": figures, "launches": launches}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
