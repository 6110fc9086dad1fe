"""The table of engines is the only place that lists them, and an engine of any kind can be chosen by its entry."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from hymt_batch import config
from hymt_batch.cli import shell_completion
from hymt_batch.cli.override import collect_settings
from hymt_batch.decode import registry
from hymt_batch.decode.engine import Engine, EngineContext, UnsupportedError, find, open_engine
from hymt_batch.decode.registry import Draws, EngineEntry, InBenchmark
from hymt_batch.decode.request import Completion, Request, shared_sampling_params
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.errors import ConfigError, PreflightError, UsageError
from hymt_batch.run import identity
from hymt_batch.schema import TranslateJob
from tests.fakes import job as fake_job
from tests.fakes import worker as fake_worker
from tests.fakes.engine import FakeEngine, make_context
from tests.fakes.job import Job
from tests.fakes.model import Model


class Remote(Engine):
    """An engine without weights in this process, which answers every request with one token."""

    device = "elsewhere"
    environment: ClassVar[dict[str, Any]] = {"engine": "remote"}

    def generate(self, requests: Sequence[Request], check_stop: Callable[[], None]) -> list[Completion]:
        return [Completion([7], "length") for _ in requests]


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The module of a third engine, registered under its name."""
    module = SimpleNamespace(open_engine=lambda context: Remote())
    monkeypatch.setitem(registry.ENGINES, "remote", EngineEntry(module=module, in_jobs=True))
    return module


def no_weights() -> Any:
    raise AssertionError("the engine loads the weights itself")


def context_of(engine: str, **fields: Any) -> EngineContext:
    return make_context(Model(), settings=DecodeConfig(engine=engine), **fields)


@pytest.mark.parametrize("name", registry.ENGINES)
def test_every_entry_names_a_module_that_opens_an_engine(name: str) -> None:
    assert callable(find(name).open_engine)


def test_an_entry_is_all_that_settings_completion_and_the_choice_need(remote: SimpleNamespace) -> None:
    assert config.load("translate", ["preset=demo", "decode.engine=remote"]).decode.engine == "remote"
    settings = {"translate": collect_settings(TranslateJob)}
    typed = shell_completion.complete(["translate"], "decode.engine=re", ["translate"], [], settings, {})
    assert typed == ["decode.engine=remote "]
    engine = open_engine(context_of("remote", load=no_weights), lambda: None)
    assert engine.generate([Request([1], 5, 0, GREEDY)], lambda: None) == [Completion([7], "length")]
    assert (engine.loaded, engine.take_degraded()) == (None, ())


def test_an_engine_that_does_not_exist_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"decode\.engine=slot is not a choice\. Did you mean decode\.engine=slots"):
        config.load("translate", ["preset=demo", "decode.engine=slot"])
    with pytest.raises(
        ConfigError, match=r"decode\.engine=continuous is not an engine.* auto, slots, generate, vllm\."
    ):
        DecodeConfig(engine="continuous")


def test_an_engine_that_cannot_run_here_ends_the_job_with_its_reason(remote: SimpleNamespace) -> None:
    def refuse(context: EngineContext) -> Engine:
        raise UnsupportedError("no server answers")

    remote.open_engine = refuse
    with pytest.raises(PreflightError, match=r"decode\.engine=remote cannot run here: no server answers") as refused:
        open_engine(context_of("remote", load=no_weights), lambda: None)
    assert refused.value.fix == "Set decode.engine=auto."


@pytest.mark.parametrize("result", ["itself", "another", "an error"])
def test_an_engine_that_its_self_check_replaces_or_refuses_is_closed(remote: SimpleNamespace, result: str) -> None:
    closed = []

    class Checked(Remote):
        def self_check(self, check_stop: Callable[[], None]) -> Engine:
            if result == "an error":
                raise PreflightError("wrong tokens", fix="Set decode.engine=auto.")
            return self if result == "itself" else Remote()

        def close(self) -> None:
            closed.append(result)

    remote.open_engine = lambda context: Checked()
    with pytest.raises(PreflightError) if result == "an error" else contextlib.nullcontext():
        open_engine(context_of("remote", load=no_weights), lambda: None)
    assert closed == ([] if result == "itself" else [result])


def test_a_job_closes_its_engine_once_also_when_it_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_text("a\nb\nc\n")
    closed: list[Engine] = []
    monkeypatch.setattr(FakeEngine, "close", lambda self: closed.append(self))
    job, words = Job(tmp_path), (f"source.path={tmp_path / 'in.txt'}", "name=a", "batch.part_rows=1")
    job.interrupt(*words, at=2)
    assert len(closed) == 1
    job(*words)
    assert len(set(map(id, closed))) == len(closed) == 2


def test_points_of_a_sweep_close_each_engine_that_they_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.txt").write_text("a\n")
    opened, closed = [], []
    original = FakeEngine.__init__
    monkeypatch.setattr(FakeEngine, "__init__", lambda self, *of: [opened.append(self), original(self, *of)][1])
    monkeypatch.setattr(FakeEngine, "close", lambda self: closed.append(self))
    rows = "batch.max_rows=1,2"
    words = [f"source.path={tmp_path / 'in.txt'}", "model=demo", "tgt_lang=fr", f"output_dir={tmp_path}", "name=s"]
    monkeypatch.chdir(tmp_path)
    fake_job.run(["-m", *words, rows, "launch.progress=off"])
    assert len(opened) == 2
    assert closed == opened


def test_an_engine_that_cannot_sample_is_refused_where_the_job_would_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EngineEntry(module=SimpleNamespace(), in_jobs=True, draws=Draws.none)
    monkeypatch.setitem(registry.ENGINES, "greedy_only", entry)

    def load(*words: str) -> Any:
        return config.load("translate", ["preset=demo", "decode.engine=greedy_only", *words])

    assert load().check.code_steps == ("format_prompt", "plain", "without_codes")
    assert load("check.code_ladder=[plain]").check.code_steps == ("plain",)
    for words, message in (
        ("decode=recommended", r"decode\.method=sampling, but decode\.engine=greedy_only cannot sample"),
        (
            "check.retry.max_attempts=2",
            r"check\.retry\.max_attempts=2 samples, which decode\.engine=greedy_only cannot",
        ),
        (
            "check.code_ladder=[plain,retry]",
            r"the step retry of check\.code_ladder samples(.|\n)*code_ladder=\[plain\]",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            load(words)


def test_the_identity_names_an_engine_that_draws_in_its_own_way_where_the_job_may_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        registry.ENGINES, "drawer", EngineEntry(module=SimpleNamespace(), in_jobs=True, draws=Draws.own)
    )

    def drawn_by(*words: str) -> object:
        job = config.load("translate", ["preset=demo", *words])
        return identity.ResolvedJob(job, {}, None, None).sampling.get("drawn_by")  # type: ignore[arg-type]

    assert drawn_by("decode.engine=drawer", "decode=recommended") == "drawer"
    assert drawn_by("decode.engine=drawer") == "drawer", "the code ladder may sample"
    assert drawn_by("decode.engine=drawer", "check.code_ladder=[]") is None
    assert drawn_by("decode.engine=slots", "decode=recommended") is None
    assert drawn_by("decode=recommended") is None


def test_an_engine_with_a_process_of_its_own_runs_in_a_worker_even_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    monkeypatch.setenv("STUB_PIDS", str(pids))
    (tmp_path / "in.txt").write_text("a\nb\n")
    words = [f"source.path={tmp_path / 'in.txt'}", "model=demo", "tgt_lang=fr", f"output_dir={tmp_path}"]
    words += ["launch.progress=off", "decode.engine=generate"]
    for name, in_worker in (("here", False), ("there", True)):
        entry = replace(registry.ENGINES["generate"], in_worker=in_worker)
        monkeypatch.setitem(registry.ENGINES, "generate", entry)
        run = [*words, f"name={name}"]
        assert fake_job.run(run, decode=fake_worker.decode, worker_command=fake_worker.COMMAND) == 0
    here, there = (int(line.split()[0]) for line in pids.read_text().splitlines())
    assert here == os.getpid() != there


def test_auto_selects_engines_that_draw_alike() -> None:
    assert {entry.draws for entry in registry.ENGINES.values() if entry.auto_on} == {Draws.shared}


@pytest.mark.parametrize(("device", "name"), [("cpu", "slots"), ("cuda:0", "generate")])
def test_auto_asks_the_table_for_the_device_that_the_model_was_loaded_on(
    monkeypatch: pytest.MonkeyPatch, device: str, name: str
) -> None:
    opened = []
    for key, entry in list(registry.ENGINES.items()):
        module = SimpleNamespace(open_engine=lambda context, key=key: opened.append(key) or Remote())
        monkeypatch.setitem(registry.ENGINES, key, EngineEntry(module=module, auto_on=entry.auto_on))
    open_engine(context_of("auto", load=lambda: SimpleNamespace(device=device)), lambda: None)
    assert opened == [name]


def test_the_table_imports_no_engine_and_no_heavy_library() -> None:
    program = (
        "import sys; from hymt_batch.decode import registry; registry.job_choices();"
        "print([name for name in sys.modules if name == 'torch' or name.startswith('hymt_batch.decode.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['hymt_batch.decode.registry']\n"


def test_the_benchmark_runs_the_slot_engine_by_default_and_other_projects_only_on_request() -> None:
    assert registry.benchmark_choices(InBenchmark.default)[0] == "slots"
    assert "llama_cpp" in registry.benchmark_choices(InBenchmark.on_request)


def test_requests_of_one_call_that_sample_differently_are_a_mistake_of_the_caller() -> None:
    sampled = SamplingParams(True, 1.0, 1.0, 0, 1.0)
    assert shared_sampling_params([Request([1], 5, 0, GREEDY)] * 2) == GREEDY
    with pytest.raises(ValueError, match="different sampling parameters"):
        shared_sampling_params([Request([1], 5, 0, GREEDY), Request([1], 5, 0, sampled)])
