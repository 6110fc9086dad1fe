"""A model that vLLM splits over several processes, as it does over GPUs; here they are all on the CPU.

Jobs split a model over GPUs only, so the split is put in the place of the one that the placement gives.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hymt_batch.child_process import group_members
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.vllm import parallel
from hymt_batch.decode.vllm.parallel import Parallelism
from hymt_batch.errors import StoppedError
from hymt_batch.model.load import PreparedModel
from tests.vllm.real_vllm import needs_vllm, opened, prepared, requests_of, run, wait_for

pytestmark = needs_vllm

NUM = 100


@pytest.fixture(autouse=True)
def shared_memory() -> Iterator[None]:
    """Remove the shared memory that processes of vLLM on a CPU leave when they are killed."""
    folder = Path("/dev/shm")
    before = set(folder.glob("vllm_dist_*"))
    yield
    for path in set(folder.glob("vllm_dist_*")) - before:
        path.unlink(missing_ok=True)


def stop() -> None:
    raise StoppedError("stopped", fix="Run the same command again to continue.")


@pytest.fixture(scope="module")
def model(cache: Path) -> PreparedModel:
    return prepared()


@pytest.mark.parametrize(
    ("tensor", "stage_layers", "capture"),
    [
        (2, (), False),
        (1, (1, 3), True),  # on a CPU, vLLM 0.32 runs a pipeline only if it compiles the network
    ],
    ids=["tensor", "pipeline"],
)
def test_a_split_model_gives_our_texts_and_its_processes_end_with_it(
    monkeypatch: pytest.MonkeyPatch, model: PreparedModel, tensor: int, stage_layers: tuple[int, ...], capture: bool
) -> None:
    split = Parallelism(model.placement, tensor, stage_layers)
    monkeypatch.setattr(parallel, "resolve", lambda *_: split)
    slots = opened(model, "slots")
    requests = requests_of(slots.context.tokenizer, "fr", NUM, GREEDY)
    expected = run(slots, requests)
    engine = opened(model, "vllm", settings=DecodeConfig(engine="vllm", capture=capture))
    try:
        assert run(engine, requests) == expected
        with pytest.raises(StoppedError):
            engine.generate(requests, stop)
        others = [replace(request, max_new_tokens=5) for request in requests[::-1]]
        assert [completion.ids for completion in run(engine, others)] == [row.ids[:5] for row in expected[::-1]]
        assert run(engine, requests) == expected
        server = engine._process.pid
        assert len(group_members(server)) >= 3, "the server and a process for each part of the model"
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: not group_members(server))
    finally:
        engine.close()
