"""Count what the slot engine does in one part, with the rules of a CPU and with those of a GPU.

Steps, prefill passes, padding and moves follow from the lengths alone, so the network computes nothing here and the
counts are exact. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace
from typing import Any

from hymt_batch.bench import benchmark
from hymt_batch.decode.cache import PrefixCache
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.model import synthetic
from tests.campaigns import command
from tests.fakes.engine import make_context
from tests.test_slots import with_memory_errors

DEVICE_TYPES = ("cpu", "cuda")


def count(device_type: str, rows: int, max_rows: int, seed: int = command.SEED) -> Counters:
    """Decode one part of news-like lengths, and return its counters.

    Args:
        device_type: Whose rules the engine follows.
        rows: Rows of the part.
        max_rows: Number of slots.
        seed: Seed of the lengths.
    """
    import torch

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
    print(json.dumps({"rows": options.rows, "seed": options.seed, "parts": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
