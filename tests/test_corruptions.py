"""Twelve corruptions of a model folder: each is rejected with its id before any output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hymt_batch import config
from hymt_batch.doctor.finding import Level
from hymt_batch.errors import PreflightError
from hymt_batch.model import files, hashes
from hymt_batch.run.reporter import Reporter
from jobs import doctor, translate
from tests.fakes import corruptions
from tests.fakes.corruptions import ALL, Corruption

DEMO, _ = files.resolve("demo:model", "main", download=False)
WHOLE = hashes.compute(DEMO, ["model.safetensors"])["model.safetensors"]


@pytest.mark.parametrize("corruption", ALL, ids=[finding.name for finding in ALL])
@pytest.mark.fault(66, 67, 77)
def test_a_corruption_is_rejected_with_its_id_before_any_output(corruption: Corruption, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    corruption.damage(folder)
    (tmp_path / "in.txt").write_text("It is raining in Lyon.\n", encoding="utf-8")
    overrides = [f"source.path={tmp_path / 'in.txt'}", f"model.path={folder}", f"output_dir={tmp_path}", "name=out"]
    overrides += [
        "model=demo",
        "tgt_lang=fr",
        "device_map=cpu",
        *([f"model.sha256={WHOLE}"] if corruption.pinned else []),
    ]
    with Reporter("off") as reporter, pytest.raises(PreflightError) as raised:
        translate.translate(config.load("translate", overrides), reporter)
    assert raised.value.id == corruption.id
    assert f"explain={corruption.id}]" in str(raised.value)
    assert not list((tmp_path / "out").glob("translated/*"))
    findings = doctor.doctor(config.load("doctor", [*overrides, *(["load=true"] if corruption.at_load else [])]))
    assert corruption.id in {finding.id for finding in findings if finding.level is Level.FAIL}


def test_a_model_in_two_shards_is_complete(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    corruptions.shards(folder)
    model = files.verify(folder)
    assert len(model.weight_files) == 2
    assert model.num_parameters == files.verify(DEMO).num_parameters


@pytest.mark.parametrize("change", ["moved", "forgotten", "invented"])
@pytest.mark.fault(77)
def test_an_index_with_wrong_locations_of_tensors_is_rejected(change: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    corruptions.shards(folder)
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    file_names = sorted(set(content["weight_map"].values()))
    if change == "moved":
        content["weight_map"] = dict.fromkeys(content["weight_map"], file_names[0]) | {
            "model.norm.weight": file_names[1]
        }
    elif change == "forgotten":
        del content["weight_map"]["model.norm.weight"]
    else:
        content["weight_map"]["model.extra.weight"] = file_names[0]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(PreflightError) as raised:
        files.verify(folder)
    assert raised.value.id == "B9"


def test_a_pin_of_several_files_is_a_list(tmp_path: Path) -> None:
    from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
    from hymt_batch.model import prepare
    from hymt_batch.model.settings import ModelConfig

    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    corruptions.shards(folder)
    pins = [hashes.compute(folder, [name])[name] for name in files.verify(folder).weight_files]
    cpu = DeviceMapConfig(strategy=Strategy.cpu)
    prepare.prepare_model(ModelConfig(path=str(folder), sha256=pins), cpu)
    for invalid in (pins[:1], [*pins, WHOLE]):
        with pytest.raises(PreflightError) as raised:
            prepare.prepare_model(ModelConfig(path=str(folder), sha256=invalid), cpu)
        assert raised.value.id == "B13"
