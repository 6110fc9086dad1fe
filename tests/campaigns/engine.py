"""Decode rows of 1 to 2,000 tokens with random ends in the slot engine, which runs out of memory at random steps.

Uses a small network with random weights in float32. No row may be lost, and every text must equal that of `generate` on
batches of similar lengths; and for one row in a hundred also that of the row decoded alone. If the two most likely
tokens differ only by rounding, either one is correct; such rows are counted as ties. Ends with one JSON line.
"""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hymt_batch.decode import slots
from hymt_batch.decode.generate import decode_batch
from hymt_batch.decode.request import Completion
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.tokenizer import Tokenizer
from tests.campaigns import command
from tests.fakes.engine import make_context, make_requests

GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)
LONGEST, STOP, WORDS = 2000, 3, 96
OUT_OF_MEMORY = 0.01  # share of the passes over more than one row that fail
PART_ROWS = 250  # rows per call, since a job decodes part by part; each call starts with all slots


@contextmanager
def out_of_memory(network: Any, seed: int) -> Iterator[list[int]]:
    """Context in which a network runs out of memory at random in passes over more than one row.

    Yields:
        The numbers of rows of the passes that failed, so far.
    """
    import torch

    rng, failed = random.Random(seed), []
    embedding = network.model.embed_tokens  # which each pass calls first, whoever runs the layers
    forward = embedding.forward

    def failing_forward(ids: Any) -> Any:
        if len(ids) > 1 and rng.random() < OUT_OF_MEMORY:
            failed.append(len(ids))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(ids)

    with mock.patch.object(embedding, "forward", failing_forward):
        yield failed


def small(seed: int) -> LoadedModel:
    """Make a network of the demo's shape with a small vocabulary: a row ends by chance after about a hundred tokens."""
    hymt = synthetic.make_model(synthetic.Shape["demo"], "float32", seed)
    tokenizer = Tokenizer(None, None, (), (), frozenset(), (STOP,), 0)
    network = hymt.network
    network.lm_head.weight.data[WORDS:] = 0.0
    return dataclasses.replace(hymt, tokenizer=tokenizer)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """Decode `size` rows and compare them with `generate`."""
    rng = random.Random(seed)
    hymt = small(seed)
    prompts, limits = [], []
    for _ in range(size):
        length = max(1, round(math.exp(rng.uniform(0, math.log(LONGEST)))))
        prompts.append([7, 8, 9, *(rng.randrange(4, 1400) for _ in range(length))])
        limits.append(rng.randint(1, 60))
    engine = slots.open_engine(make_context(hymt, max_rows=64, max_tokens=40_000))
    completions: list[Completion] = []
    with out_of_memory(hymt.network, seed) as failed:
        for start in range(0, size, PART_ROWS):
            part = slice(start, start + PART_ROWS)
            completions += engine.generate(make_requests(prompts[part], limits[part], GREEDY), lambda: None)
    expected: dict[int, Completion] = {}
    order = sorted(range(size), key=lambda n: len(prompts[n]))
    for start in range(0, size, 32):
        group = order[start : start + 32]
        requests = make_requests([prompts[n] for n in group], [limits[n] for n in group], GREEDY)
        rows = decode_batch(hymt, requests, lambda: None)
        expected.update(zip(group, rows, strict=True))
    failures = [f"row {n} is lost" for n in range(size) if completions[n].finish_reason == "memory"]
    different = [n for n in range(size) if completions[n] != expected[n]]
    ties = [n for n in different if _tie(hymt, prompts[n], completions[n].ids, expected[n].ids)]
    failures += [f"row {n} has a different text" for n in different if n not in ties]
    alone = range(0, size, 100)
    for n in alone:
        (completion,) = decode_batch(hymt, make_requests([prompts[n]], [limits[n]], GREEDY), lambda: None)
        failures += [f"row {n} has a different text when decoded alone"] if completion != completions[n] else []
    return {
        "passed": not failures and engine.counters.out_of_memory > 0,
        "failed_passes": len(failed),
        "failures": failures[:20],
        "rows": size,
        "rows_alone": len(alone),
        "rows_with_an_end": sum(completion.finish_reason == "stop" for completion in completions),
        "ties": len(ties),
        "out_of_memory": engine.counters.out_of_memory,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": sum(len(completion.ids) for completion in completions),
    }


def _tie(hymt: LoadedModel, prompt: list[int], first_ids: list[int], second_ids: list[int]) -> bool:
    """Return whether two texts diverge where the top two tokens differ only by rounding (1e-6 of the spread)."""
    import torch

    ends = zip([*first_ids, STOP], [*second_ids, STOP], strict=False)
    common = next(index for index, (a, b) in enumerate(ends) if a != b)
    with torch.inference_mode():
        logits = hymt.network(input_ids=torch.tensor([[*prompt, *first_ids[:common]]])).logits[0, -1].float()
    first, second = torch.topk(logits, 2).values.tolist()
    return bool(first - second <= 1e-6 * float(logits.max() - logits.min()))


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 10_000, "rows"))
