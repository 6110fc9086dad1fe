"""What the engines of other projects have in common here: every row is decoded greedily to its limit of new tokens.

They know neither end tokens nor sampling, so they run only networks with random weights, whose rows have no end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from hymt_batch.decode.engine import Engine, EngineContext, UnsupportedError
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.model.synthetic import NO_STOP_TOKEN


class FixedLengthEngine(Engine):
    """An engine that gives each row exactly as many tokens as its limit."""

    def __init__(self, context: EngineContext) -> None:
        """Store the context.

        Raises:
            UnsupportedError: The model has end tokens.
        """
        if set(context.tokenizer.stop_ids) != {NO_STOP_TOKEN}:
            raise UnsupportedError("it is run here without end tokens, and this model has some")
        self.context, self.loaded = context, context.load()
        self.device = self.loaded.device

    @property
    def environment(self) -> dict[str, Any]:
        return {"engine": type(self).__name__, "max_rows": self.context.budget.max_rows}

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        if any(request.sampling_params != GREEDY for request in requests):
            raise UnsupportedError("it is run here with greedy decoding only")
        check_stop()
        return [Completion(ids, "length") for ids in self.decode(requests)]

    @abstractmethod
    def decode(self, requests: Sequence[Request]) -> list[list[int]]:
        """Return the new tokens of each row."""
