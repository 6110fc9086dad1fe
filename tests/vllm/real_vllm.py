"""What the tests with a real vLLM share: the demo model, an engine of it, and jobs that use vLLM."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hymt_batch import prompt, segment
from hymt_batch.decode.engine import EngineContext, open_engine
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import GREEDY, SamplingParams, row_seed
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.demo import grammar
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.model import prepare
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.settings import Dtype, ModelConfig
from hymt_batch.model.tokenizer import Tokenizer
from hymt_batch.records import Document

PYTHON = os.environ.get("VLLM_PYTHON", "")
needs_vllm = pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no interpreter with vLLM (make test-vllm)")

PATIENCE_S = 300.0  # a busy machine
PROGRAM = [str(Path(sys.executable).with_name("hymt-batch"))]


def prepared(dtype: Dtype = Dtype.float32) -> PreparedModel:
    return prepare.prepare_model(ModelConfig(path="demo:model", dtype=dtype), DeviceMapConfig(strategy=Strategy.cpu))


def context_of(model: PreparedModel, name: str, **fields: Any) -> EngineContext:
    tokenizer = model.load_tokenizer(add_generation_prompt=True)
    settings = DecodeConfig(engine=name)
    context = EngineContext(
        load=lambda: model.load(tokenizer),
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        sampling_params=GREEDY,
        python=PYTHON,
        logprobs=True,
    )
    return replace(context, **fields)


def opened(model: PreparedModel, name: str, **fields: Any) -> Any:
    return open_engine(context_of(model, name, **fields), lambda: None)


def requests_of(
    tokenizer: Tokenizer, tgt_lang: str, num: int, params: SamplingParams, limit: int = 200
) -> list[Request]:
    rows = [Document(f"in.txt#{n + 1}", n, bulletin.en, b"") for n, bulletin in enumerate(grammar.sample(7, num))]
    segments, _ = segment.split(rows, tokenizer.count, segment.SegmentConfig())
    template = prompt.resolve_template(prompt.PromptConfig(), "hy_mt1_5", "en", tgt_lang)
    prompts, _ = prompt.render(segments, rows, tokenizer, template, 8192)
    return [Request(one.ids, limit, row_seed(0, one.row_id, 0, 0), params) for one in prompts]


def run(engine: Any, requests: Sequence[Request]) -> list[Completion]:
    completions: list[Completion] = engine.generate(requests, lambda: None)
    return completions


def vllm_processes() -> list[int]:
    """Return the processes of vLLM's server on this machine that jobs of these tests started; each leads a group."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            variables = (folder / "environ").read_bytes()
            is_leader = os.getpgid(int(folder.name)) == int(folder.name)
        except OSError:
            continue
        is_server = b"hymt_batch.decode.vllm.server" in command and is_leader
        if is_server and f"VLLM_TEST={os.getpid()}".encode() in variables:
            found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
