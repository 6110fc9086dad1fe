"""The slot engine as a job runs it on the CPU: with packed weights, and part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from hymt_batch.decode.engine import Engine
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sequence import Counters
from hymt_batch.decode.slots import SlotEngine

IN_PARTS = "slots_in_parts"


class PackedSlots(Engine):
    """The slot engine on a network whose products are packed while it runs; other engines share the network.

    Attributes:
        engine: The slot engine; its counters are those of the last call.
    """

    def __init__(self, engine: SlotEngine, packed: AbstractContextManager[object]) -> None:
        self.engine, self._packed = engine, packed
        self.loaded, self.device = engine.loaded, engine.device

    @property
    def environment(self) -> dict[str, Any]:
        return self.engine.environment

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        self.engine.counters = Counters()
        with self._packed:
            return self.engine.generate(requests, check_stop)

    def close(self) -> None:
        self.engine.close()


class InParts(Engine):
    """An engine that runs part by part, as a job does: rows sorted by length, parts one after another."""

    def __init__(self, engine: Engine, part_rows: int) -> None:
        self._engine, self._part_rows = engine, part_rows
        self.loaded, self.device = engine.loaded, engine.device

    @property
    def environment(self) -> dict[str, Any]:
        return self._engine.environment

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        order = sorted(range(len(requests)), key=lambda n: (-len(requests[n].prompt_ids), n))
        completions: dict[int, Completion] = {}
        for start in range(0, len(order), self._part_rows):
            part = order[start : start + self._part_rows]
            completions.update(zip(part, self._engine.generate([requests[n] for n in part], check_stop), strict=True))
        return [completions[n] for n in range(len(order))]

    def close(self) -> None:
        self._engine.close()
