"""How vLLM runs a model that is split over GPUs: what it is told, what each GPU holds, what is refused. No GPU."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hymt_batch import config
from hymt_batch.decode.engine import UnsupportedError
from hymt_batch.decode.settings import DecodeConfig
from hymt_batch.decode.vllm import parallel
from hymt_batch.decode.vllm.engine import VllmEngine
from hymt_batch.decode.vllm.parallel import Parallelism
from hymt_batch.decode.vllm.process import Installed
from hymt_batch.device_map.network_spec import NetworkSpec
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.settings import DeviceInventory, DeviceMapConfig, Strategy
from hymt_batch.errors import ConfigError
from hymt_batch.model import detect_devices, nvidia, prepare, shapes
from hymt_batch.model.files import ModelFiles
from hymt_batch.model.settings import Dtype, ModelConfig
from jobs import plan
from tests.fakes.engine import make_context
from tests.fakes.model import Model

GIB = 1 << 30
MODEL = "tencent/HY-MT1.5-7B"
MANUAL = {"model.embed_tokens": 0, "model.layers.*": 1, "model.norm": 1, "lm_head": 0}


def files_of(name: str = MODEL) -> ModelFiles:
    files = shapes.published_model(name)
    assert files is not None
    return files


def placed(strategy: str, *devices: str, **settings: Any) -> tuple[Placement, NetworkSpec, DeviceInventory]:
    inventory = detect_devices.simulated_devices([*devices, "cpu:200GiB"])
    device_map = DeviceMapConfig(strategy=Strategy(strategy), **settings)
    model = ModelConfig(path=MODEL, dtype=Dtype.bfloat16)
    found = prepare.plan_placement(model, device_map, inventory, files_of())
    return found.placements[0], found.network, inventory


def resolved(placement: Placement, network: NetworkSpec, inventory: DeviceInventory) -> Parallelism:
    return parallel.resolve(placement, network, files_of().config, 2, inventory)


@pytest.mark.parametrize("strategy", ["auto", "balanced"])
def test_an_even_split_is_tensor_parallelism_and_each_gpu_holds_an_equal_share(strategy: str) -> None:
    placement, network, inventory = placed(strategy, "12GiB", "12GiB")
    split = resolved(placement, network, inventory)
    assert split.options == {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "distributed_executor_backend": "mp",
    }
    assert split.variables == {}
    total = network.num_bytes(2)
    assert [use.weight_bytes for use in split.placement.usage] == [-(-total // 2)] * 2
    # each GPU holds half of the keys and values of a token, so both together have room for those of both
    free = 2 * (12 * GIB - -(-total // 2))
    assert split.placement.predicted_cache_bytes(inventory) == free
    assert split.cache_bytes(1000, 100) == 50_000
    recorded = {"strategy": strategy, "": "cuda:0 + cuda:1"}
    assert split.environment == {"tensor_parallel": 2, "device_map": recorded}


@pytest.mark.parametrize(
    ("strategy", "devices", "settings", "layers"),
    [
        ("sequential", "2x12GiB", {"max_memory": {0: "7GiB", 1: "10.5GiB"}}, (13, 19)),  # vLLM would choose 16 and 16
        ("balanced_low_0", "3x9GiB", {}, (16, 16)),
    ],
)
def test_a_split_between_layers_is_a_pipeline_with_the_layers_of_the_placement(
    strategy: str, devices: str, settings: dict[str, Any], layers: tuple[int, ...]
) -> None:
    placement, network, inventory = placed(strategy, devices, **settings)
    split = resolved(placement, network, inventory)
    assert (split.stage_layers, split.tensor, split.num_gpus) == (layers, 1, len(layers))
    assert split.options["pipeline_parallel_size"] == len(layers)
    assert split.variables == {"VLLM_PP_LAYER_PARTITION": ",".join(map(str, layers))}
    assert split.environment == {"pipeline_parallel": list(layers)}
    assert split.placement.map == placement.map
    # the last stage has the head, which is a copy of the embeddings of the first one if they are tied
    first, *_, last = (use.weight_bytes for use in split.placement.usage)
    sizes = network.module_bytes(2)
    layer = sizes[network.layers[0].name]
    embeddings = sizes["model.embed_tokens"]
    assert first == layers[0] * layer + embeddings
    head = sizes.get("lm_head", 0) or embeddings
    assert last == pytest.approx(layers[-1] * layer + head, rel=1e-4)
    assert split.cache_bytes(1000, sum(layers)) == 1000 * max(layers)


def test_one_device_needs_nothing() -> None:
    for arguments in (("replicate", "40GiB", "40GiB"), ("sequential", "40GiB", "40GiB"), ("cpu",)):
        split = resolved(*placed(*arguments))
        assert (split.num_gpus, split.options, split.variables, split.environment) == (1, {}, {}, {})
        assert split.describe() == ""


def other_label(found: tuple[Placement, NetworkSpec, DeviceInventory]) -> Any:
    first, second = found[0].usage
    return replace(found[0], usage=(first, replace(second, label="another"))), *found[1:]


def less_free(found: tuple[Placement, NetworkSpec, DeviceInventory]) -> Any:
    first, second, cpu = found[2].devices
    return *found[:2], DeviceInventory((first, replace(second, free_bytes=5 * GIB), cpu))


def without_layers(found: tuple[Placement, NetworkSpec, DeviceInventory]) -> Any:
    first, second = found[0].usage
    return replace(found[0], usage=(replace(first, num_layers=32), replace(second, num_layers=0))), *found[1:]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (placed("offload", "8GiB"), "device_map=offload puts weights on cpu"),
        (placed("manual", "20GiB", "20GiB", map=MANUAL), "device_map=manual gives single modules"),
        (placed("balanced", "8GiB", "8GiB", "8GiB"), "3 GPUs cannot share 32 attention heads and 8 key-value heads"),
        (other_label(placed("balanced", "12GiB", "12GiB")), "GPUs of one kind only, and these are simulated and"),
        (less_free(placed("balanced", "12GiB", "12GiB")), r"puts 6\.99 GiB of weights on cuda:1, which has 5\.00"),
        (without_layers(placed("sequential", "10GiB", "12GiB")), "puts no layer on cuda:1"),
    ],
)
def test_what_vllm_cannot_keep_of_a_placement_is_refused_with_the_reason(found: Any, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        resolved(*found)


def test_limits_that_an_equal_share_cannot_keep_are_refused_at_once() -> None:
    words = ["preset=demo", "device_map=balanced", "device_map.max_memory={0: 8GiB, 1: 12GiB}"]
    config.load("translate", words)
    with pytest.raises(ConfigError, match=r"device_map\.max_memory gives GPUs different limits"):
        config.load("translate", [*words, "decode.engine=vllm"])
    config.load("translate", ["decode.engine=vllm", *words[:2], "device_map.max_memory={0: 8GiB, 1: 8GiB}"])
    config.load("translate", ["decode.engine=vllm", words[0], "device_map=sequential", words[2]])


def engine_on(found: tuple[Placement, NetworkSpec, DeviceInventory], monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    placement, network, inventory = found
    monkeypatch.setattr("hymt_batch.decode.vllm.engine.torch_devices", lambda: inventory)
    model: Any = SimpleNamespace(
        placement=placement, network=network, files=files_of(), dtype="bfloat16", dtype_bytes=2, max_context=8192,
        on_gpu=placement.device.name != "cpu", num_threads=None,
    )  # fmt: skip
    context = make_context(
        Model(), model=model, settings=DecodeConfig(engine="vllm"), max_rows="auto", max_tokens="auto"
    )
    installed = Installed("python", {"python": "3.12.1", "vllm": "0.33.1"})
    return VllmEngine(context, model, installed, resolved(*found))


def test_the_engine_gets_the_split_and_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = placed("balanced", "2x12GiB")
    engine = engine_on(found, monkeypatch)
    per_token = found[1].cache_bytes_per_token(2)
    assert engine.options["tensor_parallel_size"] == 2
    assert engine.options["kv_cache_memory_bytes"] == (engine.budget.max_tokens + 256) * per_token // 2
    assert engine.budget.max_tokens * per_token <= engine._split.placement.predicted_cache_bytes(found[2]) // 2
    assert engine.environment["tensor_parallel"] == 2
    whole = engine_on(placed("replicate", "24GiB"), monkeypatch)
    assert "tensor_parallel_size" not in whole.options
    assert whole.options["kv_cache_memory_bytes"] == (whole.budget.max_tokens + 256) * per_token


def test_vllm_sees_the_gpus_of_the_placement_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    second = placed("single", "24GiB", "24GiB", device=1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert engine_on(second, monkeypatch).variables == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    assert engine_on(second, monkeypatch).variables == {"CUDA_VISIBLE_DEVICES": "7"}
    assert engine_on(placed("cpu"), monkeypatch).variables == {}
    pipeline = engine_on(placed("sequential", "10GiB", "12GiB"), monkeypatch)
    assert pipeline.variables["CUDA_VISIBLE_DEVICES"] == "4,7"
    assert "," in pipeline.variables["VLLM_PP_LAYER_PARTITION"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b ,GPU-c")
    assert nvidia.visible_variables(["cuda:2", "cuda:0"]) == {"CUDA_VISIBLE_DEVICES": "GPU-c,GPU-a"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert nvidia.visible_variables(["cuda:2", "cuda:0"]) == {"CUDA_VISIBLE_DEVICES": "2,0"}


def test_a_plan_shows_what_vllm_would_do_and_what_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["model=hy_mt1.5_7b", "device_map=balanced", "devices=[12GiB,12GiB]", "format=json"]
    ours, theirs = [], []
    for found, engine in ((ours, "auto"), (theirs, "vllm")):
        plan.run(config.load("plan", [*words, f"decode.engine={engine}"]))
        found.append(json.loads(capsys.readouterr().out))
    report = theirs[0]
    assert [use["device"] for use in report["per_device"]] == ["cuda:0", "cuda:1"]
    assert len({use["weight_bytes"] for use in report["per_device"]}) == 1
    assert {group["device"] for group in report["placement"]} == {"cuda:0 + cuda:1"}
    assert sum(group["weight_bytes"] for group in report["placement"]) == report["weight_bytes"]
    fitting = {option["strategy"]: option["fits"] for option in report["choices"]}
    assert (fitting["balanced"], fitting["sequential"], fitting["offload"]) == (True, True, True)
    assert len({use["weight_bytes"] for use in ours[0]["per_device"]}) == 2, "ours gives whole layers to GPUs"
    plan.run(config.load("plan", [*words, "decode.engine=vllm", "device_map=offload", "devices=[8GiB]"]))
    report = json.loads(capsys.readouterr().out)
    assert "decode.engine=vllm: device_map=offload puts weights on cpu" in report["refused"]
