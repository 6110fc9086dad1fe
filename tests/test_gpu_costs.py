"""What a GPU would pay for, counted on a CPU: prefill passes and their padding, moves of rows, copies from the host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hymt_batch.decode import async_copy, network_patch
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.graph import EmulatedGraphs
from hymt_batch.decode.kernels.fused_layers import FusedLayers
from hymt_batch.decode.model_runner import ModelRunner
from hymt_batch.decode.request import Completion
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.synthetic import Shape
from tests.campaigns import gpu_counts
from tests.fakes.engine import make_context, make_requests
from tests.test_slots import loaded, prompts, with_memory_errors

pytestmark = pytest.mark.core

CARD = SamplingParams(True, 0.7, 0.6, 20, 1.05)


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return loaded(DeviceMapConfig(strategy=Strategy.cpu))


@pytest.fixture(scope="module")
def ids(hymt: LoadedModel) -> list[list[int]]:
    return prompts(hymt, 40, ("fr", "de", "zh"))


@pytest.fixture(scope="module")
def expected(hymt: LoadedModel, ids: list[list[int]]) -> list[Completion]:
    """The completions with the rules of a CPU, which tests/test_slots.py compares with rows decoded alone."""
    return decode(hymt, ids, "cpu")[0]


def decode(
    hymt: Any, ids: Sequence[Sequence[int]], device_type: str, *, captured: bool = False, **options: Any
) -> tuple[list[Completion], Counters]:
    params, limits = options.pop("sampling_params", GREEDY), options.pop("limits", [200] * len(ids))
    runner = CudaGraphRunner(hymt, params, EmulatedGraphs(), device_type) if captured else None
    settings = DecodeConfig(read_every=options.pop("read_every", 1))
    context = make_context(hymt, settings=settings, **{"max_rows": 8, **options})
    engine = SlotEngine(context, runner, device_type)
    return engine.generate(make_requests(ids, limits, params), lambda: None), engine.counters


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("max_rows", [1, 5, 64])
def test_the_rules_of_a_gpu_give_the_same_text(
    hymt: LoadedModel, ids: list[list[int]], expected: list[Completion], max_rows: int, captured: bool
) -> None:
    completions, counters = decode(hymt, ids, "cuda", max_rows=max_rows, captured=captured)
    assert completions == expected
    assert counters.moves <= counters.moved_rows
    if max_rows == 64:
        assert counters.prefills == 1


def test_the_rules_of_a_gpu_draw_the_same_tokens(hymt: LoadedModel, ids: list[list[int]]) -> None:
    options: dict[str, Any] = {"sampling_params": SamplingParams(True, 3.0, 1.0, 0, 1.3), "limits": [20] * 20}
    alone, _ = decode(hymt, ids[:20], "cpu", max_rows=1, **options)
    assert decode(hymt, ids[:20], "cuda", max_rows=7, **options)[0] == alone
    assert decode(hymt, ids[:20], "cuda", max_rows=7, captured=True, read_every=3, **options)[0] == alone


@pytest.mark.parametrize("captured", [False, True])
def test_running_out_of_memory_with_the_rules_of_a_gpu_loses_no_row(
    hymt: LoadedModel, ids: list[list[int]], expected: list[Completion], captured: bool
) -> None:
    broken = with_memory_errors(hymt, share=0.1, seed=2)
    completions, counters = decode(broken, ids, "cuda", max_rows=16, captured=captured)
    assert completions == expected
    assert counters.out_of_memory == broken.network.num_errors > 0


def test_slots_that_are_added_keep_their_rows_in_one_block(
    hymt: LoadedModel, ids: list[list[int]], expected: list[Completion]
) -> None:
    limits = [2000, *(len(row.ids) + 1 for row in expected[1:])]
    completions, _ = decode(hymt, ids, "cuda", limits=limits, max_rows=16, max_tokens=4000)
    assert [row.ids for row in completions] == [row.ids for row in expected]


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("captured", [False, True])
def test_slots_that_cannot_be_added_leave_the_storage_as_it_was(
    hymt: LoadedModel, ids: list[list[int]], monkeypatch: pytest.MonkeyPatch, device_type: str, captured: bool
) -> None:
    rows = [SequenceState(index, prompt, 9, 0) for index, prompt in enumerate(ids[:5])]
    runner: ModelRunner = ModelRunner(hymt, GREEDY, 5, Counters(), logprobs=False, device_type=device_type)
    if captured:
        runner = CudaGraphRunner(hymt, GREEDY, EmulatedGraphs(), device_type)
        runner.start(GREEDY, Counters(), 5, rows[0].max_length, max_tokens=9999)
    zeros, num_left = torch.zeros, [1]

    def failing(*shape: Any, **options: Any) -> Any:
        if len(shape) == 1 and isinstance(shape[0], tuple):
            num_left[0] -= 1
            if num_left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return zeros(*shape, **options)

    with torch.inference_mode(), network_patch.patch_network(hymt.network, 999):
        runner.prefill(rows, 0)
        capacity = runner.cache.capacity
        num_left[0] = 0 if device_type == "cuda" else 2  # the third layer of four does not fit
        with monkeypatch.context() as patch:
            patch.setattr(torch, "zeros", failing)
            with pytest.raises(torch.OutOfMemoryError):
                runner.resize(64, 60, 600)
        assert (runner.cache.num_slots, runner.cache.capacity) == (5, capacity)
        runner.step(rows)  # a captured step would otherwise run over slots that do not exist
    assert all(len(keys) >= 5 for keys, _ in runner.cache.layers.values())


def test_a_refill_on_a_gpu_is_one_prefill_pass_and_one_move() -> None:
    cpu, gpu = (gpu_counts.count(device_type, 2048, 512) for device_type in ("cpu", "cuda"))
    assert gpu.prefills <= 25 < 120 < cpu.prefills
    assert gpu.prefill_padded <= 1.25 * gpu.prefill_tokens
    assert gpu.steps == cpu.steps
    assert gpu.moves <= gpu.steps < gpu.moved_rows


def test_a_captured_step_with_kernels_launches_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The aim is at most 700 launches in a step of the 1.8B shape; the kernels' own are one each."""
    monkeypatch.setattr(torch, "autocast", lambda **settings: nullcontext())  # see `pinned`
    large = gpu_counts.model_on_meta(Shape["1.8b"])
    plain_prefill, plain_step = gpu_counts.count_launches(large, GREEDY, kernels=False)
    prefill, step = gpu_counts.count_launches(large, GREEDY, kernels=True)
    assert 1800 <= plain_step <= 1900, "versions of transformers differ by a few"
    assert step <= 420
    assert prefill < plain_prefill / 3
    _, sampling_step = gpu_counts.count_launches(large, CARD, kernels=True)
    assert step < sampling_step <= 500


class Copies(TorchDispatchMode):
    """Treats the meta device as a GPU: a copy from the host must be pinned and asynchronous, and nothing may wait."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal.default", "item")

    def __init__(self, pinned: list[Any]) -> None:
        super().__init__()
        self.pinned, self.num_copies, self.operators = pinned, 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(part in name for part in self.WAITS), f"{name} waits"
        result = func(*args, **(kwargs or {}))
        inputs, outputs = (
            [value for value in torch.utils._pytree.tree_leaves(tree) if isinstance(value, torch.Tensor)]
            for tree in ((args, kwargs or {}), result)
        )
        if all(tensor.device.type == "cpu" for tensor in (*inputs, *outputs)):
            return result
        self.operators.append(name)
        # torch.tensor(..., device=...) shows only this in inference mode, which the engine runs in
        assert "detach_" not in name, "a tensor was made on the device from values of the host"
        host = [tensor for tensor in inputs if tensor.device.type == "cpu"]
        if name.startswith(("aten.to.", "aten._to_copy.")) and host:
            assert any(tensor is host[0] for tensor in self.pinned), "the copy is not pinned"
            assert (kwargs or {}).get("non_blocking"), "the host waits for its end"
            self.num_copies += 1
        else:
            assert not host, f"{name} takes a host tensor"
        return result


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tensors that were pinned, while the meta device counts as a GPU."""
    tensors: list[Any] = []

    def pin_memory(tensor: Any) -> Any:
        tensors.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(async_copy, "is_gpu", lambda device: str(device) == "meta")
    # transformers 4.56 disables autocast around its RoPE computation, which torch does not support on the meta device
    monkeypatch.setattr(torch, "autocast", lambda **settings: nullcontext())
    return tensors


def on_meta() -> LoadedModel:
    cpu_model = synthetic.make_model(Shape["demo"], "bfloat16", 0)
    cpu_model.network.to("meta")
    return replace(cpu_model, device="meta")


@pytest.mark.parametrize("sampling_params", [GREEDY, SamplingParams(False, 1.0, 1.0, 0, 1.1), CARD])
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("kernels", [False, True])
def test_every_copy_from_the_host_is_pinned_and_asynchronous(
    sampling_params: SamplingParams, captured: bool, kernels: bool, pinned: list[Any]
) -> None:
    hymt, counters = on_meta(), Counters()
    layers = FusedLayers(hymt.network) if kernels else None
    rows = [SequenceState(index, [5, 6, 7, *range(9, 30 + index)], 9, index) for index in range(6)]
    runner: ModelRunner
    if captured:
        runner = CudaGraphRunner(hymt, sampling_params, EmulatedGraphs(), "cuda", layers)
        runner.start(sampling_params, counters, 8, 60, max_tokens=9999)
    else:
        runner = ModelRunner(hymt, sampling_params, 8, counters, logprobs=True, device_type="cuda", layers=layers)
    draws = int(sampling_params.do_sample)
    with torch.inference_mode(), network_patch.patch_network(hymt.network, 300):
        with Copies(pinned) as prefix_copies:
            runner.prefix = runner.compute_prefix([5, 6, 7])
        with Copies(pinned) as prefill_copies:
            runner.prefill(rows, 0)
        with Copies(pinned) as move_copies:
            runner.move([5, 4], [0, 2], 40)
        runner.step(rows[:4])
        runner.move([3], [1], 40)
        with Copies(pinned) as step_copies:
            runner.step(rows[:3])
    assert prefix_copies.num_copies == 1
    assert prefill_copies.num_copies == 1 + draws, "all prompts of a pass; the keys of the draws"
    assert move_copies.num_copies == 1
    # a captured step uploads the state of its rows and draws on the device; a plain one uploads its positions
    assert step_copies.num_copies == 1 + (0 if captured else draws)
    num_states = 1 + (sampling_params.repetition_penalty != 1.0)  # the newest tokens; the tokens seen
    assert move_copies.operators.count("aten.index_put_.default") == 1 + num_states, "all layers move in one copy"
    assert counters.moved_rows == 3


def test_copies_that_wait_are_detected(pinned: list[Any]) -> None:
    device_tensor = torch.zeros(4, device="meta")

    def failing(copy: Any, message: str) -> None:
        with torch.inference_mode(), Copies(pinned), pytest.raises(AssertionError, match=message):
            copy()

    failing(lambda: torch.zeros(4).to("meta", non_blocking=True), "not pinned")
    failing(lambda: torch.zeros(4).pin_memory().to("meta"), "waits for its end")
    failing(lambda: torch.tensor([1, 2], device="meta"), "values of the host")
    failing(lambda: device_tensor.copy_(torch.zeros(4)), "host tensor")
    failing(lambda: device_tensor.sum().item(), "waits")
