"""An engine without torch that upper-cases its input, and its registration in the place of the product's engines.

It decodes batch by batch, as `generate` does, so batches are halved when a decode function runs out of memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hymt_batch.decode import registry
from hymt_batch.decode.batches import OOM_SPLIT, decode_in_batches, group
from hymt_batch.decode.engine import Engine, EngineContext
from hymt_batch.decode.request import Completion, Request

PAUSE_S = float(os.environ.get("STUB_PAUSE_S", "0"))
"""Seconds that a batch takes, so that a kill can hit the job while it decodes."""

Decode = Callable[[Sequence[Request], Callable[[], None]], list[Completion]]
"""Decodes one batch; called with its requests and with `check_stop`."""


def upper(requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
    """Upper-case the text after the instruction of each prompt."""
    check_stop()
    time.sleep(PAUSE_S)
    completions = []
    for request in requests:
        _, _, text = bytes(request.prompt_ids[1:-1]).partition(b"\n\n")
        completions.append(Completion(list(text.decode("utf-8").upper().encode("utf-8")), "stop"))
    return completions


class FakeEngine(Engine):
    """Decodes each batch with a function."""

    def __init__(self, context: EngineContext, decode: Decode, name: str) -> None:
        self._context, self._decode, self._name = context, decode, name
        self.loaded, self.device = context.load(), context.load().device
        self._ran_out_of_memory = False

    @property
    def environment(self) -> dict[str, Any]:
        return self._context.environment(self._name)

    def take_degraded(self) -> tuple[str, ...]:
        ran_out, self._ran_out_of_memory = self._ran_out_of_memory, False
        return (OOM_SPLIT,) if ran_out else ()

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        completions, ran_out = decode_in_batches(
            requests,
            group([request.max_length for request in requests], self._context.budget),
            self._decode,
            check_stop,
            device=self.device,
            on_finished=self._context.on_finished,
        )
        self._ran_out_of_memory = self._ran_out_of_memory or ran_out
        return completions


def register(decode: Decode = upper) -> None:
    """Register the engine under the name of every engine that a job may choose, for the rest of this process."""

    def module(name: str) -> Any:
        return SimpleNamespace(open_engine=lambda context: FakeEngine(context, decode, name))

    for name, entry in registry.ENGINES.items():
        if entry.in_jobs:
            registry.ENGINES[name] = replace(entry, module=module(name))


@contextmanager
def registered(decode: Decode = upper) -> Iterator[None]:
    """Context in which the engine is registered, as by `register`."""
    original = dict(registry.ENGINES)
    register(decode)
    try:
        yield
    finally:
        registry.ENGINES.update(original)


def make_requests(
    prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling_params: Any, seeds: Sequence[int] = ()
) -> list[Request]:
    """Return one request per prompt; without `seeds`, the seed is the prompt's index."""
    seeds = seeds or range(len(prompts))
    return [Request(*row, sampling_params) for row in zip(prompts, limits, seeds, strict=True)]


def make_context(hymt: Any, **fields: Any) -> EngineContext:
    """Return what an engine of a loaded model is made from; `fields` replace the defaults."""
    from hymt_batch.decode.sampling import GREEDY
    from hymt_batch.decode.settings import DecodeConfig

    defaults: dict[str, Any] = {"settings": DecodeConfig(), "sampling_params": GREEDY, "max_rows": 16}
    defaults |= {"max_tokens": 100_000, "tokenizer": hymt.tokenizer, "model": None, "load": lambda: hymt}
    return EngineContext(**{**defaults, **fields})
