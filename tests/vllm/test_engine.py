"""A real vLLM with the demo model: its texts are those of our own engine, and it breaks no promise of an engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.vllm import engine as vllm_engine
from hymt_batch.decode.vllm.engine import VllmEngine
from hymt_batch.decode.vllm.process import VllmProcess
from hymt_batch.demo import grammar
from hymt_batch.errors import ExitCode, PreflightError, StoppedError
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.settings import Dtype
from hymt_batch.model.tokenizer import Tokenizer
from hymt_batch.write import part
from tests.vllm.real_vllm import (
    PATIENCE_S,
    PROGRAM,
    PYTHON,
    needs_vllm,
    opened,
    prepared,
    requests_of,
    run,
    vllm_processes,
    wait_for,
)

pytestmark = needs_vllm
NUM = 200
SAMPLING = SamplingParams(True, 2.0, 1.0, 0, 1.05)


@pytest.fixture(scope="module")
def model(cache: Path) -> PreparedModel:
    return prepared()


@pytest.fixture(scope="module")
def tokenizer(model: PreparedModel) -> Tokenizer:
    return model.load_tokenizer(add_generation_prompt=True)


@pytest.fixture(scope="module")
def vllm(model: PreparedModel) -> Iterator[VllmEngine]:
    engine = opened(model, "vllm")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def slots(model: PreparedModel) -> Any:
    return opened(model, "slots")


@pytest.mark.parametrize("tgt_lang", grammar.TARGETS)
def test_bulletins_are_those_of_our_engine(vllm: VllmEngine, slots: Any, tokenizer: Tokenizer, tgt_lang: str) -> None:
    requests = requests_of(tokenizer, tgt_lang, NUM, GREEDY)
    actual, expected = run(vllm, requests), run(slots, requests)
    assert actual == expected
    assert {completion.finish_reason for completion in actual} == {"stop"}
    for one, other in zip(actual, expected, strict=True):
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)


def test_each_row_has_its_own_limit(vllm: VllmEngine, slots: Any, tokenizer: Tokenizer) -> None:
    requests = [
        replace(request, max_new_tokens=1 + n % 30)
        for n, request in enumerate(requests_of(tokenizer, "fr", 60, GREEDY))
    ]
    completions = run(vllm, requests)
    assert completions == run(slots, requests)
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_a_repetition_penalty_is_ours(vllm: VllmEngine, slots: Any, tokenizer: Tokenizer) -> None:
    requests = requests_of(tokenizer, "fr", 40, replace(GREEDY, repetition_penalty=1.15))
    assert run(vllm, requests) == run(slots, requests)


def test_a_row_that_loops_is_stopped_where_our_engine_stops_it(
    vllm: VllmEngine, slots: Any, tokenizer: Tokenizer
) -> None:
    rows = [[tokenizer.prefix[0], n, n] for n in range(9, 29)]
    requests = [Request(ids, 120, 0, replace(GREEDY, stop_loops=True)) for ids in rows]
    completions = run(vllm, requests)
    assert completions == run(slots, requests)
    assert "loop" in {completion.finish_reason for completion in completions}
    running = run(vllm, [replace(request, sampling_params=GREEDY) for request in requests])
    assert "loop" not in {completion.finish_reason for completion in running}


def test_draws_depend_on_the_seed_of_the_row_alone(vllm: VllmEngine, tokenizer: Tokenizer) -> None:
    requests = requests_of(tokenizer, "fr", 40, SAMPLING, limit=20)
    completions = run(vllm, requests)
    assert run(vllm, requests[::-2]) == completions[::-2]
    others = [replace(request, seed=request.seed + 1) for request in requests]
    assert run(vllm, others) != completions


def test_a_row_that_cannot_fit_has_its_finish_reason_and_no_other_row_is_lost(
    vllm: VllmEngine, slots: Any, tokenizer: Tokenizer
) -> None:
    short = requests_of(tokenizer, "fr", 3, GREEDY)
    too_long = replace(short[0], max_new_tokens=vllm.max_length)
    assert run(vllm, [short[1], too_long, short[2]]) == [
        *run(slots, short[1:2]),
        Completion([], "memory"),
        *run(slots, short[2:]),
    ]


def test_a_call_that_is_stopped_ends_within_steps_and_leaves_nothing_behind(
    vllm: VllmEngine, tokenizer: Tokenizer
) -> None:
    requests = requests_of(tokenizer, "fr", 100, GREEDY)
    expected = run(vllm, requests)

    def stop() -> None:
        raise StoppedError("stopped", fix="Run the same command again to continue.")

    with pytest.raises(StoppedError, match="stopped"):
        vllm.generate(requests, stop)
    assert run(vllm, requests) == expected


def test_bfloat16_agrees_with_the_reference_and_translates(cache: Path) -> None:
    engine = opened(prepared(Dtype.bfloat16), "vllm")
    try:
        requests = requests_of(engine.context.tokenizer, "fr", NUM, GREEDY)
        texts = engine.context.tokenizer.decode([completion.ids for completion in run(engine, requests)])
    finally:
        engine.close()
    right = [grammar.reference(bulletin, "fr") for bulletin in grammar.sample(7, NUM)]
    assert sum(text == other for text, other in zip(texts, right, strict=True)) >= 0.99 * NUM
    assert len(list(cache.glob("reference-*.json"))) >= 1


def test_a_wrong_rope_is_refused_even_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    monkeypatch.setattr(vllm_engine, "folded_rope", lambda config: wrong)
    monkeypatch.setattr(vllm_engine, "ROPE_RELEASE", (1000,))
    with pytest.raises(PreflightError, match="does not give the tokens of the reference") as refused:
        opened(prepared(Dtype.bfloat16), "vllm")
    assert refused.value.id == "E27"


def test_a_row_whose_logits_are_not_finite_is_named_and_no_other_is_lost(
    tmp_path: Path, vllm: VllmEngine, tokenizer: Tokenizer
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder, bad_token = tmp_path / "model", 700
    shutil.copytree(vllm.options["model"], folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()  # a prompt with the token is bad, no other
    weights["model.embed_tokens.weight"][bad_token] = torch.nan
    save_file(weights, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, "tie_word_embeddings": False}), encoding="utf-8")
    process = VllmProcess(PYTHON, {**vllm.options, "model": str(folder)}, 1)
    try:
        process.wait_until_ready(lambda: None)
        for params in (GREEDY, SAMPLING):
            start = tokenizer.prefix[0]
            rows = [([start, 5, 6], 5, 1), ([start, bad_token, 9], 5, 1), ([start, 7, 8], 5, 1)]
            call = {"rows": rows, "sampling": asdict(params), "stop_ids": [], "stop_loops": False}
            answers = process.decode(call, lambda: None, lambda rows, tokens: None)
            assert [reason for _, reason, _, _ in answers] == ["length", "non_finite", "length"]
    finally:
        process.close()


def test_a_job_survives_the_death_of_vllm_a_drain_and_a_kill(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("".join(bulletin.en + "\n" for bulletin in grammar.sample(11, 120)), encoding="utf-8")
    words = [
        f"source.path={source}",
        "src_lang=en",
        "tgt_lang=fr",
        "model=demo",
        "device_map=cpu",
        "launch.progress=off",
    ]
    words += ["batch.part_rows=12", f"output_dir={tmp_path / 'out'}", "launch.report=false"]
    with_vllm = [*words, "name=vllm", "decode.engine=vllm", f"launch.vllm_python={PYTHON}"]
    environment = {**os.environ, "VLLM_TEST": str(os.getpid())}
    state = tmp_path / "out" / "vllm" / ".hymt"

    def parts() -> int:
        return sum(part.PART_NAME.fullmatch(path.name) is not None for path in state.rglob("p*"))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*PROGRAM, "translate", *with_vllm], env=environment, stdin=subprocess.DEVNULL)

    job = start()
    wait_for(lambda: parts() >= 1)
    (server,) = vllm_processes()
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: parts() >= 4)
    job.send_signal(signal.SIGTERM)
    assert job.wait(PATIENCE_S) == ExitCode.STOPPED
    assert vllm_processes() == []
    drained = parts()
    assert 4 <= drained < 10
    job = start()
    wait_for(lambda: parts() > drained)
    job.kill()
    job.wait()
    wait_for(lambda: vllm_processes() == [])
    assert start().wait(PATIENCE_S) == ExitCode.COMPLETE
    subprocess.run([*PROGRAM, "translate", *words, "name=slots"], check=True, stdin=subprocess.DEVNULL)
    translated = (tmp_path / "out" / "vllm" / "translated" / "in.txt").read_bytes()
    assert translated == (tmp_path / "out" / "slots" / "translated" / "in.txt").read_bytes()
    manifest = json.loads((tmp_path / "out" / "vllm" / "manifest.json").read_text(encoding="utf-8"))
    (recorded,) = manifest["environments"]
    assert recorded["engine"] == "vllm"
    assert manifest["identity"]["decode"]["drawn_by"] == f"vllm {recorded['vllm']} on {recorded['device']}"
