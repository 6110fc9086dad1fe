"""The points of a sweep share one loaded model, or the workers that loaded it, where their settings allow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hymt_batch.jobs import __main__ as front

from hymt_batch import config
from hymt_batch.cli import sweep
from hymt_batch.decode import engine
from hymt_batch.errors import PreflightError
from hymt_batch.model import load
from hymt_batch.run import kept_model, worker_process
from hymt_batch.run.worker_process import WorkerProcess

ROWS = "".join(f"Rain is expected in Oslo on Monday, {n} degrees.\n" for n in range(12))
DEMO = ("model=demo", "decode.engine=slots", "launch.progress=off")


class Counts:
    """How often weights were loaded, engines opened and workers started."""

    def __init__(self) -> None:
        self.loads = self.engines = 0
        self.workers: list[int] = []  # their process ids


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    counted = Counts()
    real_load, real_open, real_start = load.load_model, engine.find("slots").open_engine, WorkerProcess.start

    def load_model(*arguments: Any) -> Any:
        counted.loads += 1
        return real_load(*arguments)

    def open_engine(context: Any) -> Any:
        counted.engines += 1
        return real_open(context)

    def start(index: int, spec: Any) -> WorkerProcess:
        worker = real_start(index, spec)
        counted.workers.append(worker.process.pid)
        return worker

    monkeypatch.setattr(load, "load_model", load_model)
    monkeypatch.setattr(engine.find("slots"), "open_engine", open_engine)
    monkeypatch.setattr(worker_process.WorkerProcess, "start", staticmethod(start))
    yield counted


def run_sweep(folder: Path, *overrides: str) -> int:
    source = folder / "in.txt"
    source.write_text(ROWS)
    return front.main(
        ["translate", "-m", f"source.path={source}", f"output_dir={folder / 'out'}", "name=s", *DEMO, *overrides]
    )


def outputs(folder: Path) -> dict[str, bytes]:
    files = (folder / "out" / "s").glob("*/translated/in.txt")
    return {file.parent.parent.name: file.read_bytes() for file in files}


def test_a_sweep_over_languages_loads_the_model_once_and_gives_the_texts_of_single_jobs(
    tmp_path: Path, counts: Counts
) -> None:
    assert run_sweep(tmp_path, "tgt_lang=fr,de,zh") == 0
    assert (counts.loads, counts.engines) == (1, 1)
    alone = tmp_path / "alone"
    for language in ("fr", "de", "zh"):
        (alone / language).mkdir(parents=True)
        assert run_sweep(alone / language, f"tgt_lang={language}") == 0
    swept = outputs(tmp_path)
    assert set(swept) == {"tgt_lang=fr", "tgt_lang=de", "tgt_lang=zh"}
    for label, text in swept.items():
        (name,) = (alone / label.removeprefix("tgt_lang=") / "out").glob("s/translated/in.txt")
        assert name.read_bytes() == text


def test_other_decoding_opens_the_engine_again_with_the_weights_that_are_loaded(tmp_path: Path, counts: Counts) -> None:
    assert run_sweep(tmp_path, "tgt_lang=fr", "decode=greedy,recommended", "seed=1,2") == 0
    assert (counts.loads, counts.engines) == (1, 2)


def test_each_dtype_is_loaded_once_even_if_another_key_varies_more_slowly(tmp_path: Path, counts: Counts) -> None:
    assert run_sweep(tmp_path, "tgt_lang=fr,de", "model.dtype=float32,bfloat16") == 0
    assert counts.loads == 2
    assert len(outputs(tmp_path)) == 4


def test_points_with_the_same_model_share_their_worker_processes(tmp_path: Path, counts: Counts) -> None:
    assert run_sweep(tmp_path, "tgt_lang=fr,de,zh", "launch.workers=2", "batch.part_rows=3") == 0
    assert len(counts.workers) == 2
    assert counts.loads == 0  # in this process


def test_the_workers_of_a_finished_sweep_are_gone(tmp_path: Path, counts: Counts) -> None:
    assert run_sweep(tmp_path, "tgt_lang=fr,de", "launch.workers=2", "batch.part_rows=3") == 0
    assert counts.workers
    assert not [pid for pid in counts.workers if Path(f"/proc/{pid}").exists()]


def test_a_worker_that_died_between_two_points_is_replaced(
    tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_take = kept_model.KeptModel.take_workers

    def take_and_kill(self: Any, specs: Any) -> Any:
        workers = real_take(self, specs)
        for worker in list(workers.values())[:1]:
            worker.process.kill()
            worker.process.wait()
        return workers

    monkeypatch.setattr(kept_model.KeptModel, "take_workers", take_and_kill)
    assert run_sweep(tmp_path, "tgt_lang=fr,de", "launch.workers=2", "batch.part_rows=3") == 0
    assert len(counts.workers) == 3
    assert len(outputs(tmp_path)) == 2


def test_after_a_failed_point_nothing_is_kept(tmp_path: Path, counts: Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    from hymt_batch.decode.decoder import Decoder

    real_run = Decoder.run
    calls = []

    def run(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise PreflightError("broken", fix="none.")
        return real_run(self, *arguments)

    monkeypatch.setattr(Decoder, "run", run)
    assert run_sweep(tmp_path, "tgt_lang=fr,de,zh") == 6
    assert counts.loads == 2
    assert set(outputs(tmp_path)) == {"tgt_lang=de", "tgt_lang=zh"}


def test_a_model_whose_files_changed_is_prepared_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(Path(load.__file__).parent.parent / "demo" / "model", model)
    (tmp_path / "in.txt").write_text(ROWS)
    job = config.load(
        "translate", [f"source.path={tmp_path / 'in.txt'}", "tgt_lang=fr", "model=demo", f"model.path={model}"]
    )
    with kept_model.KeptModel() as kept:
        first = kept.prepare(job)
        closed: list[str] = []
        kept.keep_replica(SimpleNamespace(close=lambda: closed.append("closed")))  # type: ignore[arg-type]
        assert kept.prepare(job) is first
        generation = model / "generation_config.json"
        generation.write_text(generation.read_text() + "\n")
        assert kept.prepare(job).identity != first.identity
        assert kept.take_replica() is None
        assert closed == ["closed"]


def test_a_warning_of_loading_counts_for_every_point_that_uses_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the engine warns when it is opened: the kernels need a GPU
    assert run_sweep(tmp_path, "tgt_lang=fr,de", "decode.kernels=on", "strict=true") == 1
    table = capsys.readouterr().err.split("exit  point\n")[1]
    assert [line.split()[0] for line in table.splitlines()] == ["1", "1"]


def test_points_are_grouped_by_model_and_otherwise_keep_their_order() -> None:
    points = ["fr/32", "fr/16", "de/32", "de/16"]
    assert sweep.in_run_order(points, lambda point: point[-2:]) == ["fr/32", "de/32", "fr/16", "de/16"]
