"""The layers on the CPU: the same bits as transformers' own, and only where the modules are known."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hymt_batch.decode import cpu_layers, slot_attention, slots
from hymt_batch.decode.cpu_layers import CpuLayers, open_cpu_layers
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.settings import DecodeConfig, Kernels
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.model import weight_packing
from hymt_batch.model.weight_packing import PackedWeights
from tests.fakes.engine import make_context
from tests.fakes.tiny_network import DTYPES, tiny_model

LENGTHS = (3, 40, 9, 21, 1, 33, 17)


def requests() -> list[Request]:
    """Return prompts of unequal length that share their first tokens, more than there are slots."""
    return [
        Request([7, 8, 9, *((11 * n + k) % 290 + 1 for k in range(length))], 5 + 4 * n, n, GREEDY)
        for n, length in enumerate(LENGTHS)
    ]


@pytest.mark.core
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", ["hunyuan_v1_dense", "hy_v3"])
def test_tokens_and_logprobs_are_those_of_transformers(
    model_type: str, dtype: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model_type not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {model_type}")
    monkeypatch.setattr(weight_packing, "MIN_ELEMENTS", 1)
    hymt = tiny_model(model_type, dtype)
    if packed:
        assert weight_packing.pack(hymt.network)
    layers = open_cpu_layers(hymt)
    assert layers is not None
    calls: list[tuple[int, ...]] = []
    original = layers.hidden_states
    monkeypatch.setattr(layers, "hidden_states", lambda ids, *rest: (calls.append(ids.shape), original(ids, *rest))[1])
    context = make_context(hymt, max_rows=4, logprobs=True)
    own = SlotEngine(context, layers=layers).generate(requests(), lambda: None)
    assert own == SlotEngine(context).generate(requests(), lambda: None)
    assert any(width > 1 for _, width in calls)
    assert {rows for rows, width in calls if width == 1} >= {1, 2, 4}
    assert len({tuple(completion.ids) for completion in own}) == len(LENGTHS)


@pytest.mark.parametrize("kernels", Kernels)
def test_an_engine_on_the_cpu_has_them_unless_kernels_are_off(kernels: Kernels) -> None:
    engine = slots.open_engine(make_context(tiny_model(), settings=DecodeConfig(kernels=kernels)))
    assert isinstance(engine.layers, CpuLayers) == (kernels is not Kernels.off)
    assert engine.environment["kernels"] is False, "these are the kernels on a GPU"


def test_networks_with_other_modules_run_as_transformers_runs_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    other = tiny_model("llama")
    assert open_cpu_layers(other) is None
    assert "layers of transformers are used: the layers of a network of type llama are unknown" in caplog.text

    offloaded = tiny_model()
    add_hook_to_module(offloaded.network.model.layers[1].mlp.up_proj, ModelHook())
    assert open_cpu_layers(offloaded) is None
    assert "not all of the network is on the CPU" in caplog.text

    changed = tiny_model()
    changed.network.model.layers[1].self_attn.key_layernorm = torch.nn.Identity()
    assert open_cpu_layers(changed) is None
    assert "key_layernorm of layer 1 is Identity instead of HunYuanDenseV1RMSNorm" in caplog.text

    activated = tiny_model(hidden_act="gelu")
    assert open_cpu_layers(activated) is None
    assert "the activation function is gelu instead of silu" in caplog.text


def test_layers_that_fail_are_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hymt = tiny_model()
    with monkeypatch.context() as failing:
        failing.setattr(cpu_layers, "_rotate", lambda *_: torch.empty(10**15))
        assert open_cpu_layers(hymt) is None
    assert "layers of transformers are used: RuntimeError: " in caplog.text
    assert open_cpu_layers(hymt) is None, "a network is compared once"
    assert open_cpu_layers(tiny_model()) is not None


def test_a_network_is_freed_although_its_comparison_is_remembered() -> None:
    hymt = tiny_model()
    assert open_cpu_layers(hymt) is not None
    network = weakref.ref(hymt.network)
    del hymt
    gc.collect()
    assert network() is None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changes", [{"attention_bias": True}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}])
def test_other_shapes_of_the_attention_give_the_same_bits(
    changes: dict[str, Any], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_packing, "MIN_ELEMENTS", 1)
    hymt = tiny_model(dtype="bfloat16", **changes)
    for name, weight in hymt.network.named_parameters():
        if name.endswith("bias"):
            weight.normal_()
    if packed:
        assert weight_packing.pack(hymt.network)
    layers = open_cpu_layers(hymt)
    context = make_context(hymt, max_rows=4, logprobs=True)
    assert layers is not None
    assert SlotEngine(context, layers=layers).generate(requests(), lambda: None) == SlotEngine(context).generate(
        requests(), lambda: None
    )


def test_a_fault_of_a_step_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = CpuLayers.hidden_states

    def hidden_states(self: CpuLayers, ids: Any, *rest: Any) -> Any:
        hidden = original(self, ids, *rest)
        return hidden.nextafter(torch.tensor(torch.inf)) if ids.shape[1] == 1 else hidden

    monkeypatch.setattr(CpuLayers, "hidden_states", hidden_states)
    assert open_cpu_layers(tiny_model()) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_many_rows_attend_by_products(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot_attention, "_prefers_products", lambda: True)
    calls: list[int] = []
    original = slot_attention._attend_by_products
    monkeypatch.setattr(
        slot_attention,
        "_attend_by_products",
        lambda query, *a, **k: (calls.append(len(query)), original(query, *a, **k))[1],
    )
    hymt = tiny_model(dtype=dtype)
    work = [Request([7, 8, 9, *range(n + 1, n + 13 + n % 2)], 9, n, GREEDY) for n in range(24)]
    context = make_context(hymt, max_rows=24, logprobs=True)
    by_products = SlotEngine(context, layers=open_cpu_layers(hymt)).generate(work, lambda: None)
    assert calls
    assert min(calls) * 2 >= slot_attention.MIN_PRODUCT_HEADS[f"torch.{dtype}"]
    monkeypatch.setattr(slot_attention, "MIN_PRODUCT_HEADS", {})
    num_calls = len(calls)
    by_torch = SlotEngine(context, layers=open_cpu_layers(hymt)).generate(work, lambda: None)
    assert len(calls) == num_calls
    equal = sum(ours.ids == theirs.ids for ours, theirs in zip(by_products, by_torch, strict=True))
    assert equal >= 20 if dtype == "bfloat16" else equal == len(work)


def test_layers_that_round_differently_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    original = cpu_layers._rotate

    def rotate(heads: Any, *turn: Any) -> Any:
        return original(heads, *turn).mul_(1 + 2**-7)

    monkeypatch.setattr(cpu_layers, "_rotate", rotate)
    assert open_cpu_layers(tiny_model(dtype="bfloat16")) is None
    assert "layers of transformers are used: they do not give the same bits" in caplog.text


@pytest.mark.parametrize("bias", [False, True])
def test_a_joint_product_gives_each_layer_its_own_part(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_packing, "MIN_ELEMENTS", 1)
    hymt = tiny_model(attention_bias=bias)
    attention = hymt.network.model.layers[0].self_attn
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
        assert (layer.bias is not None) == bias
        if bias:
            layer.bias.normal_()
    first, second = torch.randn(2, 3, 48), torch.randn(2, 3, 48)
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    plain = [[layer(rows) for layer in layers] for rows in (first, second)]
    assert weight_packing.joint_projection(attention) is None
    with PackedWeights(hymt.network):
        joint = weight_packing.joint_projection(attention)
        assert joint is not None
        torch.testing.assert_close(joint(first), torch.cat(plain[0], -1))
        for order in ((0, 1, 2), (2, 0, 1), (1, 1, 0)):
            for rows, expected in ((first, plain[0]), (second, plain[1])):
                for index in order:
                    torch.testing.assert_close(layers[index](rows), expected[index])
        layers[0](first)  # what the other layers have not taken belongs to this input alone
        torch.testing.assert_close(layers[1](second), plain[1][1])
        with pytest.raises(RuntimeError):
            layers[0](torch.randn(2, 3, 47))
        for layer, expected in zip(layers, plain[0], strict=True):
            torch.testing.assert_close(layer(first), expected)
        assert joint._rows is None, "nothing is kept after each layer took its part"
        assert not joint._parts
    assert weight_packing.joint_projection(attention) is None
