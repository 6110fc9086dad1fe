"""Completed jobs are recorded where `tracking` says, and a tracker that fails costs a warning."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from hymt_batch import config
from hymt_batch.errors import ConfigError
from jobs import __main__ as front
from tests.fakes.job import Job, installed
from tests.fakes.job import run as translate
from tests.test_evaluate import SOURCES, write


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return [f"source.path={write(tmp_path / 'in.txt', SOURCES)}", f"tracking.file={tmp_path / 'runs' / 't.csv'}"]


def lines(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "runs" / "t.csv").read_text(encoding="utf-8").splitlines()))


def test_a_completed_job_is_a_line_and_a_complete_one_adds_none(job: Job, words: list[str], tmp_path: Path) -> None:
    job(*words, "name=a", "tracking=csv")
    job(*words, "name=a", "tracking=csv")
    job(*words, "name=b", "tracking=csv", "seed=3")
    first, second = lines(tmp_path)
    assert (first["name"], first["rows"], first["errors"], first["rows_decoded"]) == ("a", "5", "0", "5")
    assert (second["name"], json.loads(second["params"])["decode.seed"]) == ("b", "3")
    assert first["identity_sha256"] != second["identity_sha256"]
    assert json.loads(first["metrics"]) == {"status.ok": 5}
    assert float(first["seconds"]) >= 0 and first["ended"].endswith("+00:00")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["t.csv"]


def test_no_tracker_writes_nothing(job: Job, words: list[str], tmp_path: Path) -> None:
    job(*words, "name=a")
    assert not (tmp_path / "runs").exists()


def test_a_stopped_job_is_recorded_when_it_is_completed(job: Job, words: list[str], tmp_path: Path) -> None:
    job.interrupt(*words, "name=a", "tracking=csv", "batch.part_rows=1", at=3)
    assert not (tmp_path / "runs").exists()
    job(*words, "name=a", "tracking=csv", "batch.part_rows=1")
    (line,) = lines(tmp_path)
    assert (line["rows"], line["rows_decoded"]) == ("5", "3")


def test_a_merged_job_is_recorded_by_the_merge(words: list[str], tmp_path: Path) -> None:
    of_job = [*words, "tgt_lang=fr", "model=demo", f"output_dir={tmp_path / 'out'}", "name=n", "tracking=csv"]
    with installed():
        assert front.main(["prepare", *of_job]) == 0
        assert front.main(["translate", *of_job, "shard.index=0"]) == 0
        assert not (tmp_path / "runs").exists()
        assert front.main(["merge", "name=n", f"output_dir={tmp_path / 'out'}"]) == 0
    assert [line["name"] for line in lines(tmp_path)] == ["n"]


def test_a_file_that_cannot_be_written_is_a_warning(
    job: Job, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "runs", ["a file is in the way"])
    assert job(*words, "name=a", "tracking=csv").rows == 5
    assert "tracking=csv: the job is not recorded" in capsys.readouterr().err
    strict = [*words, "tgt_lang=fr", "model=demo", f"output_dir={tmp_path / 'out'}", "name=b", "tracking=csv"]
    assert translate([*strict, "strict=true"]) == 1
    assert json.loads((tmp_path / "out" / "b" / "status.json").read_bytes())["exit_code"] == 1


class FakeClient:
    """Stands in for mlflow.tracking.MlflowClient; keeps what it gets."""

    calls: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, tracking_uri: str) -> None:
        if "dead" in tracking_uri:
            raise ConnectionError("no answer")
        self.calls.append(("uri", tracking_uri))

    def get_experiment_by_name(self, name: str) -> Any:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        self.calls.append(("run", (experiment_id, run_name)))
        return SimpleNamespace(info=SimpleNamespace(run_id="r"))

    def log_batch(self, run_id: str, **values: Any) -> None:
        self.calls += values.items()

    def set_terminated(self, run_id: str, status: str) -> None:
        self.calls.append(("end", status))


@pytest.fixture
def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Put a fake mlflow in the place of the real one; return what it is called with."""
    monkeypatch.setattr(FakeClient, "calls", [])
    entities, tracking = ModuleType("mlflow.entities"), ModuleType("mlflow.tracking")
    vars(entities).update(
        Metric=lambda key, value, *_: (key, value), Param=lambda *pair: pair, RunTag=lambda *pair: pair
    )
    vars(tracking).update(MlflowClient=FakeClient)
    for module in (ModuleType("mlflow"), entities, tracking):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    return FakeClient.calls


def test_mlflow_gets_parameters_metrics_and_tags(
    job: Job, words: list[str], fake_mlflow: list[tuple[str, Any]]
) -> None:
    job(*words, "name=a", "tracking=mlflow", "tracking.experiment=e")
    assert fake_mlflow[:2] == [("uri", "sqlite:///mlflow.db"), ("run", ("e", "a"))]
    params = dict(pair for name, batch in fake_mlflow if name == "params" for pair in batch)
    assert (params["prompt.tgt_lang"], params["output.write.format"]) == ("fr", "input")
    metrics = dict(next(batch for name, batch in fake_mlflow if name == "metrics"))
    assert (metrics["rows"], metrics["errors"], metrics["exit_code"]) == (5, 0, 0)
    assert fake_mlflow[-1] == ("end", "FINISHED")


def test_a_dead_server_costs_a_warning(
    job: Job, words: list[str], fake_mlflow: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(*words, "name=a", "tracking=mlflow", "tracking.uri=http://dead:1").rows == 5
    assert "tracking=mlflow: the job is not recorded: no answer" in capsys.readouterr().err


def test_without_mlflow_the_warning_says_what_to_install(
    job: Job, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mlflow", "mlflow.entities", "mlflow.tracking"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    job(*words, "name=a", "tracking=mlflow")
    assert "pip install 'hymt-batch[mlflow]'" in capsys.readouterr().err


def test_a_folder_for_mlflow_is_refused_before_the_job(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="sqlite:///mlflow"):
        config.load("translate", [*words, "tgt_lang=fr", "model=demo", "tracking=mlflow", "tracking.uri=./mlruns"])
