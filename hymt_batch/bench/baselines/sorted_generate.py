"""Baseline: `model.generate` on batches of prompts sorted by length, as a careful user would run it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hymt_batch.decode.engine import EngineContext
from hymt_batch.decode.generate import GenerateEngine
from hymt_batch.decode.request import Request


def open_engine(context: EngineContext) -> SortedGenerate:
    return SortedGenerate(context)


class SortedGenerate(GenerateEngine):
    """The reference engine with batches that know the lengths of the prompts, but not those of the outputs."""

    def batches(self, requests: Sequence[Request]) -> Iterable[Sequence[int]]:
        order = sorted(range(len(requests)), key=lambda n: (-len(requests[n].prompt_ids), n))
        num = self.context.budget.max_rows
        return (order[start : start + num] for start in range(0, len(order), num))
