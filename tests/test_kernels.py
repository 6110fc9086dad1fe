"""The kernels, in Triton's interpreter on the CPU: exact, each row for itself, nothing read beyond its length.

Also the layers that call them, and the checks that turn them off. The interpreter takes some 5 ms for each program, so
shapes are small.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hymt_batch.decode import network_patch, self_check, slots
from hymt_batch.decode.cuda_graph_runner import CudaGraphRunner
from hymt_batch.decode.graph import EmulatedGraphs
from hymt_batch.decode.kernels import fused_layers, opening, operator_check, operators
from hymt_batch.decode.kernels.fused_layers import FusedLayers, unsupported_reason
from hymt_batch.decode.model_runner import ModelRunner
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.sequence import Counters, SequenceState
from hymt_batch.decode.settings import DecodeConfig, Kernels
from hymt_batch.decode.slots import SlotEngine
from hymt_batch.errors import DeviceError
from hymt_batch.model import attention, padded_batch
from hymt_batch.model.loaded_model import LoadedModel
from tests.fakes.engine import make_context, make_requests
from tests.fakes.tiny_network import DTYPES, tiny_model
from tests.fakes.triton_interpreter import interpreted


@pytest.fixture(scope="module", autouse=True)
def interpreter() -> Iterator[None]:
    with interpreted():
        yield


@pytest.fixture(scope="module")
def ops() -> Any:
    return operators.load_operators()


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def fused(hymt: LoadedModel) -> FusedLayers:
    return FusedLayers(hymt.network)


def error(value: Any, exact: Any) -> float:
    return float((value.double() - exact).norm() / exact.norm())


def assert_close(value: Any, plain: Any, exact: Any) -> None:
    """Assert that a kernel's error to float64 is at most twice that of torch's own operators."""
    assert value.dtype == plain.dtype
    assert error(value, exact) <= 2 * error(plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("group", [1, 4, 8])
def test_attention_reads_the_keys_of_each_row_and_nothing_beyond(ops: Any, dtype: str, size: int, group: int) -> None:
    chance = random.Random(group * size)
    rows, heads = chance.randint(2, 5), chance.choice([1, 2])
    block = operators.KEY_BLOCK
    lengths = [1, block, *(chance.randint(1, 3 * block) for _ in range(rows))][-rows:]
    torch.manual_seed(group)
    # slices of larger storage; NaN and infinity beyond each length, and in all other slots and layers
    storage = torch.full((2, 2, rows + 3, heads, 3 * block + 7, size), float("nan"), dtype=DTYPES[dtype])
    keys, values = storage[1, 0], storage[1, 1]
    for row, length in enumerate(lengths):
        keys[row, :, :length], values[row, :, :length] = torch.randn(2, heads, length, size)
        values[row, :, length + 1 :: 2] = float("inf")
    query, positions = torch.randn(rows, heads * group, size).to(keys.dtype), torch.tensor(lengths) - 1
    result = ops.decode_attention(query, keys, values, positions, size**-0.5)

    def expected(dtype: Any) -> Any:
        out = []
        for row, length in enumerate(lengths):
            key, value = (side[row, :, :length].to(dtype) for side in (keys, values))
            # at least 16 rows, as in the kernel: torch sums a product with few rows in another order
            queries = torch.zeros(heads, 16, size, dtype=dtype)
            queries[:, :group] = query[row].view(heads, group, size)
            attended = torch.nn.functional.scaled_dot_product_attention(queries[None], key[None], value[None])
            out.append(attended[0, :, :group].reshape(heads * group, size))
        return torch.stack(out)

    assert_close(result, expected(keys.dtype), expected(torch.float64))
    for row in range(rows):
        alone = ops.decode_attention(
            query[row : row + 1], keys[row : row + 1], values[row : row + 1], positions[row : row + 1], size**-0.5
        )
        assert torch.equal(alone[0], result[row])


def test_one_key_too_many_would_be_seen(ops: Any) -> None:
    keys = torch.randn(2, 1, 40, 16)
    keys[0, :, 5] = float("nan")
    query, values = torch.randn(2, 4, 16), torch.randn(2, 1, 40, 16)
    assert ops.decode_attention(query, keys, values, torch.tensor([4, 39]), 0.25).isfinite().all()
    assert ops.decode_attention(query, keys, values, torch.tensor([5, 39]), 0.25)[0].isnan().all()
    scores = torch.einsum("hd,ld->hl", query[1], keys[1, 0]) * 0.25
    together = ops.decode_attention(query, keys, values, torch.tensor([4, 39]), 0.25)
    torch.testing.assert_close(together[1], torch.softmax(scores, -1) @ values[1, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [7, 128, 1000])
def test_norms_and_gated_products_are_as_exact_as_those_of_torch(ops: Any, dtype: str, size: int) -> None:
    torch.manual_seed(size)
    first, second = (torch.randn(2, 2, size) * 3).to(DTYPES[dtype])
    weight = (1 + torch.randn(size) / 4).to(DTYPES[dtype])

    def norm(hidden: Any) -> Any:
        working = hidden if hidden.dtype == torch.float64 else hidden.float()
        normed = working * torch.rsqrt(working.pow(2).mean(-1, keepdim=True) + 1e-5)
        return weight.to(hidden.dtype) * normed.to(hidden.dtype)

    shape = (2, 1, size)
    rows, others = first.reshape(shape), second.reshape(shape)
    assert_close(ops.rms_norm(rows, weight, 1e-5), norm(rows), norm(rows.double()))
    normed, total = ops.add_rms_norm(rows, others, weight, 1e-5)
    assert torch.equal(total, rows + others), "rounded as torch rounds it: the next layer reads it"
    assert_close(normed, norm(rows + others), norm((rows + others).double()))
    product = ops.gated_product(rows, others)
    silu = torch.nn.functional.silu
    assert_close(product, silu(rows) * others, silu(rows.double()) * others.double())
    for row in range(2):
        one = slice(row, row + 1)
        assert torch.equal(ops.rms_norm(rows[one], weight, 1e-5)[0], ops.rms_norm(rows, weight, 1e-5)[row])
        assert torch.equal(ops.add_rms_norm(rows[one], others[one], weight, 1e-5)[0][0], normed[row])
        assert torch.equal(ops.gated_product(rows[one], others[one])[0], product[row])


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of numpy, in the interpreter
def test_a_gate_of_large_numbers_neither_overflows_nor_becomes_nan(ops: Any) -> None:
    gate = torch.tensor([-1e4, -200.0, -88.0, 0.0, 88.0, 1e4])
    assert torch.equal(ops.gated_product(gate, torch.ones(6))[[0, 3, 4, 5]], torch.tensor([0.0, 0.0, 88.0, 1e4]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(("num_heads", "num_key_heads", "size"), [(8, 1, 64), (5, 5, 128), (12, 3, 32)])
def test_queries_and_keys_are_turned_normalised_and_stored_in_their_slots(
    ops: Any, dtype: str, norm_first: bool, num_heads: int, num_key_heads: int, size: int
) -> None:
    torch.manual_seed(size)
    rows, width, first_slot = 2, 2, 3
    query, key, value = (
        torch.randn(rows, width, heads * size).to(DTYPES[dtype]) for heads in (num_heads, num_key_heads, num_key_heads)
    )
    angles = (torch.rand(rows, width, size // 2) * 50).repeat(1, 1, 2)
    cos, sin = angles.cos().to(query.dtype), angles.sin().to(query.dtype)
    weights = [(1 + torch.randn(size) / 4).to(query.dtype) for _ in range(2)]
    positions = torch.tensor([[4, 5], [0, 8]])
    storage = torch.full((2, 2, 6, num_key_heads, 9, size), 7.0, dtype=query.dtype)
    stored_keys, stored_values = storage[1]
    output = ops.rotate_and_store(
        query, key, value, cos, sin, *weights, positions, stored_keys, stored_values, first_slot, 1e-5, norm_first
    )

    def turned(heads: Any, weight: Any, dtype: Any) -> Any:
        def norm(tensor: Any) -> Any:
            return torch.nn.functional.rms_norm(tensor, (size,), weight.to(dtype), 1e-5)

        def turn(tensor: Any) -> Any:
            first, second = tensor.chunk(2, -1)
            half = torch.cat((-second, first), -1)
            return tensor * cos.to(dtype)[:, :, None] + half * sin.to(dtype)[:, :, None]

        tensor = heads.unflatten(-1, (-1, size)).to(dtype)
        return turn(norm(tensor)) if norm_first else norm(turn(tensor))

    assert_close(output, turned(query, weights[0], query.dtype), turned(query, weights[0], torch.float64))
    slots_of_tokens = torch.arange(rows)[:, None] + first_slot
    new_keys, new_values = stored_keys[slots_of_tokens, :, positions], stored_values[slots_of_tokens, :, positions]
    assert_close(new_keys, turned(key, weights[1], key.dtype), turned(key, weights[1], torch.float64))
    assert torch.equal(new_values, value.unflatten(-1, (-1, size)))
    storage[1][:, slots_of_tokens, :, positions] = 7.0
    assert torch.equal(storage, torch.full_like(storage, 7.0)), "nothing else is written"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", ["hunyuan_v1_dense", "hy_v3"])
def test_the_check_of_the_kernels_accepts_correct_ones(model_type: str, dtype: str) -> None:
    hymt = tiny_model(model_type, dtype)
    assert unsupported_reason(hymt) == ""
    with torch.inference_mode():
        ratios = operator_check.check_operators(FusedLayers(hymt.network), 4, 90)
    assert set(ratios) == set(operators.SCHEMAS)
    assert max(ratios.values()) <= 2


class BrokenOperators:
    """The operators, one of which gives changed results."""

    def __init__(self, ops: Any, name: str, change: Callable[..., Any]) -> None:
        self._ops, self._name, self._change = ops, name, change

    def __getattr__(self, name: str) -> Any:
        operator = getattr(self._ops, name)
        return (lambda *arguments: self._change(operator, *arguments)) if name == self._name else operator


def inexact(operator: Any, *arguments: Any) -> Any:
    result = operator(*arguments)
    return tuple(part * 1.0001 for part in result) if isinstance(result, tuple) else result * 1.0001


def by_neighbours(operator: Any, *arguments: Any) -> Any:
    """Change the last bit of one number, if the row is not alone."""
    result = operator(*arguments)
    first = (result[0] if isinstance(result, tuple) else result).view(-1)[:1]
    if len(arguments[0]) > 1:
        first.copy_(torch.nextafter(first, torch.full_like(first, 9.0)))
    return result


def one_key_more(operator: Any, query: Any, keys: Any, values: Any, positions: Any, scale: float) -> Any:
    return operator(query, keys, values, positions + 1, scale)


def last_key_missing(operator: Any, query: Any, keys: Any, values: Any, positions: Any, scale: float) -> Any:
    return operator(query, keys, values, (positions - 1).clamp(min=0), scale)


def wrong_place(operator: Any, *arguments: Any) -> Any:
    changed = list(arguments)
    changed[7] = (arguments[7] - 1).clamp(min=0)  # positions
    return operator(*changed)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        *((name, inexact, "relative error") for name in operators.SCHEMAS),
        ("rms_norm", by_neighbours, "alone"),
        ("gated_product", by_neighbours, "alone"),
        ("decode_attention", by_neighbours, "alone"),
        ("decode_attention", one_key_more, "relative error of nan"),
        ("decode_attention", last_key_missing, "relative error"),
        ("rotate_and_store", wrong_place, "relative error"),
    ],
)
def test_a_kernel_that_is_wrong_is_refused(
    fused: FusedLayers, monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[..., Any], message: str
) -> None:
    monkeypatch.setattr(fused, "operators", BrokenOperators(fused.operators, name, change))
    cases = {case.name: case for case in operator_check.kernel_cases(fused, 3, 70)}
    with torch.inference_mode(), pytest.raises(operator_check.KernelError, match=f"{name}.*{message}"):
        operator_check.check_case(cases[name])


def steps_of(hymt: LoadedModel, layers: FusedLayers | None, *, num_steps: int, captured: bool = False) -> list[Any]:
    """Return the logits of a prefill with a common prefix and of some steps, for three rows of unequal length."""
    prompts = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 10, 11, 12]]
    rows = [SequenceState(index, ids, 99, index) for index, ids in enumerate(prompts)]
    logits: list[Any] = []
    runner: ModelRunner
    if captured:
        runner = CudaGraphRunner(hymt, GREEDY, EmulatedGraphs(), "cuda", layers)
        runner.start(GREEDY, Counters(), 3, 110, max_tokens=9999)
    else:
        runner = ModelRunner(hymt, GREEDY, 3, Counters(), logprobs=False, device_type="cuda", layers=layers)
    original = runner._logits

    def keep(hidden: Any) -> Any:
        logits.append(original(hidden)[0][:3])
        return original(hidden)

    runner._logits = keep  # type: ignore[method-assign]
    with torch.inference_mode(), network_patch.patch_network(hymt.network, 120):
        runner.prefix = runner.compute_prefix([5, 6])
        runner.prefill(rows, 0)
        for _ in range(num_steps):
            runner.step(rows)
    return logits


@pytest.mark.parametrize("model_type", ["hunyuan_v1_dense", "hy_v3"])
@pytest.mark.parametrize("captured", [False, True])
def test_layers_with_kernels_give_the_logits_of_transformers_own(model_type: str, captured: bool) -> None:
    hymt = tiny_model(model_type)
    plain = steps_of(hymt, None, num_steps=4)
    own = steps_of(hymt, FusedLayers(hymt.network), num_steps=4, captured=captured)
    assert len(own) == len(plain) == 5
    for one, other in zip(own, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_layers_with_kernels_are_as_close_to_float64_as_those_of_transformers() -> None:
    hymt = tiny_model(dtype="bfloat16")
    own, plain = (steps_of(hymt, layers, num_steps=2) for layers in (FusedLayers(hymt.network), None))
    exact = replace(hymt, network=hymt.network.double(), dtype="float64")
    reference = steps_of(exact, None, num_steps=2)
    for one, other, right in zip(own, plain, reference, strict=True):
        assert error(one, right) <= 2 * error(other, right)


def decode(hymt: LoadedModel, layers: FusedLayers | None, *, captured: bool = False, params: Any = GREEDY) -> Any:
    runner = CudaGraphRunner(hymt, params, EmulatedGraphs(), "cuda", layers) if captured else None
    engine = SlotEngine(make_context(hymt, max_rows=3), runner, "cuda", layers)
    prompts = [[5, 6, index, *range(20, 20 + index % 3)] for index in range(7, 11)]
    requests = make_requests(prompts, [4, 2, 3, 3], params)
    return engine.generate(requests, lambda: None), engine


@pytest.mark.parametrize(
    ("captured", "params"), [(False, GREEDY), (True, GREEDY), (True, SamplingParams(True, 2.0, 0.9, 20, 1.1))]
)
def test_the_engine_gives_the_same_tokens_with_and_without_kernels(
    hymt: LoadedModel, fused: FusedLayers, captured: bool, params: SamplingParams
) -> None:
    expected, _ = decode(hymt, None, params=params)
    completions, engine = decode(hymt, fused, captured=captured, params=params)
    assert completions == expected
    assert engine.environment["kernels"] is True
    assert engine.counters.moved_rows > 0


def test_with_kernels_one_graph_serves_rows_of_every_length(
    hymt: LoadedModel, fused: FusedLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hymt_batch.decode.graph.LENGTH_BUCKET", 8)
    captures = []
    for layers in (None, fused):
        runner = CudaGraphRunner(hymt, GREEDY, EmulatedGraphs(), "cuda", layers)
        row, counters = SequenceState(0, [5, 6, 7], 40, 0), Counters()
        runner.start(GREEDY, counters, 1, 43, max_tokens=9999)
        with torch.inference_mode(), network_patch.patch_network(hymt.network, 99):
            runner.prefill([row], 0)
            for _ in range(20):
                runner.step([row])
        captures.append(counters.captures)
    assert captures == [3, 1]


def test_slots_without_a_row_disturb_no_other_slot(hymt: LoadedModel, fused: FusedLayers) -> None:
    """NaN in a slot that takes part in a captured step without a row stays there."""
    runner = CudaGraphRunner(hymt, GREEDY, EmulatedGraphs(), "cuda", fused)
    rows = [SequenceState(index, [5, 6, 7 + index], 9, 0) for index in range(3)]
    runner.start(GREEDY, Counters(), 4, 20, max_tokens=9999)
    with torch.inference_mode(), network_patch.patch_network(hymt.network, 99):
        runner.prefill(rows, 0)
        runner.step(rows)
        for block in runner.cache.blocks.values():
            block[:, :, 3] = float("nan")
        sampled = runner.step(rows)
    assert sampled.finite.tolist() == [1, 1, 1]


@pytest.fixture
def short_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the self-check small: four tokens of three rows."""
    monkeypatch.setattr(attention, "NUM_TOKENS", 4)
    monkeypatch.setattr(padded_batch, "prompts", lambda tokenizer: [[5, 6], [8], [9, 10]])


@pytest.mark.usefixtures("short_check")
def test_the_self_check_accepts_correct_kernels_and_refuses_wrong_ones(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = FusedLayers(hymt.network)
    assert self_check.kernels_refusal(hymt, layers) == ""
    calls: list[Any] = []

    def wrong_late(operator: Any, *arguments: Any) -> Any:
        calls.append(1)
        result = operator(*arguments)
        if len(calls) > 4:  # two layers, so from the third step on
            result[1] = result[0]
        return result

    broken = BrokenOperators(layers.operators, "decode_attention", wrong_late)
    monkeypatch.setattr(layers, "operators", broken)
    reason = self_check.kernels_refusal(hymt, layers)
    assert "do not agree with transformers' own layers: 1 of 3 rows, first row 2 at token 4" in reason


@pytest.mark.usefixtures("short_check")
@pytest.mark.parametrize("captured", [False, True])
def test_kernels_that_fail_the_self_check_are_off_and_the_log_says_why(
    hymt: LoadedModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, captured: bool
) -> None:
    layers = FusedLayers(hymt.network)
    _, engine = decode(hymt, layers, captured=captured)
    engine._self_check_kernels(layers)
    assert engine.layers is layers
    monkeypatch.setattr(layers, "operators", BrokenOperators(layers.operators, "gated_product", inexact_by_half))
    engine._self_check_kernels(layers)
    assert engine.layers is None
    assert engine.environment["kernels"] is False
    assert "decode.kernels: off, and torch's own operators are used: they do not agree" in caplog.text
    if captured:
        assert engine.graph_runner.layers is None
        assert not engine.graph_runner.graphs
    requests = make_requests([[5, 6, 7]], [3], GREEDY)
    assert engine.generate(requests, lambda: None) == decode_plain(hymt, requests)


def inexact_by_half(operator: Any, *arguments: Any) -> Any:
    return operator(*arguments) * 0.5


def decode_plain(hymt: LoadedModel, requests: Any) -> Any:
    return SlotEngine(make_context(hymt, max_rows=3)).generate(requests, lambda: None)


def failing_layers(failure: Exception) -> Callable[[Any], Any]:
    def make(network: Any) -> Any:
        raise failure

    return make


def test_a_compiler_that_fails_turns_the_kernels_off_and_a_gpu_that_fails_ends_the_process(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_cuda, settings = replace(hymt, device="cuda:0"), DecodeConfig(kernels=Kernels.on)
    monkeypatch.setattr(opening, "FusedLayers", failing_layers(RuntimeError("Failed to find C compiler.")))
    assert opening.open_fused_layers(on_cuda, settings) is None
    assert "decode.kernels: off, and torch's own operators are used: RuntimeError: Failed to find C" in caplog.text
    monkeypatch.setattr(opening, "FusedLayers", failing_layers(RuntimeError("CUDA error: illegal address")))
    with pytest.raises(DeviceError, match=r"decode\.kernels=off"):
        opening.open_fused_layers(on_cuda, settings)


def test_kernels_that_fail_their_check_are_off(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(layers: Any) -> Any:
        raise operator_check.KernelError("rms_norm has a relative error of 1")

    monkeypatch.setattr(opening, "check_operators", refuse)
    assert opening.open_fused_layers(replace(hymt, device="cuda:0"), DecodeConfig(capture=True)) is None
    assert "torch's own operators are used: rms_norm has a relative error of 1" in caplog.text


@pytest.mark.parametrize(
    ("kernels", "capture", "wanted"),
    [("auto", False, False), ("auto", True, True), ("on", False, True), ("off", True, False)],
)
def test_the_setting_says_when_kernels_are_used(
    hymt: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernels: str,
    capture: bool,
    wanted: bool,
) -> None:
    monkeypatch.setattr(opening, "check_operators", lambda layers: {"rms_norm": 1.0})
    settings = DecodeConfig(kernels=Kernels(kernels), capture=capture)
    assert (opening.open_fused_layers(replace(hymt, device="cuda:1"), settings) is not None) == wanted
    assert opening.open_fused_layers(hymt, settings) is None, "on a CPU never"
    assert ("decode.kernels=on is the same as auto here" in caplog.text) == (kernels == "on")


def test_an_engine_opened_on_a_gpu_gives_its_kernels_to_steps_and_captured_steps(
    hymt: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker: Any = object()
    monkeypatch.setattr(slots, "open_fused_layers", lambda hymt, settings: marker)
    engine = slots.open_engine(make_context(hymt, settings=DecodeConfig(capture=True)))
    assert engine.graph_runner is not None
    assert engine.layers is engine.graph_runner.layers is marker
    assert engine.graph_runner.recreate(2) is engine.graph_runner
    plain = ModelRunner(hymt, GREEDY, 1, Counters(), logprobs=False, layers=marker)
    assert plain.recreate(2).layers is marker


def test_networks_that_the_kernels_do_not_know_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(change: Callable[[LoadedModel], object] = lambda hymt: None, **changes: Any) -> str:
        hymt = tiny_model(**changes)
        change(hymt)
        return unsupported_reason(hymt)

    def replace_norm(hymt: LoadedModel) -> None:
        hymt.network.model.layers[1].self_attn.key_layernorm = torch.nn.RMSNorm(16)

    assert reason() == ""
    assert reason(replace_norm) == "key_layernorm of layer 1 is RMSNorm instead of HunYuanDenseV1RMSNorm"
    assert reason(lambda hymt: setattr(hymt.network.model, "norm", torch.nn.Identity())).startswith("the last norm")
    assert reason(lambda hymt: delattr(hymt.network.model.layers[0].self_attn, "query_layernorm")).startswith("query")
    assert reason(head_dim=24).startswith("the size of a head is 24")
    assert reason(hidden_act="gelu") == "the activation function is gelu instead of silu"
    assert "type llama" in reason(lambda hymt: setattr(hymt.network.config, "model_type", "llama"))
    split: Any = replace(tiny_model(), placement=SimpleNamespace(devices=("cuda:0", "cuda:1")))
    assert "several devices" in unsupported_reason(split)
    assert "float64" in unsupported_reason(replace(tiny_model(), dtype="float64"))
    monkeypatch.setattr(fused_layers, "is_triton_installed", lambda: False)
    assert reason() == "triton is not installed"


def test_the_loaded_kernels_are_those_of_the_interpreter() -> None:
    source = sys.modules["hymt_batch.decode.kernels.triton_source"]
    assert type(source.decode_attention).__name__ == "InterpretedFunction"  # type: ignore[attr-defined]
