"""An incomplete or unsafe model folder is refused before any weight is read, and the message names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hymt_batch.device_map.settings import DeviceMapConfig, Strategy
from hymt_batch.errors import ConfigError, PreflightError
from hymt_batch.model import files, hashes, prepare, tokenizer
from hymt_batch.model.settings import Attention, ModelConfig

pytestmark = pytest.mark.core

DEMO, _ = files.resolve("demo:model", "main", download=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO, tmp_path / "model"))


def test_the_demo_model_is_complete(folder: Path) -> None:
    model = files.verify(folder)
    assert 500_000 < model.num_parameters < 1_500_000
    assert model.num_bytes == 2 * model.num_parameters
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= set(hashes.compute(folder, model.file_names))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.fault(66, 67)
def test_each_kind_of_damage_is_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    original = weights.read_bytes()
    damages = [
        (original[:-1], "is truncated"),
        (original[:100], "is truncated"),
        (b"", "is truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git-LFS pointer"),
        (original[:8] + b"{" * 50 + original[58:], "damaged header"),
        (original + b"x", "its header declares"),
        (b"\x02" + bytes(7) + b"[]", "describes no tensors"),
        (b"\x02" + bytes(7) + b"{}", "no weights at all"),
        (b"\x09" + bytes(7) + b'{"a": {}}', "describes no tensors"),
    ]
    for content, words in damages:
        weights.write_bytes(content)
        with pytest.raises(PreflightError, match=words):
            files.verify(folder)


@pytest.mark.fault(75, 76)
def test_unsupported_model_types_custom_code_and_pickles_are_refused(folder: Path) -> None:
    config = folder / "config.json"
    edit(config, auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(PreflightError, match="auto_map"):
        files.verify(folder)
    edit(config, model_type="llama")
    with pytest.raises(PreflightError, match="model_type is 'llama'"):
        files.verify(folder)
    config.write_text("[]", encoding="utf-8")
    with pytest.raises(PreflightError, match="not an object"):
        files.verify(folder)
    config.unlink()
    with pytest.raises(PreflightError, match=r"config\.json is missing"):
        files.verify(folder)
    shutil.copy(DEMO / "config.json", config)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(PreflightError, match="never loaded"):
        files.verify(folder)


@pytest.mark.fault(66, 77)
def test_an_index_that_names_missing_files_or_files_outside_the_folder_is_refused(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "model.safetensors"}}), encoding="utf-8")
    with pytest.raises(PreflightError, match="only one of them would be loaded"):
        files.verify(folder)
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    for empty in ({}, [], None):
        index.write_text(json.dumps({"weight_map": empty}), encoding="utf-8")
        with pytest.raises(PreflightError, match="lists no weights"):
            files.verify(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../evil.safetensors"}}), encoding="utf-8")
    with pytest.raises(PreflightError, match="is outside the folder"):
        files.verify(folder)
    index.write_text(json.dumps({"weight_map": {"x": "other.safetensors"}}), encoding="utf-8")
    with pytest.raises(PreflightError, match=r"other\.safetensors is missing"):
        files.verify(folder)


def test_a_hub_model_that_is_not_in_the_cache_names_the_download_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(PreflightError, match=r"hf download tencent/HY-MT1\.5-1\.8B --revision main"):
        files.resolve("tencent/HY-MT1.5-1.8B", "main", download=False)


def test_a_path_that_is_not_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="neither a folder nor a hub id"):
        files.resolve("/nowhere/at/all", "main", download=False)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        files.resolve(str(tmp_path / "file"), "main", download=False)


def test_weights_under_another_name_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(PreflightError, match="neither model"):
        files.verify(folder)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", "{}", "tokenizer cannot be used"),
        ("tokenizer_config.json", "[", "tokenizer cannot be used"),
        ("generation_config.json", "[]", "not an object"),
        ("generation_config.json", '{"eos_token_id": "x"}', "not a list of token ids"),
    ],
)
@pytest.mark.fault(67)
def test_a_damaged_tokenizer_is_named(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(PreflightError, match=words):
        tokenizer.load(folder, files.verify(folder).config, add_generation_prompt=True)


def test_a_config_that_does_not_match_the_weights_is_refused(folder: Path) -> None:
    prepared = prepare.prepare_model(ModelConfig(path=str(folder)), DeviceMapConfig(strategy=Strategy.cpu))
    loaded_tokenizer = prepared.load_tokenizer(add_generation_prompt=True)
    for changes in ({"num_hidden_layers": "x"}, {"num_hidden_layers": 5}, {"hidden_size": 64}):
        shutil.copy(DEMO / "config.json", folder / "config.json")
        edit(folder / "config.json", **changes)
        with pytest.raises(PreflightError, match=r"cannot be loaded|do not match"):
            prepared.load(loaded_tokenizer)


@pytest.mark.fault(68)
def test_a_weight_that_is_not_finite_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xc0\x7f"  # the last weight becomes NaN
    path.write_bytes(content)
    prepared = prepare.prepare_model(ModelConfig(path=str(folder)), DeviceMapConfig(strategy=Strategy.cpu))
    with pytest.raises(PreflightError, match="NaN or infinity"):
        prepared.load(prepared.load_tokenizer(add_generation_prompt=True))


@pytest.mark.fault(67)
def test_the_weights_can_be_pinned_by_their_sha256(folder: Path) -> None:
    digests = hashes.compute(folder, files.verify(folder).file_names)
    cpu = DeviceMapConfig(strategy=Strategy.cpu)
    prepare.prepare_model(ModelConfig(path=str(folder), sha256=digests["model.safetensors"]), cpu)
    with pytest.raises(PreflightError, match=r"model\.sha256=null"):
        prepare.prepare_model(ModelConfig(path=str(folder), sha256=digests["config.json"]), cpu)


def test_a_missing_package_for_attention_is_named(folder: Path) -> None:
    config = ModelConfig(path=str(folder), attention=Attention.flash_attention_2)
    with pytest.raises(PreflightError, match=r"model\.attention=sdpa"):
        prepare.prepare_model(config, DeviceMapConfig(strategy=Strategy.cpu))
