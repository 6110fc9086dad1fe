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

from hymt_batch.decode import self_check
from hymt_batch.decode.engine import Decoder
from hymt_batch.decode.settings import DecodeConfig, Engine
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import attention, canary, cudnn, detect_devices, files, load, padded_batch, prepare
from hymt_batch.model.attention import AttentionComparison, MismatchError
from hymt_batch.model.prepare import LoadedModel
from hymt_batch.model.settings import Attention, Dtype, ModelConfig

pytestmark = pytest.mark.core

CPU = DeviceMapConfig(strategy=Strategy.cpu)
sdpa = torch.nn.functional.scaled_dot_product_attention


def loaded(dtype: str) -> LoadedModel:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model", dtype=Dtype[dtype]), CPU)
    return prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.fixture(scope="module")
def models() -> dict[str, LoadedModel]:
    return {dtype: loaded(dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture
def hymt(models: dict[str, LoadedModel]) -> LoadedModel:
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


def test_the_rows_are_16_of_unequal_length_and_framed(hymt: LoadedModel) -> None:
    rows = padded_batch.prompts(hymt.tokenizer)
    assert len(rows) == len({len(row) for row in rows}) == 16
    assert max(map(len, rows)) > 10 * min(map(len, rows))
    for row in rows:
        assert tuple(row[: len(hymt.tokenizer.prefix)]) == hymt.tokenizer.prefix
        assert tuple(row[-len(hymt.tokenizer.suffix) :]) == hymt.tokenizer.suffix


def test_a_sound_attention_gives_every_token_of_the_math_back_end_in_float32(hymt: LoadedModel) -> None:
    found = attention.check(hymt.network, hymt.tokenizer, "cpu", "float32")
    assert found is not None
    assert (found.equal_tokens, found.diverged_rows) == (16 * 64, 0)
    assert found.max_difference < canary.TOLERANCE["float32"] / 5


@pytest.mark.usefixtures("few")
def test_a_sound_attention_agrees_in_bfloat16_and_in_slots(models: dict[str, LoadedModel]) -> None:
    found = attention.check(models["bfloat16"].network, models["bfloat16"].tokenizer, "cpu", "bfloat16")
    assert found is not None
    assert found.equal_tokens > 8 * 8
    assert 0 < found.max_difference < canary.TOLERANCE["bfloat16"] / 2
    assert self_check.check_attention(models["float32"]).equal_tokens == 16 * 8
    assert self_check.check_attention(models["bfloat16"]).equal_tokens > 8 * 8


@pytest.mark.parametrize("change", [another_heads, late, one_row, not_finite])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_a_broken_attention_is_refused_by_name(
    models: dict[str, LoadedModel], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]]
) -> None:
    hymt = models[dtype]
    with pytest.raises(PreflightError, match="flash_attention_for_cpu") as raised:
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own_context=partial(changed, change))
    assert raised.value.id == "E26"
    for part in (f"model.attention=sdpa on cpu, {dtype}", "first row", "Set model.attention=eager"):
        assert part in raised.value.message
    if change is late:
        assert "at token 5" in raised.value.message or "at token 4" in raised.value.message
    if change is one_row:
        assert "1 of 16 rows, first row 12 at token 1" in raised.value.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_what_is_wrong_after_the_prompt_is_not_seen_by_the_canaries(models: dict[str, LoadedModel], dtype: str) -> None:
    hymt = models[dtype]
    with changed(another_heads):
        assert canary.check(hymt.network, hymt.tokenizer, "cpu", dtype) < canary.TOLERANCE[dtype] / 5
    with pytest.raises(PreflightError):
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own_context=partial(changed, another_heads))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("few")
def test_a_broken_attention_is_refused_in_slots_too(models: dict[str, LoadedModel], dtype: str) -> None:
    with pytest.raises(PreflightError, match=f"decode.engine=slots on cpu, {dtype}") as raised:
        self_check.check_attention(models[dtype], own_context=partial(changed, one_row))
    assert raised.value.id == "E26"
    assert "flash_attention_for_cpu" in raised.value.message
    assert models[dtype].network.config._attn_implementation == "sdpa", "as it was"


@pytest.mark.usefixtures("few")
def test_an_attention_of_another_kind_is_compared_with_math_too(hymt: LoadedModel) -> None:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(hymt.tokenizer)
    found = attention.check(eager.network, hymt.tokenizer, "cpu", "float32")
    assert found is not None
    assert found.equal_tokens == 16 * 8
    assert eager.network.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [None, late, one_row, another_heads])
@pytest.mark.usefixtures("few")
def test_kinds_that_round_in_jumps_are_compared_by_layer(
    models: dict[str, LoadedModel], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]] | None
) -> None:
    hymt = models[dtype]
    own = partial(changed, change) if change else nullcontext

    def check() -> AttentionComparison:
        return attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, by_layer=True, own_context=own)

    before = modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    if change is None:
        found = check()
        assert (found.equal_tokens, found.diverged_rows) == (16 * 8, 0)
        assert 0 < found.max_difference < canary.TOLERANCE[dtype] / 3
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
    prepared = prepare.prepare_model(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(prepared.load_tokenizer(add_generation_prompt=True))
    found = attention.check(eager.network, eager.tokenizer, "cpu", "float32", by_layer=True)
    assert found == AttentionComparison(0, 0, 0.0)


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

    def steps() -> padded_batch.PaddedBatch:
        return padded_batch.PaddedBatch(experts, rows, 0, "cpu")

    with torch.inference_mode():
        found = attention.compare_layers(steps(), "bfloat16", nullcontext)
        with pytest.raises(MismatchError, match="in layer 0, first row 12"):
            attention.compare_layers(steps(), "bfloat16", partial(changed, one_row))
    assert found.max_difference < canary.TOLERANCE["bfloat16"] / 3


def scripted(*logits: list[float]) -> Callable[[], Any]:
    steps = iter(logits)
    return lambda: torch.tensor([next(steps)])


def side_by_side(dtype: str, one: Callable[[], Any], other: Callable[[], Any], num: int) -> AttentionComparison:
    before, attention.NUM_TOKENS = attention.NUM_TOKENS, num
    try:
        return attention.compare_steps(one, other, dtype, nullcontext, nullcontext)
    finally:
        attention.NUM_TOKENS = before


def test_a_row_may_part_at_a_tie_in_low_precision_and_is_not_compared_from_there() -> None:
    mine, right = [[0.0, 9.0, 9.1], [9.0, 0.0, 0.0]], [[0.0, 9.1, 9.0], [0.0, 9.0, 0.0]]
    found = side_by_side("bfloat16", scripted(*mine), scripted(*right), 2)
    assert (found.equal_tokens, found.diverged_rows) == (0, 1)
    with pytest.raises(MismatchError, match="token 2 instead of 1"):  # rounding explains it, and it is not the same
        side_by_side("float32", scripted([0.0, 9.0, 9.001]), scripted([0.0, 9.001, 9.0]), 1)
    with pytest.raises(MismatchError, match="token 1 instead of 2"):  # no logit is far off, and it is no tie
        side_by_side("bfloat16", scripted([0.0, 10.0, 9.1]), scripted([0.0, 9.0, 10.1]), 1)
    same = [[0.0, 9.0, 9.1]]
    with pytest.raises(MismatchError, match="at token 2"):
        side_by_side("bfloat16", scripted(*same, [9.0, 0.0, 0.0]), scripted(*same, [0.0, 9.0, 0.0]), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_that_are_off_are_refused_where_the_token_is_the_same(dtype: str) -> None:
    off = 10 * 1.5 * canary.TOLERANCE[dtype]
    with pytest.raises(MismatchError, match="token 1 instead of 1"):
        side_by_side(dtype, scripted([off, 10.0]), scripted([0.0, 10.0]), 1)
    assert side_by_side(dtype, scripted([off / 3, 10.0]), scripted([0.0, 10.0]), 1).equal_tokens == 1
    with pytest.raises(MismatchError, match="nan"):
        side_by_side(dtype, scripted([float("nan"), 10.0]), scripted([0.0, 10.0]), 1)


@pytest.fixture
def switch() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.usefixtures("switch")
def test_cudnn_is_switched_off_where_a_gpu_computes_and_stays_off() -> None:
    cudnn.disable_attention(["cpu", "disk"])
    assert torch.backends.cuda.cudnn_sdp_enabled(), "nothing is changed on a CPU"
    cudnn.disable_attention(["cpu", "cuda:1"])
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    with attention.use_math_kernel():
        assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.mem_efficient_sdp_enabled(), "the others are as they were"


@pytest.mark.usefixtures("switch")
def test_a_switch_that_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    with pytest.raises(PreflightError, match=r"keeps cuDNN's attention on.*Set model.attention=eager") as raised:
        cudnn.disable_attention(["cuda:0"])
    assert raised.value.id == "E25"


def test_at_a_load_cudnn_goes_before_the_canaries_and_the_comparison_comes_on_gpus_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []
    real = canary.check
    monkeypatch.setattr(load.cudnn, "disable_attention", lambda devices: told.append(("cudnn", tuple(devices))))
    monkeypatch.setattr(load.canary, "check", lambda *a, **k: told.append("canaries") or real(*a, **k))
    monkeypatch.setattr(
        load.attention, "check", lambda *a, **k: told.append("attention") or AttentionComparison(1024, 0, 0.0)
    )
    assert loaded("float32").attention_check is None
    assert told == [("cudnn", ("cpu",)), "canaries"]
    told.clear()
    monkeypatch.setattr(load.attention, "all_on_gpu", lambda devices: True)
    assert loaded("float32").attention_check == AttentionComparison(1024, 0, 0.0)
    assert told == [("cudnn", ("cpu",)), "canaries", "attention"]


def test_the_comparison_is_made_where_all_of_the_model_lies_on_gpus() -> None:
    assert attention.all_on_gpu(["cuda:0", "cuda:1"])
    assert not attention.all_on_gpu(["cuda:0", "cpu"])
    assert not attention.all_on_gpu(["cuda:0", "disk"])
    assert not attention.all_on_gpu(["cpu"])


@pytest.mark.parametrize("engine", [Engine.slots, Engine.generate])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_slot_engine_compares_its_own_attention_on_gpus(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch, engine: Engine, device: str
) -> None:
    compared: list[LoadedModel] = []
    monkeypatch.setattr(self_check, "check_attention", compared.append)
    monkeypatch.setattr(self_check, "matches_generate", lambda *a: True)
    assert hymt.placement
    there = replace(hymt, placement=replace(hymt.placement, usage=(DeviceUsage(device, 1, 4),)))
    Decoder(there, DecodeConfig(engine=engine), lambda widths: [], seed=0, check_stop=lambda: None).self_check()
    assert compared == ([there] if engine is Engine.slots and device != "cpu" else [])


def placements(*devices: str) -> tuple[prepare.PreparedModel, Placement]:
    folder, _ = files.resolve("demo:model", "main", download=False)
    model, found = ModelConfig(path="demo:model"), files.verify(folder)
    strategy = DeviceMapConfig(strategy=Strategy.replicate if devices else Strategy.cpu)
    dtype, net, placed = prepare.plan_placement(model, strategy, detect_devices.simulated_devices(list(devices)), found)
    return prepare.PreparedModel(model, found, tuple(placed), dtype, net, {}), placed[0]


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
from hymt_batch.model import prepare
from hymt_batch.model.settings import ModelConfig

assert "torch" not in sys.modules
prepare.prepare_model(ModelConfig(path="demo:model"), DeviceMapConfig(strategy=Strategy.cpu))
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
            **{name: value for name, value in os.environ.items() if name != cudnn.ENV_VARIABLE},
            "PYTHONPATH": str(tmp_path),
            "SEEN": str(seen),
        },
        capture_output=True,
        text=True,
    )
    assert ran.stdout.split() == ["True"], ran.stderr
    assert seen.read_text(encoding="utf-8").split() == ["1"]
    monkeypatch.delenv(cudnn.ENV_VARIABLE, raising=False)
    detect_devices.torch_devices()
    assert os.environ[cudnn.ENV_VARIABLE] == "1"
