"""Baseline: `model.generate` on batches in corpus order, as a pipeline makes them.

Tokenization is not included; that favours the pipeline, whose time includes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hymt_batch.decode.engine import EngineContext
from hymt_batch.decode.generate import GenerateEngine
from hymt_batch.decode.request import Request


def open_engine(context: EngineContext) -> GenerateInOrder:
    return GenerateInOrder(context)


class GenerateInOrder(GenerateEngine):
    """The reference engine with batches in the order of the requests."""

    def batches(self, requests: Sequence[Request]) -> Iterable[Sequence[int]]:
        num = self.context.budget.max_rows
        return (range(start, min(start + num, len(requests))) for start in range(0, len(requests), num))
