"""Baseline engines give the same tokens from the same weights, or are left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import Pipe

import pytest

from hymt_batch import config
from hymt_batch.bench import benchmark, own_process
from hymt_batch.bench.baselines import continuous, gguf_file, llama
from hymt_batch.bench.own_process import OwnProcess
from hymt_batch.decode import registry
from hymt_batch.decode.engine import Engine, EngineContext, UnsupportedError
from hymt_batch.decode.generate import GenerateEngine
from hymt_batch.decode.registry import InBenchmark
from hymt_batch.decode.request import Request
from hymt_batch.decode.sampling import SamplingParams
from hymt_batch.errors import ConfigError
from hymt_batch.model import synthetic
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.synthetic import Shape
from jobs import bench

EXTRA = "not installed: pip install 'hymt-batch[peers]'"


@pytest.fixture(scope="module")
def hymt() -> LoadedModel:
    return synthetic.make_model(Shape["demo"], "float32", 3)


@pytest.fixture(scope="module")
def work(hymt: LoadedModel) -> list[Request]:
    return benchmark.make_workload(20, hymt.vocab_size, 3)


@pytest.fixture(scope="module")
def expected(hymt: LoadedModel, work: list[Request]) -> list[list[int]]:
    return tokens(GenerateEngine(benchmark.make_context(hymt, 1)), work)


def tokens(engine: Engine, work: list[Request]) -> list[list[int]]:
    return [completion.ids for completion in engine.generate(work, lambda: None)]


def opened(
    names: Sequence[str], hymt: LoadedModel, max_rows: int, work: list[Request]
) -> tuple[dict[str, Engine], dict[str, str]]:
    return benchmark.open_engines({name: benchmark.make_context(hymt, max_rows) for name in names}, work)


def run_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the engines of other projects in this process, where a test can replace parts of them."""
    for name, entry in registry.ENGINES.items():
        monkeypatch.setitem(registry.ENGINES, name, replace(entry, packages=()))


@pytest.mark.parametrize(("name", "module"), [("continuous", ""), ("llama_cpp", "gguf"), ("ctranslate2", "")])
def test_a_baseline_gives_the_same_tokens_as_one_row_at_a_time(
    name: str, module: str, hymt: LoadedModel, work: list[Request], expected: list[list[int]]
) -> None:
    for package in {name, module} - {"", "continuous"}:
        pytest.importorskip(package, reason=EXTRA)
    engines, left_out = opened([name], hymt, 6, work)
    assert (set(engines), left_out) == ({name}, {})
    assert tokens(engines[name], work) == expected
    assert tokens(engines[name], work[4:7]) == expected[4:7], "a second run, with fewer rows than slots"


def test_llama_cpp_runs_in_bfloat16() -> None:
    for package in ("llama_cpp", "gguf"):
        pytest.importorskip(package, reason=EXTRA)
    hymt = synthetic.make_model(Shape["demo"], "bfloat16", 3)
    work = benchmark.make_workload(8, hymt.vocab_size, 3)
    engines, left_out = opened(["llama_cpp"], hymt, 4, work)
    assert left_out == {}
    expected = tokens(GenerateEngine(benchmark.make_context(hymt, 1)), work)
    first = [(ids[0], right[0]) for ids, right in zip(tokens(engines["llama_cpp"], work), expected, strict=True)]
    assert sum(a == b for a, b in first) >= 6, "rounding may change a few tokens, but not most of them"


def test_ctranslate2_is_left_out_for_a_network_that_is_not_equivalent_to_qwen3(work: list[Request]) -> None:
    pytest.importorskip("ctranslate2", reason=EXTRA)
    scaled = synthetic.make_model(Shape["demo"], "float32", 3)
    scaled.network.model.layers[1].self_attn.key_layernorm.weight.mul_(1.5)
    engines, left_out = opened(["ctranslate2"], scaled, 6, work)
    assert engines == {}
    assert "norms" in left_out["ctranslate2"].what


def test_an_engine_that_cannot_run_is_left_out_with_the_reason(
    hymt: LoadedModel, work: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(context: EngineContext) -> Engine:
        raise ImportError("No module named 'peer'\nand more")

    run_in_this_process(monkeypatch)
    monkeypatch.setattr(llama, "open_engine", refuses)
    monkeypatch.setattr(continuous.ContinuousEngine, "decode", lambda self, requests: [[1] for _ in requests])
    bfloat16_model = synthetic.make_model(Shape["demo"], "bfloat16", 3)
    engines, left_out = opened(["continuous", "llama_cpp", "ctranslate2"], bfloat16_model, 6, work)
    assert engines == {}
    assert left_out["llama_cpp"].what == "No module named 'peer'"
    assert left_out["continuous"].what.startswith("it generated [1, 1, 1] tokens")
    assert "not in bfloat16" in left_out["ctranslate2"].what


def test_an_engine_in_a_process_of_its_own_gives_the_same_tokens(
    hymt: LoadedModel, work: list[Request], expected: list[list[int]]
) -> None:
    engine = OwnProcess(benchmark.make_context(hymt, 6), "hymt_batch.bench.baselines.generate_in_order")
    process = engine._process
    try:
        assert tokens(engine, work) == expected
        assert tokens(engine, work[4:7]) == expected[4:7]
        with pytest.raises(AttributeError, match="prompt_ids"):
            engine._ask([None])
        assert tokens(engine, work[:2]) == expected[:2], "an error of a call does not end it"
        process.kill()
        with pytest.raises(RuntimeError, match="its process ended with exit code -9"):
            engine.generate(work, lambda: None)
    finally:
        engine.close()
    assert process.poll() is not None


def test_why_an_engine_does_not_open_in_its_own_process_is_told(work: list[Request]) -> None:
    in_bfloat16 = benchmark.make_context(synthetic.make_model(Shape["demo"], "bfloat16", 3), 6)
    with pytest.raises(UnsupportedError, match="in float32 only, not in bfloat16"):
        OwnProcess(in_bfloat16, "hymt_batch.bench.baselines.ctranslate")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        OwnProcess(in_bfloat16, "hymt_batch.bench.baselines.ctranslate", ["no_such_package"])


class Peculiar(Exception):
    """An exception that cannot be made from its arguments."""

    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"error {code}: {why}")


def test_an_error_that_cannot_be_sent_becomes_its_text() -> None:
    ours, theirs = Pipe()
    own_process._send_error(theirs, Peculiar(7, why="no memory"))
    answer = ours.recv()
    assert (type(answer), str(answer)) == (RuntimeError, "error 7: no memory")


def test_a_baseline_refuses_sampling_and_end_tokens(hymt: LoadedModel, work: list[Request]) -> None:
    engine = continuous.ContinuousEngine(benchmark.make_context(hymt, 4))
    with pytest.raises(UnsupportedError, match="greedy"):
        engine.generate([replace(work[0], sampling_params=SamplingParams(True, 1.0, 1.0, 0, 1.0))], lambda: None)
    with_end = replace(hymt, tokenizer=replace(hymt.tokenizer, stop_ids=(7,)))
    with pytest.raises(UnsupportedError, match="end tokens"):
        continuous.ContinuousEngine(benchmark.make_context(with_end, 4))


def test_the_benchmark_lists_baselines_and_the_engines_that_were_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(context: EngineContext) -> Engine:
        raise UnsupportedError("has no such weights")

    run_in_this_process(monkeypatch)
    monkeypatch.setattr(llama, "open_engine", refuses)
    overrides = ["preset=bench_quick", "rounds=1", "segments=12", "engines=[continuous,llama_cpp]"]
    bench.run(config.load("bench", overrides))
    *lines, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures["equal_rows"] == {"slots": "12/12", "continuous": "12/12"}
    assert figures["left_out"] == {"llama_cpp": "has no such weights"}
    assert figures["ratio_to_continuous"] > 0
    assert "  llama_cpp was left out: has no such weights" in lines


def test_baselines_run_only_if_they_are_named() -> None:
    on_request = ["vllm", "slots_captured", "continuous", "llama_cpp", "ctranslate2"]
    assert registry.benchmark_choices(InBenchmark.on_request) == on_request
    assert config.load("bench", ["engines=[llama_cpp]"]).engines == ["llama_cpp"]
    with pytest.raises(ConfigError, match=r"engines=sglang is not an engine.*ctranslate2"):
        config.load("bench", ["engines=[sglang]"])


def test_every_weight_has_a_name_in_llama_cpp(hymt: LoadedModel) -> None:
    names = {gguf_file.tensor_name(name) for name in hymt.network.state_dict()}
    assert len(names) == 4 * 11 + 3
    assert {"token_embd.weight", "output.weight", "blk.3.attn_q_norm.weight", "blk.0.ffn_gate.weight"} <= names
    with pytest.raises(KeyError):
        gguf_file.tensor_name("model.layers.0.mlp.gate.wg.weight")


def test_the_rope_base_equals_that_of_the_network(hymt: LoadedModel) -> None:
    frequencies = hymt.network.model.rotary_emb.inv_freq
    base = gguf_file.rope_base(hymt.network.config)
    dim = hymt.network.config.head_dim
    assert [base ** (-2 * n / dim) for n in range(dim // 2)] == pytest.approx(frequencies.tolist(), rel=1e-5)
