"""An engine of transformers as its users have it: without what this project changes in a loaded network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hymt_batch.decode.engine import Engine
from hymt_batch.decode.request import Completion, Request
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.weight_packing import head_input_as_given


class AsInstalled(Engine):
    """An engine that runs a loaded network, which other engines share, as transformers does by itself."""

    def __init__(self, engine: Engine, hymt: LoadedModel) -> None:
        self._engine, self._network = engine, hymt.network
        self.loaded, self.device = engine.loaded, engine.device

    @property
    def environment(self) -> dict[str, Any]:
        return self._engine.environment

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        with head_input_as_given(self._network):
            return self._engine.generate(requests, check_stop)

    def close(self) -> None:
        self._engine.close()
