"""The table of engines is the only place that lists them, and an engine of any kind can be chosen by its entry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from hymt_batch import config
from hymt_batch.cli import shell_completion
from hymt_batch.cli.override import collect_settings
from hymt_batch.decode import registry
from hymt_batch.decode.engine import Engine, EngineContext, UnsupportedError, find, open_engine
from hymt_batch.decode.registry import EngineEntry, InBenchmark
from hymt_batch.decode.request import Completion, Request, shared_sampling_params
from hymt_batch.decode.sampling import GREEDY, SamplingParams
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.errors import ConfigError, PreflightError, UsageError
from hymt_batch.schema import TranslateJob
from tests.fakes.engine import make_context
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
    with pytest.raises(ConfigError, match=r"decode\.engine=continuous is not an engine.* auto, slots, generate\."):
        DecodeConfig(engine="continuous")


def test_an_engine_that_cannot_run_here_ends_the_job_with_its_reason(remote: SimpleNamespace) -> None:
    def refuse(context: EngineContext) -> Engine:
        raise UnsupportedError("no server answers")

    remote.open_engine = refuse
    with pytest.raises(PreflightError, match=r"decode\.engine=remote cannot run here: no server answers") as refused:
        open_engine(context_of("remote", load=no_weights), lambda: None)
    assert refused.value.fix == "Set decode.engine=auto."


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
