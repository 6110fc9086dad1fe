"""After loading, every weight is present on its planned device and the model computes correctly; on CPU and disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.demo import example, grammar
from hymt_batch.device_map import accelerate_file
from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import PreflightError
from hymt_batch.model import canary, files, hashes, load, prepare, transformers_compat
from hymt_batch.model.load import PreparedModel
from hymt_batch.model.loaded_model import LoadedModel
from hymt_batch.model.settings import Dtype, ModelConfig
from tests.fakes.fp8 import quantise

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


def prepare_demo(device_map: DeviceMapConfig = CPU, path: Path = DEMO, **settings: Any) -> PreparedModel:
    return prepare.prepare_model(ModelConfig(path=str(path), **settings), device_map)


def load_prepared(prepared_model: PreparedModel) -> LoadedModel:
    return prepared_model.load(prepared_model.load_tokenizer(add_generation_prompt=True))


def translations(hymt: LoadedModel, tgt_lang: str = "fr") -> list[str]:
    """Return the model's translations of the bulletins, decoded greedily, one at a time."""
    import torch

    texts = []
    for text in TEXTS:
        body = hymt.tokenizer.encode([example.prompt(text, tgt_lang)])[0]
        ids = torch.tensor([[*hymt.tokenizer.prefix, *body, *hymt.tokenizer.suffix]])
        with torch.inference_mode():
            output = hymt.network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=200)
        texts += hymt.tokenizer.decode([output[0, ids.shape[1] :].tolist()])
    return texts


@pytest.fixture(scope="module")
def expected_texts() -> list[str]:
    texts = translations(load_prepared(prepare_demo()))
    assert texts == [grammar.reference(bulletin, "fr") for bulletin in grammar.sample(3, 6)]
    return texts


def test_layers_on_disk_and_in_memory_give_the_same_text_as_one_device(
    tmp_path: Path, expected_texts: list[str]
) -> None:
    config = DeviceMapConfig(strategy=Strategy.manual, map=MAP, offload_folder=str(tmp_path / "offload"))
    hymt = load_prepared(prepare_demo(config))
    offloaded = {name for name, weight in hymt.network.named_parameters() if weight.is_meta}
    assert {name.split(".")[2] for name in offloaded} == {"0", "2", "3"}
    assert hymt.placement
    assert [(use.device, use.num_layers) for use in hymt.placement.usage] == [("cpu", 4), ("disk", 0)]
    assert translations(hymt) == expected_texts
    assert transformers_compat.loaded_device_map(hymt.network) == hymt.placement.map


def test_offload_fills_memory_and_then_disk(tmp_path: Path, expected_texts: list[str]) -> None:
    limits = {"cpu": "3MiB", "disk": "1GiB"}
    config = DeviceMapConfig(strategy=Strategy.offload, max_memory=limits, offload_folder=str(tmp_path))
    hymt = load_prepared(prepare_demo(config))
    assert hymt.placement
    assert hymt.placement.devices == ("cpu", "disk")
    assert 0 < sum(weight.is_meta for weight in hymt.network.parameters()) < len(list(hymt.network.parameters()))
    assert translations(hymt) == expected_texts


@pytest.mark.fault(68)
def test_an_offloaded_weight_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    start = 8 + int.from_bytes(data[:8], "little") + header["model.layers.2.mlp.up_proj.weight"]["data_offsets"][0]
    data[start : start + 2] = b"\xc0\x7f"
    (folder / "model.safetensors").write_bytes(data)
    config = DeviceMapConfig(strategy=Strategy.manual, map=MAP, offload_folder=str(tmp_path / "offload"))
    with pytest.raises(PreflightError, match=r"model\.layers\.2\.mlp\.up_proj\.weight contains NaN") as raised:
        load_prepared(prepare_demo(config, folder))
    assert raised.value.id == "B21"


def test_the_weights_have_the_requested_dtype() -> None:
    for dtype in (Dtype.float32, Dtype.bfloat16):
        hymt = load_prepared(prepare_demo(dtype=dtype))
        assert {str(weight.dtype) for weight in hymt.network.parameters()} == {f"torch.{dtype.value}"}
        assert hymt.canary_difference < canary.TOLERANCE[dtype.value] / 5


def test_a_placement_that_runs_out_of_memory_is_replaced_by_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    original, tried = transformers_compat.from_pretrained, list[dict[str, str]]()

    def first_fails(folder: Path, device_map: dict[str, str], *arguments: Any) -> Any:
        tried.append(device_map)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(folder, device_map, *arguments)

    monkeypatch.setattr(transformers_compat, "from_pretrained", first_fails)
    prepared_model = prepare_demo(DeviceMapConfig(strategy=Strategy.fallback, order=["replicate", "offload"]))
    assert [placement.strategy for placement in prepared_model.placements] == [Strategy.cpu, Strategy.offload]
    hymt = load_prepared(prepared_model)
    assert hymt.placement is prepared_model.placements[1]
    assert len(tried) == 2
    assert prepared_model.environment_for(hymt.placement)["device_map"]["strategy"] == "offload"
    tried.clear()
    with pytest.raises(PreflightError, match="does not have enough memory") as raised:
        load_prepared(prepare_demo())
    assert raised.value.id == "C22"


def test_a_placement_other_than_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared_model = prepare_demo()
    monkeypatch.setattr(transformers_compat, "loaded_device_map", lambda network: {"model": "cpu", "lm_head": "disk"})
    with pytest.raises(PreflightError, match=r"did not place the model as planned.*lm_head on disk"):
        load_prepared(prepared_model)


def test_a_weight_that_stayed_on_meta_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    original = transformers_compat.from_pretrained

    def load_with_meta_norm(*arguments: Any) -> Any:
        network, info = original(*arguments)
        network.model.norm.weight = torch.nn.Parameter(network.model.norm.weight.to("meta"))
        return network, info

    monkeypatch.setattr(transformers_compat, "from_pretrained", load_with_meta_norm)
    with pytest.raises(PreflightError, match=r"model\.norm\.weight was not loaded") as raised:
        load_prepared(prepare_demo())
    assert raised.value.id == "C3"


class Broken:
    """A loaded network with one injected defect."""

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
def test_the_canary_check_refuses_a_network_that_computes_wrong_logits(
    change: Callable[[Any, Any], Any], id: str
) -> None:
    hymt = load_prepared(prepare_demo())
    assert canary.check(hymt.network, hymt.tokenizer, "cpu", "float32") < 1e-4
    with pytest.raises(PreflightError) as raised:
        canary.check(Broken(hymt.network, change), hymt.tokenizer, "cpu", "float32")
    assert raised.value.id == id


def test_hashes_are_cached_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = tmp_path / "cache" / "sha256.json", tmp_path / "weights"
    file.write_bytes(b"a" * hashes.SMALL_BYTES)
    first = hashes.compute(tmp_path, ["weights"], cache=cache)
    read: list[Path] = []
    original = hashes._sha256
    monkeypatch.setattr(hashes, "_sha256", lambda path: read.append(path) or original(path))
    assert hashes.compute(tmp_path, ["weights"], cache=cache) == first
    assert not read
    assert hashes.compute(tmp_path, ["weights"], ignore_cache=True, cache=cache) == first
    assert len(read) == 1
    status = file.stat()
    data = bytearray(file.read_bytes())
    data[7] ^= 1
    file.write_bytes(data)
    import os

    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and mtime are unchanged
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first
    cache.write_text("{", encoding="utf-8")
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first
    cache.unlink()
    cache.mkdir()  # the cache cannot be written, so the files are read
    assert hashes.compute(tmp_path, ["weights"], cache=cache) != first


def test_an_accelerate_config_sets_the_dtype_if_model_dtype_is_auto(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "default_config.yaml"
    path.write_text("mixed_precision: bf16\nnum_processes: 4\nuse_cpu: true\n", encoding="utf-8")
    assert accelerate_file.read(str(path)).use_cpu
    prepared_model = prepare_demo(DeviceMapConfig(accelerate_config=str(path)))
    assert prepared_model.dtype == "bfloat16"
    assert any("num_processes=4" in record.message and "[C25" in record.message for record in caplog.records)
    with caplog.at_level("WARNING"):
        assert prepare_demo(DeviceMapConfig(accelerate_config=str(path)), dtype=Dtype.float32).dtype == "float32"
    assert any("mixed_precision asks for bfloat16" in record.message for record in caplog.records)


def test_versions_are_compared_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("4.56.0", (4, 56, 0)), ("5.0.0rc1", (5, 0, 0)), ("2.13.0+cpu", (2, 13, 0)), ("5", (5,))):
        monkeypatch.setattr("importlib.metadata.version", lambda package, text=text: text)
        assert transformers_compat.installed_version("transformers") == expected
    monkeypatch.undo()
    assert transformers_compat.installed_version("no-such-package") == ()


@pytest.mark.fault(75, 76)
def test_loading_never_allows_remote_code_pickles_or_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    recorded: dict[str, Any] = {}
    original = transformers.AutoModelForCausalLM.from_pretrained

    def record(*arguments: Any, **settings: Any) -> Any:
        recorded.update(settings)
        return original(*arguments, **settings)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", record)
    load.load_model(prepared_model := prepare_demo(), prepared_model.load_tokenizer(add_generation_prompt=True))
    assert (recorded["trust_remote_code"], recorded["use_safetensors"], recorded["local_files_only"]) == (
        False,
        True,
        True,
    )
    assert recorded["device_map"] == {"": "cpu"}


def test_an_fp8_checkpoint_with_unquantised_layers_loads_and_translates(
    tmp_path: Path, expected_texts: list[str]
) -> None:
    if not transformers_compat.is_satisfied("compressed-tensors>=0.15.0") or transformers_compat.installed_version(
        "transformers"
    ) < (5,):
        pytest.skip("needs compressed-tensors 0.15 and transformers 5, which the oldest supported versions lack")
    folder = Path(shutil.copytree(DEMO, tmp_path / "fp8"))
    quantise(folder)
    original_config = (folder / "config.json").read_bytes()
    prepared_model = prepare_demo(path=folder)
    assert prepared_model.dtype == "bfloat16"
    assert prepared_model.network.num_bytes(2) == prepare_demo().network.num_bytes(2), (
        "FP8 is decompressed in the first step"
    )
    hymt = load_prepared(prepared_model)
    texts = translations(hymt)
    assert sum(text == expected for text, expected in zip(texts, expected_texts, strict=True)) >= 5
    assert (folder / "config.json").read_bytes() == original_config, "ignored_layers is renamed only in memory"
