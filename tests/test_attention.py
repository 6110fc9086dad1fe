"""cuDNN's attention is off where a GPU computes, and an attention that is wrong in a few rows or late is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_utils
from transformers.models import hunyuan_v1_moe as modeling_moe

from hymt_batch.decode import gate
from hymt_batch.decode.engine import Decode
from hymt_batch.decode.settings import DecodeConfig, Engine
from hymt_batch.device_map.placement import Placement, Use
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import attention, canary, census, cudnn, files, loading, network, padded
from hymt_batch.model.attention import Agreement, DifferentError
from hymt_batch.model.network import Hymt
from hymt_batch.model.settings import Attention, Dtype, ModelConfig

pytestmark = pytest.mark.core

CPU = DeviceMapConfig(strategy=Strategy.cpu)
sdpa = torch.nn.functional.scaled_dot_product_attention


def loaded(dtype: str) -> Hymt:
    prepared = network.prepare(ModelConfig(path="demo:model", dtype=Dtype[dtype]), CPU)
    return prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.fixture(scope="module")
def models() -> dict[str, Hymt]:
    return {dtype: loaded(dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture
def hymt(models: dict[str, Hymt]) -> Hymt:
    return models["float32"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer tokens, where the first differences come early."""
    monkeypatch.setattr(attention, "NUM_TOKENS", 8)


@contextmanager
def changed(change: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Iterator[None]:
    """Inside, torch attends to what `change` makes of keys and values."""

    def wrong(query: Any, key: Any, value: Any, *rest: Any, **more: Any) -> Any:
        return sdpa(query, *change(query, key, value), *rest, **more)

    torch.nn.functional.scaled_dot_product_attention = wrong
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = sdpa


def decoding(query: Any, key: Any) -> bool:
    """Whether it is a step of decoding: one position a row, perhaps of several heads."""
    return bool(query.shape[2] * query.shape[1] <= 4 and key.shape[2] > query.shape[2])


def another_heads(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Grouped key and value heads are taken for one another, after the prompt."""
    return (key, value.roll(1, dims=1)) if decoding(query, key) else (key, value)


def late(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """The same, beyond some length, which is reached at the fourth token."""
    return another_heads(query, key, value) if key.shape[2] >= 246 else (key, value)


def one_row(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """One row attends to nothing."""
    value = value.clone()
    value[11] = 0
    return key, value


def not_finite(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    value = value.clone()
    value[2:3] = float("nan")
    return key, value


def test_the_rows_are_16_of_unequal_length_and_framed(hymt: Hymt) -> None:
    rows = padded.prompts(hymt.tokenizer)
    assert len(rows) == len({len(row) for row in rows}) == 16
    assert max(map(len, rows)) > 10 * min(map(len, rows))
    for row in rows:
        assert tuple(row[: len(hymt.tokenizer.prefix)]) == hymt.tokenizer.prefix
        assert tuple(row[-len(hymt.tokenizer.suffix) :]) == hymt.tokenizer.suffix


def test_a_sound_attention_gives_every_token_of_the_math_back_end_in_float32(hymt: Hymt) -> None:
    found = attention.check(hymt.network, hymt.tokenizer, "cpu", "float32")
    assert found is not None
    assert (found.tokens, found.parted) == (16 * 64, 0)
    assert found.difference < canary.TOLERANCE["float32"] / 5


@pytest.mark.usefixtures("few")
def test_a_sound_attention_agrees_in_bfloat16_and_in_slots(models: dict[str, Hymt]) -> None:
    found = attention.check(models["bfloat16"].network, models["bfloat16"].tokenizer, "cpu", "bfloat16")
    assert found is not None
    assert found.tokens > 8 * 8
    assert 0 < found.difference < canary.TOLERANCE["bfloat16"] / 2
    assert gate.check_attention(models["float32"]).tokens == 16 * 8
    assert gate.check_attention(models["bfloat16"]).tokens > 8 * 8


@pytest.mark.parametrize("change", [another_heads, late, one_row, not_finite])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_a_broken_attention_is_refused_by_name(
    models: dict[str, Hymt], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]]
) -> None:
    hymt = models[dtype]
    with pytest.raises(PreflightError, match="flash_attention_for_cpu") as raised:
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own=partial(changed, change))
    assert raised.value.id == "E26"
    for part in (f"model.attention=sdpa on cpu, {dtype}", "first row", "Set model.attention=eager"):
        assert part in raised.value.message
    if change is late:
        assert "at token 5" in raised.value.message or "at token 4" in raised.value.message
    if change is one_row:
        assert "1 of 16 rows, first row 12 at token 1" in raised.value.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_what_is_wrong_after_the_prompt_is_not_seen_by_the_canaries(models: dict[str, Hymt], dtype: str) -> None:
    hymt = models[dtype]
    with changed(another_heads):
        assert canary.check(hymt.network, hymt.tokenizer, "cpu", dtype) < canary.TOLERANCE[dtype] / 5
    with pytest.raises(PreflightError):
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own=partial(changed, another_heads))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_a_broken_attention_is_refused_in_slots_too(models: dict[str, Hymt], dtype: str) -> None:
    with pytest.raises(PreflightError, match=f"decode.engine=slots on cpu, {dtype}") as raised:
        gate.check_attention(models[dtype], own=partial(changed, one_row))
    assert raised.value.id == "E26"
    assert "flash_attention_for_cpu" in raised.value.message
    assert models[dtype].network.config._attn_implementation == "sdpa", "as it was"


@pytest.mark.usefixtures("few")
def test_an_attention_of_another_kind_is_compared_with_math_too(hymt: Hymt) -> None:
    prepared = network.prepare(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(hymt.tokenizer)
    found = attention.check(eager.network, hymt.tokenizer, "cpu", "float32")
    assert found is not None
    assert found.tokens == 16 * 8
    assert eager.network.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [None, late, one_row, another_heads])
@pytest.mark.usefixtures("few")
def test_kinds_that_round_in_jumps_are_compared_by_layer(
    models: dict[str, Hymt], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]] | None
) -> None:
    hymt = models[dtype]
    own = partial(changed, change) if change else nullcontext

    def check() -> Agreement:
        return attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, by_layer=True, own=own)

    before = modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    if change is None:
        found = check()
        assert (found.tokens, found.parted) == (16 * 8, 0)
        assert 0 < found.difference < canary.TOLERANCE[dtype] / 3
    else:
        with pytest.raises(PreflightError, match="flash_attention_for_cpu") as raised:
            check()
        assert raised.value.id == "E26"
        where = {
            late: "at token",
            one_row: "1 of 16 rows in layer 0, first row 12 at token 1",
            another_heads: "token 2",
        }
        assert where[change] in raised.value.message
    assert modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"] is before, "as it was"


@pytest.mark.usefixtures("few")
def test_layers_that_attend_by_plain_products_are_not_compared() -> None:
    prepared = network.prepare(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(prepared.load_tokenizer(add_generation_prompt=True))
    found = attention.check(eager.network, eager.tokenizer, "cpu", "float32", by_layer=True)
    assert found == Agreement(0, 0, 0.0)


@pytest.mark.usefixtures("few")
def test_right_attentions_of_a_mixture_of_experts_agree_by_layer() -> None:
    torch.manual_seed(1)
    config = modeling_moe.HunYuanMoEV1Config(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=8,
        moe_topk=2,
        attn_implementation="sdpa",
    )
    experts: Any = modeling_moe.HunYuanMoEV1ForCausalLM(config).eval()
    for parameter in experts.parameters():
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    experts.to(torch.bfloat16)
    rows = [[5 + (row * 7 + n) % 400 for n in range(4 + 3 * row)] for row in range(16)]

    def steps() -> padded.Padded:
        return padded.Padded(experts, rows, 0, "cpu")

    with torch.inference_mode():
        found = attention.layers(steps(), "bfloat16", nullcontext)
        with pytest.raises(DifferentError, match="in layer 0, first row 12"):
            attention.layers(steps(), "bfloat16", partial(changed, one_row))
    assert found.difference < canary.TOLERANCE["bfloat16"] / 3


def scripted(*logits: list[float]) -> Callable[[], Any]:
    steps = iter(logits)
    return lambda: torch.tensor([next(steps)])


def side_by_side(dtype: str, one: Callable[[], Any], other: Callable[[], Any], num: int) -> Agreement:
    before, attention.NUM_TOKENS = attention.NUM_TOKENS, num
    try:
        return attention.side_by_side(one, other, dtype, nullcontext, nullcontext)
    finally:
        attention.NUM_TOKENS = before


def test_a_row_may_part_at_a_tie_in_low_precision_and_is_not_compared_from_there() -> None:
    mine, right = [[0.0, 9.0, 9.1], [9.0, 0.0, 0.0]], [[0.0, 9.1, 9.0], [0.0, 9.0, 0.0]]
    found = side_by_side("bfloat16", scripted(*mine), scripted(*right), 2)
    assert (found.tokens, found.parted) == (0, 1)
    with pytest.raises(DifferentError, match="token 2 instead of 1"):  # rounding explains it, and it is not the same
        side_by_side("float32", scripted([0.0, 9.0, 9.001]), scripted([0.0, 9.001, 9.0]), 1)
    with pytest.raises(DifferentError, match="token 1 instead of 2"):  # no logit is far off, and it is no tie
        side_by_side("bfloat16", scripted([0.0, 10.0, 9.1]), scripted([0.0, 9.0, 10.1]), 1)
    same = [[0.0, 9.0, 9.1]]
    with pytest.raises(DifferentError, match="at token 2"):
        side_by_side("bfloat16", scripted(*same, [9.0, 0.0, 0.0]), scripted(*same, [0.0, 9.0, 0.0]), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_that_are_off_are_refused_where_the_token_is_the_same(dtype: str) -> None:
    off = 10 * 1.5 * canary.TOLERANCE[dtype]
    with pytest.raises(DifferentError, match="token 1 instead of 1"):
        side_by_side(dtype, scripted([off, 10.0]), scripted([0.0, 10.0]), 1)
    assert side_by_side(dtype, scripted([off / 3, 10.0]), scripted([0.0, 10.0]), 1).tokens == 1
    with pytest.raises(DifferentError, match="nan"):
        side_by_side(dtype, scripted([float("nan"), 10.0]), scripted([0.0, 10.0]), 1)


@pytest.fixture
def switch() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.usefixtures("switch")
def test_cudnn_is_switched_off_where_a_gpu_computes_and_stays_off() -> None:
    cudnn.switch_off(["cpu", "disk"])
    assert torch.backends.cuda.cudnn_sdp_enabled(), "nothing is changed on a CPU"
    cudnn.switch_off(["cpu", "cuda:1"])
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    with attention.math_kernel():
        assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.mem_efficient_sdp_enabled(), "the others are as they were"


@pytest.mark.usefixtures("switch")
def test_a_switch_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    with pytest.raises(PreflightError, match=r"keeps cuDNN's attention on.*Set model.attention=eager") as raised:
        cudnn.switch_off(["cuda:0"])
    assert raised.value.id == "E25"


def test_at_a_load_cudnn_goes_before_the_canaries_and_the_comparison_comes_on_gpus_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    real = canary.check
    monkeypatch.setattr(loading.cudnn, "switch_off", lambda devices: told.append(("cudnn", tuple(devices))))
    monkeypatch.setattr(loading.canary, "check", lambda *a, **k: told.append("canaries") or real(*a, **k))
    monkeypatch.setattr(loading.attention, "check", lambda *a, **k: told.append("attention") or Agreement(1024, 0, 0.0))
    assert loaded("float32").attention is None
    assert told == [("cudnn", ("cpu",)), "canaries"]
    told.clear()
    monkeypatch.setattr(loading.attention, "applies", lambda devices: True)
    assert loaded("float32").attention == Agreement(1024, 0, 0.0)
    assert told == [("cudnn", ("cpu",)), "canaries", "attention"]


def test_the_comparison_is_made_where_all_of_the_model_lies_on_gpus() -> None:
    assert attention.applies(["cuda:0", "cuda:1"])
    assert not attention.applies(["cuda:0", "cpu"])
    assert not attention.applies(["cuda:0", "disk"])
    assert not attention.applies(["cpu"])


@pytest.mark.parametrize("engine", [Engine.slots, Engine.generate])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_slot_engine_compares_its_own_attention_on_gpus(
    hymt: Hymt, monkeypatch: pytest.MonkeyPatch, engine: Engine, device: str
) -> None:
    compared: list[Hymt] = []
    monkeypatch.setattr(gate, "check_attention", compared.append)
    monkeypatch.setattr(gate, "agrees", lambda *a: True)
    assert hymt.placement
    there = replace(hymt, placement=replace(hymt.placement, uses=(Use(device, 1, 4),)))
    Decode(there, DecodeConfig(engine=engine), lambda widths: [], seed=0, check_stop=lambda: None).gate()
    assert compared == ([there] if engine is Engine.slots and device != "cpu" else [])


def placements(*devices: str) -> tuple[network.Prepared, Placement]:
    folder, _ = files.resolve("demo:model", "main", download=False)
    model, found = ModelConfig(path="demo:model"), files.verify(folder)
    strategy = DeviceMapConfig(strategy=Strategy.replicate if devices else Strategy.cpu)
    dtype, net, placed = network.choose(model, strategy, census.pretend(list(devices)), found)
    return network.Prepared(model, found, tuple(placed), dtype, net, {}), placed[0]


def test_the_environment_of_a_job_on_a_gpu_says_that_cudnn_is_off_and_that_of_a_cpu_nothing() -> None:
    prepared, placement = placements("24GiB")
    assert placement.devices == ("cuda:0",)
    assert prepared.environment["cudnn_sdp"] is False
    assert "cudnn_sdp" not in placements()[0].environment


SITE = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            with open(os.environ["SEEN"], "a") as file:
                file.write(os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED", "-") + "\\n")

sys.meta_path.insert(0, Finder())
"""


PREPARE = """
import os, subprocess, sys
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.model import network
from hymt_batch.model.settings import ModelConfig

assert "torch" not in sys.modules
network.prepare(ModelConfig(path="demo:model"), DeviceMapConfig(strategy=Strategy.cpu))
print("torch" in sys.modules)
"""


def test_torch_is_told_before_it_is_imported_where_a_model_is_prepared_and_in_what_is_started_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # this process and every worker prepare the model before anything else; a worker also has this process's variables
    (tmp_path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    seen = tmp_path / "seen"
    ran = subprocess.run(
        [sys.executable, "-c", PREPARE],
        cwd=Path(__file__).parent.parent,
        env={
            **{name: value for name, value in os.environ.items() if name != cudnn.VARIABLE},
            "PYTHONPATH": str(tmp_path),
            "SEEN": str(seen),
        },
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == ["True"], ran.stderr
    assert seen.read_text(encoding="utf-8").split() == ["1"]
    monkeypatch.delenv(cudnn.VARIABLE, raising=False)
    census.census()
    assert os.environ[cudnn.VARIABLE] == "1"
