"""The placement is explicit and explained, and never falls back to the CPU or to disk silently."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hymt_batch.byte_size import parse_bytes
from hymt_batch.device_map import accelerate_file, manual, network_spec, planner
from hymt_batch.device_map.placement import Placement
from hymt_batch.device_map.select_placement import candidates
from hymt_batch.device_map.settings import (
    Device,
    DeviceInventory,
    DeviceMapConfig,
    Strategy,
    parse_max_memory,
)
from hymt_batch.errors import ConfigError, HymtError, PreflightError
from hymt_batch.model import shapes

GIB = 1 << 30
CPU = Device("cpu", "a CPU", 16 * GIB, bfloat16=False)
SMALL, LARGE = network_spec.from_config(shapes.SMALL), network_spec.from_config(shapes.LARGE)
BIG_CPU = Device("cpu", "a CPU", 200 * GIB, bfloat16=False)


def gpus(*free: float, cpu: Device = CPU) -> DeviceInventory:
    devices = [Device(f"cuda:{index}", "a card", int(gib * GIB), bfloat16=True) for index, gib in enumerate(free)]
    return DeviceInventory((*devices, cpu))


def config(strategy: str, **fields: Any) -> DeviceMapConfig:
    return DeviceMapConfig(strategy=Strategy(strategy), **fields)


def first_candidate(
    config: DeviceMapConfig, inventory: DeviceInventory, network: network_spec.NetworkSpec, dtype_bytes: int
) -> Placement:
    return candidates(config, inventory, network, dtype_bytes)[0]


def refusal(
    error: type[HymtError], strategy: str, inventory: DeviceInventory, network: network_spec.NetworkSpec, **fields: Any
) -> HymtError:
    with pytest.raises(error) as raised:
        first_candidate(config(strategy, **fields), inventory, network, 2)
    return raised.value


def test_a_model_that_fits_one_card_is_not_split() -> None:
    placement = first_candidate(DeviceMapConfig(), gpus(24, 24), SMALL, 2)
    assert placement.map == {"": "cuda:0"}
    assert placement.replicas == (("cuda:0",), ("cuda:1",))
    assert any("not split" in reason for reason in placement.reasons)
    assert "2 GPUs can hold a replica each" in placement.reasons
    assert placement.warnings == ()


def test_a_busy_first_card_is_skipped() -> None:
    assert first_candidate(DeviceMapConfig(), gpus(2, 24), SMALL, 2).device.name == "cuda:1"


@pytest.mark.parametrize("strategy", ["replicate", "single", "auto", "balanced", "balanced_low_0", "sequential"])
def test_without_a_gpu_the_cpu_is_used_and_the_reason_is_given(strategy: str) -> None:
    placement = first_candidate(config(strategy), gpus(), SMALL, 2)
    assert (placement.map, placement.strategy) == ({"": "cpu"}, Strategy.cpu)
    assert placement.reasons == ("this machine has no GPU",)


def test_a_gpu_that_torch_cannot_use_stops_the_job_with_its_cause_unless_the_cpu_is_asked_for() -> None:
    inventory = DeviceInventory((CPU,), "torch is built without CUDA.", "A16")
    with pytest.raises(PreflightError, match=r"built without CUDA\..*device_map=cpu") as raised:
        first_candidate(DeviceMapConfig(), inventory, SMALL, 2)
    assert raised.value.id == "A16"
    assert first_candidate(config("cpu"), inventory, SMALL, 2).device is CPU


def test_a_model_that_fits_no_card_is_refused_with_the_figures_and_what_would_fit() -> None:
    error = refusal(PreflightError, "replicate", gpus(12, 12), LARGE)
    assert error.id == "C23"
    for words in ("13.98 GiB", "12.00 GiB free", "device_map.margin", "device_map=balanced", "device_map=offload"):
        assert words in str(error)
    one_gpu_error = refusal(PreflightError, "replicate", gpus(12), LARGE)
    assert "device_map=balanced" not in str(one_gpu_error)


def test_a_card_is_chosen_by_number() -> None:
    assert first_candidate(config("single", device=1), gpus(24, 24), SMALL, 2).device.name == "cuda:1"
    assert refusal(PreflightError, "single", gpus(24), SMALL, device=3).id == "C26"
    assert refusal(PreflightError, "single", gpus(), SMALL, device=0).id == "A5"
    with pytest.raises(ConfigError, match=r"device_map=single"):
        DeviceMapConfig(device=1)
    for invalid in ("gpu", -1, True, 1.5):
        with pytest.raises(ConfigError, match=r"device_map\.device="):
            config("single", device=invalid)


def test_a_model_that_does_not_fit_the_machines_memory_is_refused_before_it_is_loaded() -> None:
    for strategy in ("cpu", "replicate"):
        error = refusal(PreflightError, strategy, gpus(cpu=Device("cpu", "a CPU", 4 * GIB, False)), LARGE)
        assert error.id == "G1"
        assert "13.98 GiB" in str(error)
        assert "4.00 GiB" in str(error)


def test_splitting_a_model_that_fits_one_card_is_allowed_with_a_warning() -> None:
    placement = first_candidate(config("auto"), gpus(24, 24), SMALL, 2)
    assert placement.devices == ("cuda:0", "cuda:1")
    assert [(warning.id, warning.fix) for warning in placement.warnings] == [("C27", "device_map=replicate")]
    assert "an estimated 2 times the throughput, because" in placement.warnings[0].message
    assert [use.num_layers for use in placement.usage] == [18, 14]
    assert sum(use.weight_bytes for use in placement.usage) == SMALL.num_bytes(2)
    assert not first_candidate(config("auto"), gpus(12, 12), LARGE, 2).warnings


def test_layers_that_do_not_fit_the_cards_are_never_offloaded_silently() -> None:
    error = refusal(PreflightError, "balanced", gpus(8), LARGE)
    assert error.id == "C23"
    assert "layers would silently go to main memory or disk" in str(error)
    limited_error = refusal(PreflightError, "auto", gpus(24, cpu=BIG_CPU), LARGE, max_memory={0: "8GiB"})
    assert limited_error.id == "C8"
    allowed = first_candidate(config("auto", max_memory={0: "8GiB", "cpu": "60GiB"}), gpus(24, cpu=BIG_CPU), LARGE, 2)
    assert allowed.devices == ("cuda:0", "cpu")
    assert [warning.id for warning in allowed.warnings] == ["C9"]


def test_offload_uses_cards_then_memory_then_disk_and_warns_of_the_cost(tmp_path: Path) -> None:
    placement = first_candidate(config("offload"), gpus(12, cpu=BIG_CPU), LARGE, 2)
    assert placement.devices == ("cuda:0", "cpu")
    assert placement.device.name == "cuda:0"
    assert [use.num_layers for use in placement.usage] == [32, 0], (
        "the keys and values of offloaded layers stay on the card"
    )
    assert any("at every step" in warning.what for warning in placement.warnings)
    small_machine = gpus(4, cpu=Device("cpu", "a CPU", 8 * GIB, False))
    assert refusal(PreflightError, "offload", small_machine, LARGE).id == "C8"
    on_disk = first_candidate(config("offload", offload_folder=str(tmp_path)), small_machine, LARGE, 2)
    assert on_disk.devices == ("cuda:0", "cpu", "disk")
    assert (
        refusal(
            PreflightError,
            "offload",
            gpus(),
            SMALL,
            max_memory={"cpu": "1MiB", "disk": "90GiB"},
            offload_folder=str(tmp_path),
        ).id
        == "C17"
    )


def test_layers_on_disk_need_a_writable_folder_with_enough_space(tmp_path: Path) -> None:
    sparse = network_spec.from_config({**shapes.SPARSE, "num_hidden_layers": 4000})
    with pytest.raises(PreflightError, match="converted weights") as raised:
        candidates(config("offload", offload_folder=str(tmp_path)), gpus(24), sparse, 2, resaved=True)
    assert raised.value.id == "G11"
    small_machine = gpus(4, cpu=Device("cpu", "a CPU", 8 * GIB, False))
    folder = tmp_path / "file"
    folder.touch()
    assert refusal(PreflightError, "offload", small_machine, LARGE, offload_folder=str(folder)).id == "G11"
    for unwritable in ("/proc/none", "/sys/none/deeper"):
        assert refusal(PreflightError, "offload", small_machine, LARGE, offload_folder=unwritable).id == "G11"
    limits = {0: "4GiB", "cpu": "8GiB", "disk": "1MiB"}
    with pytest.raises(PreflightError, match=r"max_memory\.disk allows"):
        first_candidate(
            config("offload", max_memory=limits, margin="0", offload_folder=str(tmp_path)), small_machine, LARGE, 2
        )
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert (
            refusal(PreflightError, "offload", small_machine, LARGE, offload_folder=str(tmp_path / "closed")).id
            == "G11"
        )


def test_fallback_takes_the_first_that_fits_and_records_why() -> None:
    order = ["replicate", "balanced", "offload"]
    placements = candidates(config("fallback", order=order), gpus(12, 12, cpu=BIG_CPU), LARGE, 2)
    assert [placement.strategy for placement in placements] == [Strategy.balanced, Strategy.offload]
    assert any("device_map.order" in reason for reason in placements[0].reasons)
    assert any(reason.startswith("replicate: The weights take") for reason in placements[0].reasons)
    error = refusal(PreflightError, "fallback", gpus(2), LARGE, order=["single", "balanced"])
    assert "single: " in str(error)
    assert "balanced: " in str(error)
    for invalid in ([], ["auto", "auto"], ["fallback"], ["best"]):
        with pytest.raises(ConfigError, match=r"device_map\.order"):
            config("fallback", order=invalid)


def test_limits_above_the_free_memory_are_refused_with_both_figures() -> None:
    error = refusal(PreflightError, "auto", gpus(8, cpu=BIG_CPU), LARGE, max_memory={0: "24GiB", "cpu": "60GiB"})
    assert error.id == "C15c"
    assert "8.00 GiB" in str(error)
    assert refusal(PreflightError, "auto", gpus(8), LARGE, max_memory={3: "24GiB"}).id == "C26"


@pytest.mark.parametrize("key", [0, "0", "cuda:0", "cuda"])
def test_a_device_is_the_same_by_number_and_by_text(key: Any) -> None:
    assert parse_max_memory({"cpu": "1GiB", key: "10GiB"}) == {"cuda:0": 10 * GIB, "cpu": GIB}


def test_sizes_are_parsed_with_units() -> None:
    for text, expected in (
        ("10GiB", 10 * GIB),
        ("10gib", 10 * GIB),
        ("1.5 GB", 1_500_000_000),
        ("500MB", 500_000_000),
        ("1024", 1024),
        (2048, 2048),
        ("2TB", 2_000_000_000_000),
    ):
        assert parse_bytes("margin", text) == expected
    for invalid in ("10 gigs", "", "-1GiB", "GiB", True, None, "1e9"):
        with pytest.raises(ConfigError, match="is not a size") as raised:
            parse_bytes("margin", invalid)
        assert raised.value.id == "C6"
    assert parse_max_memory([24, "1GiB"]) == {"cuda:0": 24, "cuda:1": GIB}
    with pytest.raises(ConfigError, match="twice"):
        parse_max_memory({0: 1, "cuda:0": 2})
    for empty in ({}, [], "10GiB"):
        with pytest.raises(ConfigError, match="is not a map"):
            parse_max_memory(empty)


WHOLE = {"model.embed_tokens": 0, "model.layers.0-15": 0, "model.layers.16-31": 1, "model.norm": 1, "lm_head": 0}


def test_a_readable_map_places_ranges_patterns_and_names() -> None:
    placement = first_candidate(config("manual", map=WHOLE), gpus(24, 24), SMALL, 2)
    assert [use.num_layers for use in placement.usage] == [16, 16]
    assert planner.device_of(placement.map, "model.rotary_emb") == "cuda:1", "is placed with the final norm"
    device_map = manual.resolve(manual.read({"*": "cpu", "model.layers.*": 0, "model.layers.1?": 1}), SMALL)
    assert planner.device_of(device_map, "model.layers.9") == "cuda:0"
    assert planner.device_of(device_map, "model.layers.10") == "cuda:1"
    assert planner.device_of(device_map, "lm_head") == "cpu"
    assert manual.resolve(manual.read({"*": 1}), SMALL) == {"": "cuda:1"}
    assert manual.resolve(manual.read({"model": 1, "lm_head": 1}), SMALL) == {"": "cuda:1"}


def test_a_map_may_be_a_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("# by hand\n" + "".join(f"{key}: {value}\n" for key, value in WHOLE.items()), encoding="utf-8")
    assert first_candidate(config("manual", map=str(path)), gpus(24, 24), SMALL, 2).devices == ("cuda:0", "cuda:1")
    path.write_text("- no\n- map\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="does not contain a map"):
        manual.read(str(path))
    path.write_text("a: [\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not YAML"):
        manual.read(str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        manual.read(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("changes", "id", "words"),
    [
        ({"lm_head": None}, "C13", "no device for lm_head"),
        ({"model.layers.16-31": None}, "C13", "and 12 more"),
        ({"lm_head": 1}, "C16", "one weight"),
        ({"transformer.h.0": 0}, "C15", "matches no module"),
        ({"model.layers.0.mlp": 1}, "C24", "would split model.layers.0"),
        ({"model.layers.3.self_attn.q_proj.weight": 1}, "C24", "would split model.layers.3"),
        ({"model.layers.30-40": 1}, "", "not a range"),
        ({"model.layers.9-3": 1}, "", "not a range"),
        ({"model.norm": "gpu"}, "C1", "not a device"),
        ({"model.layers.4-20": 1}, "", "Remove one"),
    ],
)
def test_a_map_that_would_fail_later_is_refused(changes: dict[str, Any], id: str, words: str) -> None:
    entries = {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}
    with pytest.raises(ConfigError, match=words) as raised:
        manual.resolve(manual.read(entries), SMALL)
    assert raised.value.id == id


def test_a_map_of_the_whole_model_to_disk_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole model on disk"):
        manual.resolve(manual.read({"*": "disk"}), SMALL)
    with pytest.raises(ConfigError, match="needs a map"):
        config("manual")
    with pytest.raises(ConfigError, match="no effect"):
        config("auto", map=WHOLE)


ACCELERATE = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: {kind}
downcast_bf16: 'no'
gpu_ids: {gpus}
machine_rank: 0
main_training_function: main
mixed_precision: {precision}
num_machines: 1
num_processes: {processes}
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: {cpu}
"""


def accelerate(folder: Path, **fields: str) -> str:
    settings = {"kind": "MULTI_GPU", "gpus": "1,2", "precision": "bf16", "processes": "2", "cpu": "false", **fields}
    path = folder / "default_config.yaml"
    path.write_text(ACCELERATE.format(**settings), encoding="utf-8")
    return str(path)


def test_an_accelerate_config_sets_gpus_and_precision_and_ignored_settings_are_named(tmp_path: Path) -> None:
    options = accelerate_file.read(accelerate(tmp_path))
    assert (options.gpus, options.dtype, options.use_cpu) == (("cuda:1", "cuda:2"), "bfloat16", False)
    assert [setting.partition("=")[0] for setting in options.ignored] == ["num_processes"]
    assert [device.name for device in options.restrict(gpus(8, 8, 8)).gpus] == ["cuda:1", "cuda:2"]
    with pytest.raises(ConfigError, match="gpu_ids names cuda:1") as raised:
        options.restrict(gpus(8))
    assert raised.value.id == "C26"
    default_options = accelerate_file.read(
        accelerate(tmp_path, gpus="all", precision="'no'", processes="1", kind="'NO'")
    )
    assert default_options == accelerate_file.AccelerateOptions()
    cpu_options = accelerate_file.read(accelerate(tmp_path, kind="FSDP", precision="fp8", cpu="true"))
    assert cpu_options.restrict(gpus(8, 8)).gpus == ()
    assert {setting.partition("=")[0] for setting in cpu_options.ignored} == {
        "distributed_type",
        "mixed_precision",
        "num_processes",
    }


def test_an_accelerate_config_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for content in (None, "[", "- a", ""):
        path = tmp_path / "config.yaml"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"device_map\.accelerate_config"):
            accelerate_file.read(str(path))


def test_the_fullest_device_limits_the_room_for_keys_and_values() -> None:
    placement = first_candidate(config("auto"), gpus(24, 24), SMALL, 2)
    assert placement.free_cache_bytes({"cuda:0": 18 * GIB, "cuda:1": 14 * GIB, "cpu": 0}) == 32 * GIB
    assert placement.free_cache_bytes({"cuda:0": 9 * GIB, "cuda:1": 14 * GIB, "cpu": 0}) == 16 * GIB
    assert first_candidate(config("cpu"), gpus(), SMALL, 2).free_cache_bytes({"cpu": GIB}) == GIB
