"""cuDNN's attention is disabled on GPUs, and attention that is wrong in a few rows or only later is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import modeling_utils
from transformers.models import hunyuan_v1_moe as modeling_moe

from hymt_batch.decode import self_check
from hymt_batch.decode.engine import open_engine
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import attention, canary, cudnn, detect_devices, files, load, padded_batch, prepare
from hymt_batch.model.attention import AttentionComparison, MismatchError
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import Attention, Dtype, ModelConfig
from tests.fakes.engine import make_context

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
def fewer_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare fewer tokens, for tests whose first difference comes early."""
    monkeypatch.setattr(attention, "NUM_TOKENS", 8)


@contextmanager
def patched_attention(change: Callable[[Any, Any, Any], tuple[Any, Any]]) -> Iterator[None]:
    """Context in which torch's attention uses the keys and values that `change` returns."""

    def wrong(query: Any, key: Any, value: Any, *arguments: Any, **options: Any) -> Any:
        return sdpa(query, *change(query, key, value), *arguments, **options)

    torch.nn.functional.scaled_dot_product_attention = wrong
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = sdpa


def decoding(query: Any, key: Any) -> bool:
    """Return whether this is a decoding step: one position per row, possibly of several heads."""
    return bool(query.shape[2] * query.shape[1] <= 4 and key.shape[2] > query.shape[2])


def wrong_heads(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Swap the value heads of the groups, after the prompt."""
    return (key, value.roll(1, dims=1)) if decoding(query, key) else (key, value)


def wrong_when_long(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Do the same only beyond a length that is reached at the fourth token."""
    return wrong_heads(query, key, value) if key.shape[2] >= longest_prompt() + 4 else (key, value)


@cache
def longest_prompt() -> int:
    """Return the number of tokens of the longest prompt of the padded batch."""
    tokenizer = prepare.prepare_model(ModelConfig(path="demo:model"), CPU).load_tokenizer(add_generation_prompt=True)
    return max(map(len, padded_batch.prompts(tokenizer)))


def one_row_zeroed(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """Set the values of one row to zero."""
    value = value.clone()
    value[11] = 0
    return key, value


def not_finite(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    value = value.clone()
    value[2:3] = float("nan")
    return key, value


def test_there_are_16_rows_of_unequal_length_with_prefix_and_suffix(hymt: LoadedModel) -> None:
    rows = padded_batch.prompts(hymt.tokenizer)
    assert len(rows) == len({len(row) for row in rows}) == 16
    assert max(map(len, rows)) > 10 * min(map(len, rows))
    for row in rows:
        assert tuple(row[: len(hymt.tokenizer.prefix)]) == hymt.tokenizer.prefix
        assert tuple(row[-len(hymt.tokenizer.suffix) :]) == hymt.tokenizer.suffix


def test_correct_attention_gives_the_tokens_of_the_math_back_end_in_float32(hymt: LoadedModel) -> None:
    comparison = attention.check(hymt.network, hymt.tokenizer, "cpu", "float32")
    assert comparison is not None
    assert (comparison.equal_tokens, comparison.diverged_rows) == (16 * 64, 0)
    assert comparison.max_difference < canary.TOLERANCE["float32"] / 5


@pytest.mark.usefixtures("fewer_tokens")
def test_correct_attention_agrees_in_bfloat16_and_in_slots(models: dict[str, LoadedModel]) -> None:
    comparison = attention.check(models["bfloat16"].network, models["bfloat16"].tokenizer, "cpu", "bfloat16")
    assert comparison is not None
    assert comparison.equal_tokens > 8 * 8
    assert 0 < comparison.max_difference < canary.TOLERANCE["bfloat16"] / 2
    assert self_check.check_attention(models["float32"]).equal_tokens == 16 * 8
    assert self_check.check_attention(models["bfloat16"]).equal_tokens > 8 * 8


@pytest.mark.parametrize("change", [wrong_heads, wrong_when_long, one_row_zeroed, not_finite])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("fewer_tokens")
def test_wrong_attention_is_refused_and_the_message_names_the_kernel(
    models: dict[str, LoadedModel], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]]
) -> None:
    hymt = models[dtype]
    with pytest.raises(PreflightError, match="flash_attention_for_cpu") as raised:
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own_context=partial(patched_attention, change))
    assert raised.value.id == "E26"
    for part in (f"model.attention=sdpa on cpu, {dtype}", "first row", "Set model.attention=eager"):
        assert part in raised.value.message
    if change is wrong_when_long:
        assert "at token 5" in raised.value.message or "at token 4" in raised.value.message
    if change is one_row_zeroed:
        assert "1 of 16 rows, first row 12 at token 1" in raised.value.message


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("fewer_tokens")
def test_attention_that_is_wrong_after_the_prompt_is_not_found_by_the_canaries(
    models: dict[str, LoadedModel], dtype: str
) -> None:
    hymt = models[dtype]
    with patched_attention(wrong_heads):
        assert canary.check(hymt.network, hymt.tokenizer, "cpu", dtype) < canary.TOLERANCE[dtype] / 5
    with pytest.raises(PreflightError):
        attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, own_context=partial(patched_attention, wrong_heads))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("fewer_tokens")
def test_wrong_attention_is_refused_in_slots_too(models: dict[str, LoadedModel], dtype: str) -> None:
    with pytest.raises(PreflightError, match=f"decode.engine=slots on cpu, {dtype}") as raised:
        self_check.check_attention(models[dtype], own_context=partial(patched_attention, one_row_zeroed))
    assert raised.value.id == "E26"
    assert "flash_attention_for_cpu" in raised.value.message
    assert models[dtype].network.config._attn_implementation == "sdpa", "the original is restored"


@pytest.mark.usefixtures("fewer_tokens")
def test_eager_attention_is_compared_with_the_math_back_end_too(hymt: LoadedModel) -> None:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(hymt.tokenizer)
    comparison = attention.check(eager.network, hymt.tokenizer, "cpu", "float32")
    assert comparison is not None
    assert comparison.equal_tokens == 16 * 8
    assert eager.network.config._attn_implementation == "eager"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [None, wrong_when_long, one_row_zeroed, wrong_heads])
@pytest.mark.usefixtures("fewer_tokens")
def test_attention_can_be_compared_by_layer(
    models: dict[str, LoadedModel], dtype: str, change: Callable[[Any, Any, Any], tuple[Any, Any]] | None
) -> None:
    hymt = models[dtype]
    own_context = partial(patched_attention, change) if change else nullcontext

    def check() -> AttentionComparison:
        return attention.check(hymt.network, hymt.tokenizer, "cpu", dtype, by_layer=True, own_context=own_context)

    original = modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"]
    if change is None:
        comparison = check()
        assert (comparison.equal_tokens, comparison.diverged_rows) == (16 * 8, 0)
        assert 0 < comparison.max_difference < canary.TOLERANCE[dtype] / 3
    else:
        with pytest.raises(PreflightError, match="flash_attention_for_cpu") as raised:
            check()
        assert raised.value.id == "E26"
        messages = {
            wrong_when_long: "at token",
            one_row_zeroed: "1 of 16 rows in layer 0, first row 12 at token 1",
            wrong_heads: "token 2",
        }
        assert messages[change] in raised.value.message
    assert modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"] is original, "the original is restored"


@pytest.mark.usefixtures("fewer_tokens")
def test_layers_with_eager_attention_are_not_compared() -> None:
    prepared = prepare.prepare_model(ModelConfig(path="demo:model", attention=Attention.eager), CPU)
    eager = prepared.load(prepared.load_tokenizer(add_generation_prompt=True))
    comparison = attention.check(eager.network, eager.tokenizer, "cpu", "float32", by_layer=True)
    assert comparison == AttentionComparison(0, 0, 0.0)


@pytest.mark.usefixtures("fewer_tokens")
def test_correct_attention_of_a_mixture_of_experts_agrees_by_layer() -> None:
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

    def make_batch() -> padded_batch.PaddedBatch:
        return padded_batch.PaddedBatch(experts, rows, 0, "cpu")

    with torch.inference_mode():
        comparison = attention.compare_layers(make_batch(), "bfloat16", nullcontext)
        with pytest.raises(MismatchError, match="in layer 0, first row 12"):
            attention.compare_layers(make_batch(), "bfloat16", partial(patched_attention, one_row_zeroed))
    assert comparison.max_difference < canary.TOLERANCE["bfloat16"] / 3


def scripted(*logits: list[float]) -> Callable[[], Any]:
    steps = iter(logits)
    return lambda: torch.tensor([next(steps)])


def compare_steps(
    dtype: str, step: Callable[[], Any], reference_step: Callable[[], Any], num: int
) -> AttentionComparison:
    original, attention.NUM_TOKENS = attention.NUM_TOKENS, num
    try:
        return attention.compare_steps(step, reference_step, dtype, nullcontext, nullcontext)
    finally:
        attention.NUM_TOKENS = original


def test_a_row_may_diverge_at_a_tie_in_low_precision_and_is_not_compared_after_that() -> None:
    own, reference = [[0.0, 9.0, 9.1], [9.0, 0.0, 0.0]], [[0.0, 9.1, 9.0], [0.0, 9.0, 0.0]]
    comparison = compare_steps("bfloat16", scripted(*own), scripted(*reference), 2)
    assert (comparison.equal_tokens, comparison.diverged_rows) == (0, 1)
    with pytest.raises(MismatchError, match="token 2 instead of 1"):  # within rounding, but float32 must be equal
        compare_steps("float32", scripted([0.0, 9.0, 9.001]), scripted([0.0, 9.001, 9.0]), 1)
    with pytest.raises(MismatchError, match="token 1 instead of 2"):  # no logit differs much, but it is not a tie
        compare_steps("bfloat16", scripted([0.0, 10.0, 9.1]), scripted([0.0, 9.0, 10.1]), 1)
    same = [[0.0, 9.0, 9.1]]
    with pytest.raises(MismatchError, match="at token 2"):
        compare_steps("bfloat16", scripted(*same, [9.0, 0.0, 0.0]), scripted(*same, [0.0, 9.0, 0.0]), 2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_that_differ_too_much_are_refused_even_if_the_token_is_the_same(dtype: str) -> None:
    deviation = 10 * 1.5 * canary.TOLERANCE[dtype]
    with pytest.raises(MismatchError, match="token 1 instead of 1"):
        compare_steps(dtype, scripted([deviation, 10.0]), scripted([0.0, 10.0]), 1)
    assert compare_steps(dtype, scripted([deviation / 3, 10.0]), scripted([0.0, 10.0]), 1).equal_tokens == 1
    with pytest.raises(MismatchError, match="nan"):
        compare_steps(dtype, scripted([float("nan"), 10.0]), scripted([0.0, 10.0]), 1)


@pytest.fixture
def switch() -> Iterator[None]:
    original = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(original)


@pytest.mark.usefixtures("switch")
def test_cudnn_attention_is_disabled_on_a_gpu_and_stays_disabled() -> None:
    cudnn.disable_attention(["cpu", "disk"])
    assert torch.backends.cuda.cudnn_sdp_enabled(), "nothing is changed on a CPU"
    cudnn.disable_attention(["cpu", "cuda:1"])
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    with attention.use_math_kernel():
        assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.cudnn_sdp_enabled() is False
    assert torch.backends.cuda.mem_efficient_sdp_enabled(), "the other backends are unchanged"


@pytest.mark.usefixtures("switch")
def test_a_switch_without_effect_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda enabled: None)
    with pytest.raises(PreflightError, match=r"keeps cuDNN's attention enabled.*Set model.attention=eager") as raised:
        cudnn.disable_attention(["cuda:0"])
    assert raised.value.id == "E25"


def test_a_load_disables_cudnn_before_the_canaries_and_compares_attention_on_gpus_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    canary_check = canary.check
    monkeypatch.setattr(load.cudnn, "disable_attention", lambda devices: calls.append(("cudnn", tuple(devices))))
    monkeypatch.setattr(load.canary, "check", lambda *a, **k: calls.append("canaries") or canary_check(*a, **k))
    monkeypatch.setattr(
        load.attention, "check", lambda *a, **k: calls.append("attention") or AttentionComparison(1024, 0, 0.0)
    )
    assert loaded("float32").attention_check is None
    assert calls == [("cudnn", ("cpu",)), "canaries"]
    calls.clear()
    monkeypatch.setattr(load.attention, "all_on_gpu", lambda devices: True)
    assert loaded("float32").attention_check == AttentionComparison(1024, 0, 0.0)
    assert calls == [("cudnn", ("cpu",)), "canaries", "attention"]


def test_attention_is_compared_only_if_the_whole_model_is_on_gpus() -> None:
    assert attention.all_on_gpu(["cuda:0", "cuda:1"])
    assert not attention.all_on_gpu(["cuda:0", "cpu"])
    assert not attention.all_on_gpu(["cuda:0", "disk"])
    assert not attention.all_on_gpu(["cpu"])


@pytest.mark.parametrize("engine", ["slots", "generate"])
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_slot_engine_checks_its_attention_on_gpus(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch, engine: str, device: str
) -> None:
    compared: list[LoadedModel] = []
    monkeypatch.setattr(self_check, "check_attention", compared.append)
    monkeypatch.setattr(self_check, "engines_agree", lambda *a: True)
    assert hymt.placement
    placed = replace(hymt, placement=replace(hymt.placement, usage=(DeviceUsage(device, 1, 4),)))
    open_engine(make_context(placed, settings=DecodeConfig(engine=engine)), lambda: None)
    assert compared == ([placed] if engine == "slots" and device != "cpu" else [])


def placements(*devices: str) -> tuple[PreparedModel, Placement]:
    folder, _ = files.resolve("demo:model", "main", download=False)
    model, checkpoint = ModelConfig(path="demo:model"), files.verify(folder)
    strategy = DeviceMapConfig(strategy=Strategy.replicate if devices else Strategy.cpu)
    plan = prepare.plan_placement(model, strategy, detect_devices.simulated_devices(list(devices)), checkpoint)
    prepared = PreparedModel(model, checkpoint, plan.placements, plan.dtype, plan.network, {})
    return prepared, prepared.placement


def test_the_environment_of_a_job_records_on_a_gpu_only_that_cudnn_attention_is_off() -> None:
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
import torch  # which a machine without a GPU imports only to decode

print("torch" in sys.modules)
"""


def test_the_variable_is_set_before_torch_is_imported_and_passed_to_child_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # this process and every worker prepare the model first; a worker also inherits the variables of this process
    (tmp_path / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    seen = tmp_path / "seen"
    process = subprocess.run(
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
    assert process.stdout.split() == ["True"], process.stderr
    assert seen.read_text(encoding="utf-8").split() == ["1"]
    monkeypatch.delenv(cudnn.ENV_VARIABLE, raising=False)
    detect_devices.torch_devices()
    assert os.environ[cudnn.ENV_VARIABLE] == "1"
