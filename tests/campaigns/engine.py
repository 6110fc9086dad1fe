"""Rows of 1 to 2,000 tokens with random ends through the slot engine, which runs out of memory at random steps.

A small network with random weights, in float32: no row may be lost, and every text must be that of `generate` over
batches of like lengths; of one row in a hundred, also that of the row alone. Where the two likeliest tokens differ by
rounding alone, either is right: such rows are counted. Ends with one JSON line.
"""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from pathlib import Path
from typing import Any

from hymt_batch.decode.generate import Completion, decode_batch
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import decode_prompts
from hymt_batch.model import synthetic
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.tokenizer import Tokenizer
from tests.campaigns import command

GREEDY = SamplingParams(False, 1.0, 1.0, 0, 1.0)
LONGEST, STOP, WORDS = 2000, 3, 96
OUT_OF_MEMORY = 0.01  # of the passes over more than one row
PART_ROWS = 250  # rows of a call, as a job decodes part by part; each call begins with all slots


class Forgetful:
    """A network that runs out of memory at random, whatever is asked of it over more than one row."""

    def __init__(self, network: Any, seed: int) -> None:
        self.network, self.config, self.rng, self.refusals = network, network.config, random.Random(seed), 0

    def modules(self) -> Any:
        return self.network.modules()

    def model(self, **inputs: Any) -> Any:
        import torch

        if len(inputs["input_ids"]) > 1 and self.rng.random() < OUT_OF_MEMORY:
            self.refusals += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return self.network.model(**inputs)

    def lm_head(self, hidden: Any) -> Any:
        return self.network.lm_head(hidden)


def small(seed: int) -> LoadedModel:
    """The demo's shape with few words, so that an end comes by chance after a hundred tokens or so."""
    hymt = synthetic.make_model(synthetic.Shape["demo"], "float32", seed)
    words = Tokenizer(None, None, (), (), frozenset(), (STOP,), 0)
    network = hymt.network
    network.lm_head.weight.data[WORDS:] = 0.0
    return dataclasses.replace(hymt, tokenizer=words)


def run(seed: int, size: int, work: Path) -> dict[str, Any]:
    """`size` rows."""
    rng = random.Random(seed)
    hymt = small(seed)
    prompts, limits = [], []
    for _ in range(size):
        length = max(1, round(math.exp(rng.uniform(0, math.log(LONGEST)))))
        prompts.append([7, 8, 9, *(rng.randrange(4, 1400) for _ in range(length))])
        limits.append(rng.randint(1, 60))
    broken = dataclasses.replace(hymt, network=Forgetful(hymt.network, seed))
    counters = Counters()
    made: list[Completion] = []
    for start in range(0, size, PART_ROWS):
        some = slice(start, start + PART_ROWS)
        rows, _ = decode_prompts(
            broken,
            prompts[some],
            limits[some],
            [0] * len(prompts[some]),
            GREEDY,
            lambda: None,
            max_rows=64,
            max_tokens=40_000,
            counters=counters,
        )
        made += rows
    wanted: dict[int, Completion] = {}
    order = sorted(range(size), key=lambda n: len(prompts[n]))
    for start in range(0, size, 32):
        few = order[start : start + 32]
        rows = decode_batch(
            hymt, [prompts[n] for n in few], [limits[n] for n in few], [0] * len(few), GREEDY, lambda: None
        )
        wanted.update(zip(few, rows, strict=True))
    failures = [f"row {n} is lost" for n in range(size) if made[n].finish_reason == "memory"]
    others = [n for n in range(size) if made[n] != wanted[n]]
    ties = [n for n in others if _tie(hymt, prompts[n], made[n].ids, wanted[n].ids)]
    failures += [f"row {n} has another text" for n in others if n not in ties]
    alone = range(0, size, 100)
    for n in alone:
        (one,) = decode_batch(hymt, [prompts[n]], [limits[n]], [0], GREEDY, lambda: None)
        failures += [f"row {n} alone has another text"] if one != made[n] else []
    return {
        "passed": not failures and counters.out_of_memory > 0,
        "failures": failures[:20],
        "rows": size,
        "rows_alone": len(alone),
        "rows_with_an_end": sum(one.finish_reason == "stop" for one in made),
        "ties": len(ties),
        "out_of_memory": counters.out_of_memory,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": sum(len(one.ids) for one in made),
    }


def _tie(hymt: LoadedModel, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Whether two texts part where the two likeliest tokens differ by rounding alone: a millionth of the spread."""
    import torch

    ends = zip([*one, STOP], [*other, STOP], strict=False)
    common = next(place for place, (a, b) in enumerate(ends) if a != b)
    with torch.inference_mode():
        logits = hymt.network(input_ids=torch.tensor([[*prompt, *one[:common]]])).logits[0, -1].float()
    first, second = torch.topk(logits, 2).values.tolist()
    return bool(first - second <= 1e-6 * float(logits.max() - logits.min()))


if __name__ == "__main__":
    sys.exit(command.main(__doc__, run, 10_000, "rows"))
