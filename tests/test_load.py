"""After loading, every weight is there and where it was planned, and the model answers as it must; on CPU and disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.demo import grammar, train
from hymt_batch.device_map import accelerate_file
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import canary, files, hashes, load, prepare, transformers_compat
from hymt_batch.model.prepare import LoadedModel, PreparedModel
from hymt_batch.model.settings import Dtype, ModelConfig
from tests.fp8 import quantise

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)
CPU = DeviceMapConfig(strategy=Strategy.cpu)
TEXTS = [bulletin.en for bulletin in grammar.sample(3, 6)]
MAP = {
    "model.embed_tokens": "cpu",
    "lm_head": "cpu",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.layers.2-3": "disk",
    "model.norm": "cpu",
}


def prepared(device_map: DeviceMapConfig = CPU, path: Path = DEMO, **settings: Any) -> PreparedModel:
    return prepare.prepare_model(ModelConfig(path=str(path), **settings), device_map)


def loaded(one: PreparedModel) -> LoadedModel:
    return one.load(one.load_tokenizer(add_generation_prompt=True))


def translations(hymt: LoadedModel, tgt_lang: str = "fr") -> list[str]:
    """What the model says to the bulletins, one at a time and greedily."""
    import torch

    texts = []
    for text in TEXTS:
        body = hymt.tokenizer.encode([train.prompt(text, tgt_lang)])[0]
        ids = torch.tensor([[*hymt.tokenizer.prefix, *body, *hymt.tokenizer.suffix]])
        with torch.inference_mode():
            out = hymt.network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=200)
        texts += hymt.tokenizer.decode([out[0, ids.shape[1] :].tolist()])
    return texts


@pytest.fixture(scope="module")
def whole() -> list[str]:
    found = translations(loaded(prepared()))
    assert found == [grammar.reference(bulletin, "fr") for bulletin in grammar.sample(3, 6)]
    return found


def test_layers_on_disk_and_in_memory_give_the_text_of_one_device(tmp_path: Path, whole: list[str]) -> None:
    config = DeviceMapConfig(strategy=Strategy.manual, map=MAP, offload_folder=str(tmp_path / "offload"))
    hymt = loaded(prepared(config))
    away = {name for name, weight in hymt.network.named_parameters() if weight.is_meta}
    assert {name.split(".")[2] for name in away} == {"0", "2", "3"}
    assert hymt.placement
    assert [(use.device, use.num_layers) for use in hymt.placement.usage] == [("cpu", 4), ("disk", 0)]
    assert translations(hymt) == whole
    assert transformers_compat.loaded_device_map(hymt.network) == hymt.placement.map


def test_offload_fills_memory_and_then_disk(tmp_path: Path, whole: list[str]) -> None:
    limits = {"cpu": "2.2MiB", "disk": "1GiB"}
    config = DeviceMapConfig(strategy=Strategy.offload, max_memory=limits, offload_folder=str(tmp_path))
    hymt = loaded(prepared(config))
    assert hymt.placement
    assert hymt.placement.devices == ("cpu", "disk")
    assert 0 < sum(weight.is_meta for weight in hymt.network.parameters()) < len(list(hymt.network.parameters()))
    assert translations(hymt) == whole


@pytest.mark.fault(68)
def test_an_offloaded_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little") + header["model.layers.2.mlp.up_proj.weight"]["data_offsets"][0]
    data[start : start + 2] = b"\xc0\x7f"
    (folder / "model.safetensors").write_bytes(data)
    config = DeviceMapConfig(strategy=Strategy.manual, map=MAP, offload_folder=str(tmp_path / "offload"))
    with pytest.raises(PreflightError, match=r"model\.layers\.2\.mlp\.up_proj\.weight holds NaN") as raised:
        loaded(prepared(config, folder))
    assert raised.value.id == "B21"


def test_the_dtype_is_the_one_asked_for() -> None:
    for dtype in (Dtype.float32, Dtype.bfloat16):
        hymt = loaded(prepared(dtype=dtype))
        assert {str(weight.dtype) for weight in hymt.network.parameters()} == {f"torch.{dtype.value}"}
        assert hymt.canary_difference < canary.TOLERANCE[dtype.value] / 5


def test_a_placement_that_runs_out_of_memory_gives_way_to_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    real, tried = transformers_compat.from_pretrained, list[dict[str, str]]()

    def first_fails(folder: Path, device_map: dict[str, str], *rest: Any) -> Any:
        tried.append(device_map)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(folder, device_map, *rest)

    monkeypatch.setattr(transformers_compat, "from_pretrained", first_fails)
    one = prepared(DeviceMapConfig(strategy=Strategy.fallback, order=["replicate", "offload"]))
    assert [placement.strategy for placement in one.placements] == [Strategy.cpu, Strategy.offload]
    hymt = loaded(one)
    assert hymt.placement is one.placements[1]
    assert len(tried) == 2
    assert one.environment_for(hymt.placement)["device_map"]["strategy"] == "offload"
    tried.clear()
    with pytest.raises(PreflightError, match="not enough memory") as raised:
        loaded(prepared())
    assert raised.value.id == "C22"


def test_a_placement_other_than_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared()
    monkeypatch.setattr(transformers_compat, "loaded_device_map", lambda network: {"model": "cpu", "lm_head": "disk"})
    with pytest.raises(PreflightError, match=r"otherwise than planned.*lm_head on disk"):
        loaded(one)


def test_a_weight_that_stayed_on_meta_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    real = transformers_compat.from_pretrained

    def leaves_one(*arguments: Any) -> Any:
        found, info = real(*arguments)
        found.model.norm.weight = torch.nn.Parameter(found.model.norm.weight.to("meta"))
        return found, info

    monkeypatch.setattr(transformers_compat, "from_pretrained", leaves_one)
    with pytest.raises(PreflightError, match=r"model\.norm\.weight was not loaded") as raised:
        loaded(prepared())
    assert raised.value.id == "C3"


class Broken:
    """A loaded network behind one defect."""

    def __init__(self, network: Any, change: Callable[[Any, Any], Any]) -> None:
        self.network, self.change = network, change

    def __call__(self, **inputs: Any) -> Any:
        return self.change(self.network, inputs)


def without_mask(network: Any, inputs: dict[str, Any]) -> Any:
    import torch

    return network(**{**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])})


def nan_when_padded(network: Any, inputs: dict[str, Any]) -> Any:
    output = network(**inputs)
    if not bool(inputs["attention_mask"].all()):
        output.logits[:, -1, 0] = float("nan")
    return output


def always_infinite(network: Any, inputs: dict[str, Any]) -> Any:
    output = network(**inputs)
    output.logits[:] = float("inf")
    return output


@pytest.mark.parametrize(("change", "id"), [(without_mask, "C20"), (nan_when_padded, "E20"), (always_infinite, "E22")])
@pytest.mark.fault(67)
def test_the_canaries_notice_a_network_that_answers_wrong(change: Callable[[Any, Any], Any], id: str) -> None:
    hymt = loaded(prepared())
    assert canary.check(hymt.network, hymt.tokenizer, "cpu", "float32") < 1e-4
    with pytest.raises(PreflightError) as raised:
        canary.check(Broken(hymt.network, change), hymt.tokenizer, "cpu", "float32")
    assert raised.value.id == id


def test_hashes_are_remembered_while_a_file_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = tmp_path / "cache" / "sha256.json", tmp_path / "weights"
    file.write_bytes(b"a" * hashes.SMALL_BYTES)
    first = hashes.compute(tmp_path, ["weights"], cache=cache)
    read: list[Path] = []
    real = hashes._sha256
    monkeypatch.setattr(hashes, "_sha256", lambda path: read.append(path) or real(path))
    assert hashes.compute(tmp_path, ["weights"], cache=cache) == first
    assert not read
    assert hashes.compute(tmp_path, ["weights"], ignore_cache=True, cache=cache) == first
    assert len(read) == 1
    at = file.stat()
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    import os

    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))  # size and time of content as before
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first
    cache.write_text("{", encoding="utf-8")
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first
    cache.unlink()
    cache.mkdir()  # cannot be written: the files are read, and nothing is lost
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first


def test_an_accelerate_config_chooses_the_dtype_where_nobody_else_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "default_config.yaml"
    path.write_text("mixed_precision: bf16\nnum_processes: 4\nuse_cpu: true\n", encoding="utf-8")
    assert accelerate_file.read(str(path)).use_cpu
    one = prepared(DeviceMapConfig(accelerate_config=str(path)))
    assert one.dtype == "bfloat16"
    assert any("num_processes=4" in record.message and "[C25" in record.message for record in caplog.records)
    with caplog.at_level("WARNING"):
        assert prepared(DeviceMapConfig(accelerate_config=str(path)), dtype=Dtype.float32).dtype == "float32"
    assert any("mixed_precision asks for bfloat16" in record.message for record in caplog.records)


def test_versions_are_compared_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("4.56.0", (4, 56, 0)), ("5.0.0rc1", (5, 0, 0)), ("2.13.0+cpu", (2, 13, 0)), ("5", (5,))):
        monkeypatch.setattr("importlib.metadata.version", lambda package, text=text: text)
        assert transformers_compat.installed_version("transformers") == expected
    monkeypatch.undo()
    assert transformers_compat.installed_version("no-such-package") == ()


@pytest.mark.fault(75, 76)
def test_the_load_itself_asks_for_no_code_no_pickle_and_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    asked: dict[str, Any] = {}
    real = transformers.AutoModelForCausalLM.from_pretrained

    def listening(*arguments: Any, **settings: Any) -> Any:
        asked.update(settings)
        return real(*arguments, **settings)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", listening)
    load.load_model(one := prepared(), one.load_tokenizer(add_generation_prompt=True))
    assert (asked["trust_remote_code"], asked["use_safetensors"], asked["local_files_only"]) == (False, True, True)
    assert asked["device_map"] == {"": "cpu"}


def test_an_fp8_checkpoint_loads_with_its_exceptions_and_translates(tmp_path: Path, whole: list[str]) -> None:
    if not transformers_compat.is_satisfied("compressed-tensors>=0.15.0") or transformers_compat.installed_version(
        "transformers"
    ) < (5,):
        pytest.skip("needs compressed-tensors 0.15 and transformers 5, which the floor does not have")
    folder = Path(shutil.copytree(DEMO, tmp_path / "fp8"))
    quantise(folder)
    before = (folder / "config.json").read_bytes()
    one = prepared(path=folder)
    assert one.dtype == "bfloat16"
    assert one.network.num_bytes(2) == prepared().network.num_bytes(2), "FP8 is unpacked in the first step"
    hymt = loaded(one)
    found = translations(hymt)
    assert sum(text == right for text, right in zip(found, whole, strict=True)) >= 5
    assert (folder / "config.json").read_bytes() == before, "ignored_layers is renamed in memory alone"
