"""The shapes of a part's forward passes depend on the part alone, not on what was decoded before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hymt_batch.decode import graph, network_patch
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.graph import EmulatedGraphs
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.model.loaded_model import LoadedModel
from tests.fakes.engine import make_context, make_requests
from tests.test_slots import loaded, prompts, with_memory_errors

pytestmark = pytest.mark.core

Shapes = Counter[tuple[int, int, int]]
"""(rows, queries, keys) of a forward pass -> number of such passes."""


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return loaded(DeviceMapConfig(strategy=Strategy.cpu))


@pytest.fixture(scope="module")
def ids(hymt: LoadedModel) -> list[list[int]]:
    return prompts(hymt, 157)


class WatchedEngine:
    """A slot engine that counts the shapes of its forward passes."""

    def __init__(self, hymt: LoadedModel, *, captured: bool, max_rows: int = 120, max_tokens: int = 999_999) -> None:
        watched = with_memory_errors(hymt)
        model, self.shapes = watched.network.model, Shapes()

        def count(**inputs: Any) -> Any:
            rows, width = inputs["input_ids"].shape
            self.shapes[rows, width, inputs["attention_mask"].shape[-1]] += 1
            return model(**inputs)

        watched.network.model = count
        context = make_context(watched, settings=DecodeConfig(), max_rows=max_rows, max_tokens=max_tokens)
        self.runner = CudaGraphRunner(watched, GREEDY, EmulatedGraphs()) if captured else None
        self.engine = SlotEngine(context, self.runner)

    def decode(self, ids: Sequence[Sequence[int]], limit: int = 5) -> Shapes:
        """Decode rows as one part, and return the shapes of its passes."""
        self.shapes.clear()
        self.engine.generate(make_requests(ids, [limit] * len(ids), GREEDY), lambda: None)
        return self.shapes.copy()


@pytest.mark.parametrize("captured", [False, True])
def test_a_part_runs_the_same_shapes_in_a_fresh_process_and_after_any_other_part(
    hymt: LoadedModel, ids: list[list[int]], captured: bool
) -> None:
    part, others = ids[:37], ids[37:]
    fresh = WatchedEngine(hymt, captured=captured).decode(part)
    for earlier in (others, others[:1]):
        engine = WatchedEngine(hymt, captured=captured)
        engine.decode(earlier)
        assert engine.decode(part) == fresh
        engine.decode(earlier, limit=300)  # wider storage
        assert engine.decode(part) == fresh
    assert max(rows for rows, width, _ in fresh if width == 1) == (48 if captured else 37)


def test_slots_that_are_added_depend_on_the_part_alone(
    hymt: LoadedModel, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LENGTH_BUCKET", 32)
    requests = make_requests(ids[:37], [12] * 37, GREEDY)
    requests[0].max_new_tokens = 900
    for request in requests[1:8]:
        request.max_new_tokens = 300  # there is room for more of these than of the first, and for all of the others
    fresh = WatchedEngine(hymt, captured=True, max_tokens=4000)
    fresh.engine.generate(requests, lambda: None)
    engine = WatchedEngine(hymt, captured=True, max_tokens=4000)
    engine.decode(ids[37:])
    engine.shapes.clear()
    engine.engine.generate(requests, lambda: None)
    assert engine.shapes == fresh.shapes
    assert len({rows for rows, width, _ in fresh.shapes if width == 1}) >= 3, "slots were added"


def test_parts_of_any_number_of_rows_share_few_graphs(hymt: LoadedModel, ids: list[list[int]]) -> None:
    engine = WatchedEngine(hymt, captured=True)
    for num in (48, 41, 35):
        engine.decode(ids[:num], limit=3)
    assert engine.runner is not None
    assert len(engine.runner.graphs) == 1


def test_storage_of_an_earlier_part_does_not_widen_a_step(hymt: LoadedModel, ids: list[list[int]]) -> None:
    runner = CudaGraphRunner(hymt, GREEDY, EmulatedGraphs())
    keys = []
    for num_slots in (6, 8, 6):
        rows = [SequenceState(index, prompt, 9, 0) for index, prompt in enumerate(ids[:5])]
        with torch.inference_mode(), network_patch.patch_network(hymt.network, 300):
            runner.start(GREEDY, Counters(), num_slots, rows[0].max_length, max_tokens=9999)
            runner.prefill(rows, 0)
            runner.step(rows)
        keys.append(next(reversed(runner.graphs))[0])
    assert runner.cache.num_slots == 8
    assert keys == [6, 8, 6]
