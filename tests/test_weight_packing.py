"""Packed weights give the same text, and the plain copy is kept only where another module needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from hymt_batch.bench import benchmark
from hymt_batch.bench.as_installed import AsInstalled
from hymt_batch.bench.baselines.sorted_generate import SortedGenerate
from hymt_batch.bench.packed_slots import PackedSlots
from hymt_batch.decode.engine import Engine
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import StoppedError
from hymt_batch.model import prepare, synthetic, weight_packing
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import Dtype, ModelConfig
from hymt_batch.model.synthetic import Shape


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_packing, "MIN_ELEMENTS", 1)


CPU = DeviceMapConfig(strategy=Strategy.cpu)


def loaded(config: ModelConfig) -> LoadedModel:
    prepared = prepare.prepare_model(config, CPU)
    return prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.mark.core
def test_a_model_on_the_cpu_is_packed_and_frees_its_plain_weights() -> None:
    hymt = loaded(ModelConfig(path="demo:model"))
    layers = [module for name, module in hymt.network.named_modules() if name.endswith("_proj")]
    assert layers
    assert all(layer.weight.is_meta for layer in layers)
    assert not hymt.network.lm_head.weight.is_meta, "it is also the embedding"
    plain = loaded(ModelConfig(path="demo:model", packed=False))
    assert not any(weight.is_meta for weight in plain.network.parameters())
    assert hymt.placement is not None
    prepared = prepare.prepare_model(ModelConfig(path="demo:model"), CPU)
    assert prepared.environment_for(hymt.placement)["packed"] is True


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_vocabulary_matrix_gets_contiguous_states_in_bfloat16(dtype: str, packed: bool) -> None:
    hymt = loaded(ModelConfig(path="demo:model", packed=packed, dtype=Dtype(dtype)))
    made = synthetic.make_model(Shape["demo"], dtype, 1)
    for network in (hymt.network, made.network):
        seen: list[bool] = []
        network.lm_head.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].is_contiguous()))
        ids = torch.arange(1, 13).view(2, 6)
        network(input_ids=ids, logits_to_keep=1)
        assert seen == [dtype == "bfloat16"], "in float32, the view is as fast as a copy"


def test_a_benchmark_runs_the_engines_of_others_without_this_copy() -> None:
    made = synthetic.make_model(Shape["demo"], "bfloat16", 1)
    seen: list[bool] = []

    class Passes(Engine):
        device = "cpu"

        @property
        def environment(self) -> dict[str, Any]:
            return {}

        def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
            made.network(input_ids=torch.arange(1, 13).view(2, 6), logits_to_keep=1)
            check_stop()
            return []

    def stop() -> None:
        raise StoppedError("the run must end")

    made.network.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    engine = Passes()
    AsInstalled(engine, made).generate([], lambda: None)
    engine.generate([], lambda: None)
    with pytest.raises(StoppedError):
        AsInstalled(engine, made).generate([], stop)
    engine.generate([], lambda: None)
    assert seen == [False, True, False, True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_products_equal_plain_ones_within_rounding(dtype: str) -> None:
    import torch

    hymt = synthetic.make_model(Shape["demo"], dtype, 0)
    rows = torch.randn(5, 7, hymt.network.lm_head.in_features).to(hymt.network.dtype)
    products = weight_packing.PackedWeights(hymt.network)
    with torch.inference_mode():
        plain = hymt.network.lm_head(rows)
        with products as num_packed:
            assert num_packed == 4 * 7 + 1
            packed = hymt.network.lm_head(rows)
        plain_again = hymt.network.lm_head(rows)
    assert torch.equal(plain, plain_again)
    torch.testing.assert_close(packed, plain, rtol=2e-2 if dtype == "bfloat16" else 1e-4, atol=1e-2)


def test_the_text_equals_that_of_plain_products() -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    work = benchmark.make_workload(24, hymt.vocab_size, 5)
    products = weight_packing.PackedWeights(hymt.network)
    context = benchmark.make_context(hymt, 8)
    expected = SortedGenerate(context).generate(work, lambda: None)
    assert PackedSlots(SlotEngine(context), products).generate(work, lambda: None) == expected


def test_packed_products_that_differ_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    packed_linear = weight_packing._packed_linear
    monkeypatch.setattr(
        weight_packing, "_packed_linear", lambda rows, blocks, bias: packed_linear(rows, blocks, bias) * 1.01
    )
    assert weight_packing.pack(hymt.network) == 0
    assert "are not packed" in caplog.text
    assert not any(weight.is_meta for weight in hymt.network.parameters())


def test_a_vocabulary_matrix_is_not_stored_twice_if_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    hymt.network.lm_head.weight = hymt.network.get_input_embeddings().weight
    monkeypatch.setattr(weight_packing, "available_bytes", lambda: 1000)
    assert weight_packing.pack(hymt.network) == 4 * 7
    assert "forward" not in vars(hymt.network.lm_head)


def test_small_matrices_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    hymt = synthetic.make_model(Shape["demo"], "float32", 0)
    monkeypatch.setattr(weight_packing, "MIN_ELEMENTS", 1 << 17)
    assert weight_packing.pack(hymt.network) == 1, "the vocabulary"
    assert "forward" in vars(hymt.network.lm_head)
