"""What surrounds vLLM, with a small engine in its place: its interpreter, its process and what is refused.

tests/vllm has the tests with a real one.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import child_process, config
from hymt_batch.bench import benchmark
from hymt_batch.decode.engine import open_engine
from hymt_batch.decode.request import Completion, Request
from hymt_batch.decode.sampling import GREEDY
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.vllm import engine, reference
from hymt_batch.decode.vllm.engine import VllmEngine
from hymt_batch.decode.vllm.parallel import Parallelism
from hymt_batch.decode.vllm.process import Installed, VllmProcess, probe, variables
from hymt_batch.device_map.network_spec import ModuleSpec, NetworkSpec
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import Device, DeviceMapConfig, Strategy
from hymt_batch.doctor import preflight, vllm
from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.errors import DeviceError, PreflightError, StoppedError, UsageError
from hymt_batch.model import detect_devices, prepare, shapes, synthetic
from hymt_batch.model.settings import Dtype, ModelConfig
from hymt_batch.run import identity
from tests.fakes.engine import make_context
from tests.fakes.model import Model

STOP, NAN, CRASH, SLOW = 1, 666, 777, 888
PATIENCE_S = 20.0

FILES = {
    "vllm/__init__.py": "from vllm.sampling_params import SamplingParams",
    "vllm/sampling_params.py": """
from enum import Enum
RequestOutputKind = Enum("RequestOutputKind", "DELTA")
class SamplingParams:
    def __init__(self, **fields):
        vars(self).update(fields)
""",
    "vllm/inputs/__init__.py": "",
    "vllm/inputs/engine.py": "def tokens_input(ids): return list(ids)",
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": """
class EngineArgs:
    def __init__(self, **fields):
        if fields.get("dtype") == "wrong":
            raise ValueError("unknown dtype")
        vars(self).update(fields)
""",
    "vllm/v1/__init__.py": "",
    "vllm/v1/engine/__init__.py": "",
    # answers a prompt with its own tokens, the last one again and again if it has 5 in front, and then an end token
    "vllm/v1/engine/llm_engine.py": f"""
import os, subprocess, sys, time
from types import SimpleNamespace as Record
class LLMEngine:
    @classmethod
    def from_engine_args(cls, args):
        if hasattr(args, "children"):  # as vLLM has a process for each GPU, and shared memory, which one process frees
            for child in (["sleep", "300"], [sys.executable, "-c", "input()", "multiprocessing.resource_tracker"]):
                with open(args.children, "a") as file:
                    print(subprocess.Popen(child, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL).pid, file=file)
        return cls()
    def __init__(self):
        self.rows = {{}}
    def add_request(self, id, prompt, params):
        self.rows[id] = (prompt, params, [])
    def abort_request(self, ids):
        for id in ids:
            del self.rows[id]
    def has_unfinished_requests(self):
        return bool(self.rows)
    def step(self):
        outputs = []
        for id, (prompt, params, new) in list(self.rows.items()):
            if {CRASH} in prompt:
                os._exit(3)
            if {SLOW} in prompt:
                time.sleep(0.1)
            n = len(new)
            token = prompt[-1] if prompt[0] == 5 else prompt[n] if n < len(prompt) else params.stop_token_ids[0]
            new.append(token)
            logprob = float("nan") if token == {NAN} else -0.5
            finished = token in params.stop_token_ids or len(new) == params.max_tokens
            if finished:
                del self.rows[id]
            logprobs = None if params.logprobs is None else [{{token: Record(logprob=logprob)}}]
            answer = Record(token_ids=[token], logprobs=logprobs, finish_reason="stop")
            outputs.append(Record(request_id=id, outputs=[answer], finished=finished))
        return outputs
""",
    "vllm-0.32.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n",
    "cudnn-9.20.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: nvidia-cudnn-cu13\nVersion: 9.20.1\n",
}


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An interpreter that has the small engine, in place of vLLM's; -I is dropped so that it finds it."""
    for name, text in FILES.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def process(python: str) -> Iterator[VllmProcess]:
    started = VllmProcess(python, {"model": "here"}, 1)
    started.wait_until_ready(lambda: None)
    yield started
    started.close()


def call_of(*prompts: list[int], limit: int = 100, stop_loops: bool = False) -> dict[str, Any]:
    sampling = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
    rows = [(prompt, limit, 0) for prompt in prompts]
    return {"rows": rows, "sampling": sampling, "stop_ids": [STOP], "stop_loops": stop_loops}


def decode(process: VllmProcess, call: dict[str, Any]) -> list[tuple[list[int], str]]:
    answers = process.decode(call, lambda: None, lambda rows, tokens: None)
    return [(ids, finish_reason) for ids, finish_reason, _, _ in answers]


def test_rows_end_at_end_tokens_limits_and_loops(process: VllmProcess) -> None:
    finished: list[tuple[int, int]] = []
    call = call_of([7, 8, 9], [7, 8, 9, 10, 11])
    answers = process.decode(call, lambda: None, lambda rows, tokens: finished.append((rows, tokens)))
    assert [answer[:3] for answer in answers] == [([7, 8, 9], "stop", -0.5), ([7, 8, 9, 10, 11], "stop", -0.5)]
    assert (sum(rows for rows, _ in finished), sum(tokens for _, tokens in finished)) == (2, 8)
    assert decode(process, call_of([7, 8, 9], limit=2)) == [([7, 8], "length")]
    assert decode(process, call_of([5, 8], [2, 3], stop_loops=True)) == [([8] * 48, "loop"), ([2, 3], "stop")]
    assert decode(process, call_of([5, 8], stop_loops=False)) == [([8] * 100, "length")]


def test_a_row_whose_logits_are_not_finite_is_named_and_no_other_is_lost(process: VllmProcess) -> None:
    assert decode(process, call_of([7, NAN, 9], [7, 8])) == [([], "non_finite"), ([7, 8], "stop")]


def test_a_stopped_call_ends_early_and_the_next_one_starts_afresh(process: VllmProcess) -> None:
    def stop() -> None:
        raise StoppedError("stopped", fix="Run the same command again to continue.")

    with pytest.raises(StoppedError, match="stopped"):
        process.decode(call_of([5, SLOW], limit=100_000), stop, lambda rows, tokens: None)
    assert decode(process, call_of([7, 8])) == [([7, 8], "stop")]


def test_a_process_that_dies_is_an_error_that_keeps_the_attempt(process: VllmProcess) -> None:
    with pytest.raises(DeviceError, match="vLLM's process ended by exit code 3"):
        decode(process, call_of([7, CRASH]))
    with pytest.raises(DeviceError):
        decode(process, call_of([7, 8]))


def test_a_killed_process_is_named(process: VllmProcess) -> None:
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(DeviceError, match="ended by SIGKILL"):
        decode(process, call_of([7, 8]))


def is_running(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


STARTS_VLLM = """
import sys, time
from hymt_batch.decode.vllm.process import VllmProcess
started = VllmProcess(sys.argv[1], {"children": sys.argv[2]}, 1)
started.wait_until_ready(lambda: None)
print(started.pid, flush=True)
if sys.stdin.readline() == "close\\n":
    started.close()
    print("closed", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("end", ["close", "kill", "kill the parent"])
def test_the_processes_that_vllm_starts_end_with_it(python: str, tmp_path: Path, end: str) -> None:
    file = tmp_path / "children"
    command = [sys.executable, "-c", STARTS_VLLM, python, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdin is not None
            assert parent.stdout is not None
            server = int(parent.stdout.readline())
            child, _tracker = (int(line) for line in file.read_text(encoding="utf-8").split())
            assert is_running(child)
            if end == "close":
                print("close", file=parent.stdin, flush=True)
                assert parent.stdout.readline() == "closed\n"
            else:
                os.kill(server if end == "kill" else parent.pid, signal.SIGKILL)
            deadline = time.monotonic() + PATIENCE_S
            while is_running(child) or is_running(server):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            parent.kill()


def test_a_resource_tracker_is_left_to_free_shared_memory_when_a_group_is_killed() -> None:
    leader = subprocess.Popen(["sleep", "300"], process_group=0)
    member = subprocess.Popen(["sleep", "300"], process_group=leader.pid)
    command = [sys.executable, "-c", "import time; time.sleep(300)", "multiprocessing.resource_tracker"]
    tracker = subprocess.Popen(command, process_group=leader.pid)
    other = subprocess.Popen(["sleep", "300"])
    try:
        while b"resource_tracker" not in Path(f"/proc/{tracker.pid}/cmdline").read_bytes():
            time.sleep(0.001)  # just after the exec, it is empty
        child_process.kill_group(leader.pid)
        assert [leader.wait(PATIENCE_S), member.wait(PATIENCE_S)] == [-signal.SIGKILL] * 2
        assert (tracker.poll(), other.poll()) == (None, None)
    finally:
        for process in (leader, member, tracker, other):
            process.kill()
            process.wait()


def test_a_model_that_vllm_refuses_ends_the_job_with_its_words(python: str) -> None:
    refused = VllmProcess(python, {"dtype": "wrong"}, None)
    with pytest.raises(PreflightError, match="ValueError: unknown dtype"):
        refused.wait_until_ready(lambda: None)


def test_the_variables_of_vllms_processes_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "VLLM_CPU_KVCACHE_SPACE", "VLLM_PP_LAYER_PARTITION", "TORCH_CUDNN_SDPA_DEPRIORITIZED"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    found = variables(OMP_NUM_THREADS="3", VLLM_PP_LAYER_PARTITION="1,3")
    assert not {"PYTHONPATH", "VLLM_CPU_KVCACHE_SPACE"} & set(found)
    assert (found["VLLM_LOGGING_LEVEL"], found["VLLM_PP_LAYER_PARTITION"]) == ("INFO", "1,3")
    assert (found["TORCH_CUDNN_SDPA_DEPRIORITIZED"], found["OMP_NUM_THREADS"]) == ("1", "3")


def test_the_interpreter_is_asked_what_it_has(python: str, tmp_path: Path) -> None:
    installed = probe(python)
    assert (installed.version, installed.release) == ("0.32.0", (0, 32))
    assert engine.describe_draws(python) == "vllm 0.32.0"
    empty = tmp_path / "empty"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n', encoding="utf-8")
    empty.chmod(0o755)
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho hello\n", encoding="utf-8")
    other.chmod(0o755)
    for value, message in (
        (None, "needs launch.vllm_python, which is not set"),
        (str(tmp_path / "missing"), "cannot be started .No such file"),
        (str(empty), "has no vLLM"),
        (str(other), "is not a Python"),
    ):
        with pytest.raises(PreflightError, match=message) as refused:
            probe(value)
        assert refused.value.id == "A19"
        assert "docs/vllm.md" in str(refused.value)


def test_a_job_without_the_interpreter_is_refused_before_its_model_is_looked_at() -> None:
    job = config.load("translate", ["preset=demo", "decode.engine=vllm"])
    with pytest.raises(PreflightError, match=r"launch\.vllm_python, which is not set"):
        preflight.check_process(job)


def test_the_identity_of_a_job_that_may_sample_has_version_and_device(python: str) -> None:
    words = ["preset=demo", "decode.engine=vllm", f"launch.vllm_python={python}"]

    def drawn_by(*more: str) -> object:
        job = config.load("translate", [*words, *more])
        resolved = identity.ResolvedJob(job, {}, None, None, "GPU of a kind")  # type: ignore[arg-type]
        return resolved.sampling.get("drawn_by")

    assert drawn_by() == "vllm 0.32.0 on GPU of a kind"
    assert drawn_by("check.code_ladder=[]") is None


@pytest.mark.parametrize(
    "word", ["decode.temperature=2.5", "decode.temperature=0.001", "model.sampling.temperature=3.0"]
)
def test_a_temperature_that_vllm_would_refuse_or_change_is_refused_at_once(word: str) -> None:
    words = ["preset=demo", "decode=recommended", word]
    config.load("translate", words)
    with pytest.raises(UsageError, match=rf"{word} is not from 0\.01 to 2"):
        config.load("translate", [*words, "decode.engine=vllm"])


DENSE = SimpleNamespace(config={"model_type": "hunyuan_v1_dense"}, quantisation="")


def installed(version: str = "0.33.1") -> Installed:
    return Installed("python", {"python": "3.12.1", "vllm": version})


def test_what_vllm_cannot_run_has_a_reason() -> None:
    assert engine.unsupported_version(installed()) == ""
    assert "0.32 is the oldest that was tried" in engine.unsupported_version(installed("0.31.2"))
    for model_type, quantisation, reason in (("hy_v3", "", "type hy_v3"), ("hunyuan_v1_dense", "gptq", "format gptq")):
        files: Any = SimpleNamespace(config={"model_type": model_type}, quantisation=quantisation)
        assert reason in engine.unsupported_model(files)
    assert engine.unsupported_model(DENSE) == ""  # type: ignore[arg-type]


def test_an_engine_without_files_is_refused() -> None:
    context = make_context(Model(), settings=DecodeConfig(engine="vllm"))
    with pytest.raises(PreflightError, match=r"decode\.engine=vllm cannot run here: the weights have no files"):
        open_engine(context, lambda: None)


def test_alpha_is_folded_into_the_base_of_the_rope() -> None:
    old = {"head_dim": 128, "rope_theta": 10000.0, "rope_scaling": {"type": "dynamic", "alpha": 1000.0}}
    new = {"hidden_size": 512, "num_attention_heads": 4, "rope_parameters": {"rope_theta": 10000.0, "alpha": 1000.0}}
    expected = 10000.0 * 1000.0 ** (128 / 126)
    for rope_config in (old, new):
        rope = engine.folded_rope(rope_config)["rope_parameters"]
        assert rope["rope_type"] == "default"
        assert math.isclose(rope["rope_theta"], expected)
    assert engine.folded_rope({"rope_theta": 10000.0}) == {}
    assert "folded" in engine.describe_rope(old, installed("0.32.4"))
    assert "folded" not in engine.describe_rope(old, installed("0.33.0"))


def test_the_doctor_shows_interpreter_rope_split_and_refusals(python: str) -> None:
    decode, files = DecodeConfig(engine="vllm"), shapes.published_model("tencent/HY-MT1.5-7B")
    assert files is not None

    def findings(strategy: Strategy, *devices: str, value: str | None = python) -> list[Finding]:
        inventory = detect_devices.simulated_devices([*devices, "cpu:99GiB"])
        model = ModelConfig(path=str(files.folder), dtype=Dtype.bfloat16)
        plan = prepare.plan_placement(model, DeviceMapConfig(strategy=strategy), inventory, files)
        return list(vllm.check(decode, value, files, plan, inventory))

    found = findings(Strategy.cpu)
    assert [finding.level for finding in found] == [Level.OK, Level.OK]
    assert "vllm 0.32.0" in found[0].seen
    assert "folded into the base" in found[1].seen
    split = findings(Strategy.balanced, "2x12GiB")
    assert "device_map=balanced is tensor parallelism over 2 GPUs; it was not run on a GPU yet" in split[1].seen
    assert "cuDNN 9.20.1: vLLM's attention kernels are its own" in split[2].seen
    refused = findings(Strategy.offload, "8GiB")
    assert [finding.level for finding in refused] == [Level.OK, Level.FAIL]
    assert "device_map=offload puts weights on cpu" in refused[1].seen
    assert [finding.id for finding in findings(Strategy.cpu, value=None)] == ["A19"]
    nothing = detect_devices.simulated_devices(["cpu:1GiB"])
    assert list(vllm.check(DecodeConfig(), None, None, None, nothing)) == []
    assert [finding.level for finding in vllm.check(decode, python, None, None, nothing)] == [Level.OK, Level.SKIP]


CPU = Device("cpu", "CPU", 10**9, bfloat16=True)


class Prepared:
    """A model of which vLLM reads nothing."""

    max_context, dtype, dtype_bytes, on_gpu, num_threads = 50, "float32", 4, False, 1
    identity: dict[str, Any] = {"files": {}}  # noqa: RUF012
    network = NetworkSpec(ModuleSpec(""), num_layers=1, cache_elements=1, vocab_size=10)
    files = SimpleNamespace(config={**DENSE.config}, quantisation="", folder="here")
    placement = Placement(Strategy.cpu, {"": "cpu"}, CPU, (DeviceUsage("cpu", 0, 1, "CPU"),), (("cpu",),), ())


def test_the_engine_sorts_rows_and_answers_those_that_cannot_fit(python: str) -> None:
    model: Any = Prepared()
    tokenizer = SimpleNamespace(stop_ids=(STOP,))
    context = make_context(Model(), tokenizer=tokenizer, model=model, python=python, max_rows=4, max_tokens=1000)
    vllm_engine = engine.open_engine(context)
    requests = [Request([7, 8], 10, 0, GREEDY), Request([7] * 45, 10, 0, GREEDY), Request([9], 20, 0, GREEDY)]
    try:
        assert vllm_engine.generate([], lambda: None) == []
        assert vllm_engine.generate(requests, lambda: None) == [
            Completion([7, 8], "stop"),
            Completion([], "memory"),
            Completion([9], "stop"),
        ]
        assert vllm_engine.environment["vllm"] == "0.32.0"
        assert vllm_engine.environment["max_rows"] == 4
    finally:
        vllm_engine.close()
    vllm_engine.close()


def test_the_benchmark_runs_vllm_beside_the_other_engines_or_tells_why_not(python: str, tmp_path: Path) -> None:
    hymt = synthetic.make_model(synthetic.Shape["demo"], "float32", 3)
    work = [Request([7, 8, 9, 10], 3, 0, GREEDY), Request([17, 18, 19, 20, 21, 22], 5, 0, GREEDY)]
    contexts = {"vllm": benchmark.make_context(hymt, 2, vllm_python=python)}
    engines, left_out = benchmark.open_engines(contexts, work)
    try:
        assert left_out == {}
        assert engines["vllm"].generate(work, lambda: None) == [
            Completion([7, 8, 9], "length"),
            Completion([17, 18, 19, 20, 21], "length"),
        ]
    finally:
        engines["vllm"].close()
    for value, reason in ((None, "vllm_python, which is not set"), (str(tmp_path / "none"), "cannot be started")):
        engines, left_out = benchmark.open_engines({"vllm": benchmark.make_context(hymt, 2, vllm_python=value)}, work)
        assert engines == {}
        assert reason in left_out["vllm"].what


@pytest.mark.parametrize(("dtype", "token", "logprob", "agrees"), [
    ("float32", 0, 0.0, True), ("float32", 1, 0.0, False), ("float32", 0, 0.01, False),
    ("bfloat16", 1, 0.1, True), ("bfloat16", 1, 0.9, False),
])  # fmt: skip
def test_a_job_is_refused_where_vllm_and_the_reference_disagree(
    monkeypatch: pytest.MonkeyPatch, dtype: str, token: int, logprob: float, agrees: bool
) -> None:
    model: Any = Prepared()
    model.dtype = dtype
    tokenizer: Any = SimpleNamespace(stop_ids=(STOP,), prefix=(), suffix=(), encode=lambda texts: [[7] for _ in texts])
    context = make_context(Model(), tokenizer=tokenizer, model=model, max_rows=4, max_tokens=1000)
    expected = [[(10 + n, -0.5) for n in range(64)] for _ in range(16)]
    actual = [([10 + n for n in range(64)], "length", -0.5, [-0.5] * 64) for _ in range(16)]
    actual[3][0][20] += token
    actual[3][3][20] -= logprob
    monkeypatch.setattr(reference, "answers", lambda *_: expected)
    monkeypatch.setattr(VllmEngine, "_decode", lambda *_: actual)
    checked = VllmEngine(context, model, installed(), Parallelism(Prepared.placement))
    if agrees:
        assert checked.self_check(lambda: None) is checked
    else:
        with pytest.raises(PreflightError, match="does not give the tokens of the reference"):
            checked.self_check(lambda: None)


def test_what_the_reference_answers_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYMT_BATCH_CACHE", str(tmp_path / "cache"))
    computed: list[list[tuple[int, float]]] = [[(n, -0.25) for n in range(64)]] * 2
    calls: list[object] = []
    monkeypatch.setattr(reference, "_run_program", lambda *of: [calls.append(of), computed][1])
    model: Any = Prepared()
    assert reference.answers(model, [[1], [2]], lambda: None) == computed
    assert reference.answers(model, [[1], [2]], lambda: None) == computed
    assert len(calls) == 1
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text("[]", encoding="utf-8")  # damaged
    assert reference.answers(model, [[1], [2]], lambda: None) == computed
    model.identity = {"files": {"model.safetensors": "another"}}
    reference.answers(model, [[1], [2]], lambda: None)
    assert len(calls) == 3
