"""The placement is explicit, explained, and never falls back to the CPU in silence."""

from __future__ import annotations

import pytest

from hymt_batch.device_map import Census, Device, DeviceMapConfig, Strategy, place
from hymt_batch.errors import ConfigError, PreflightError

GIB = 1 << 30
CPU = Device("cpu", "a CPU", 16 * GIB, bfloat16=False)


def gpus(*free: float) -> Census:
    cards = [Device(f"cuda:{n}", "a card", int(gib * GIB), bfloat16=True) for n, gib in enumerate(free)]
    return Census((*cards, CPU))


def test_a_model_that_fits_one_card_is_not_split() -> None:
    placement = place(DeviceMapConfig(), gpus(24, 24), 4 * GIB)
    assert placement.map == {"": "cuda:0"}
    assert any("not split" in reason for reason in placement.reasons)
    assert any("stay idle" in reason for reason in placement.reasons)


def test_a_busy_first_card_is_passed_over() -> None:
    assert place(DeviceMapConfig(), gpus(2, 24), 4 * GIB).device.name == "cuda:1"


def test_without_a_gpu_the_cpu_is_used() -> None:
    assert place(DeviceMapConfig(), Census((CPU,)), GIB).map == {"": "cpu"}


def test_a_gpu_that_torch_cannot_use_stops_the_job_with_its_cause_unless_the_cpu_is_asked_for() -> None:
    broken = Census((CPU,), "torch is built without CUDA.")
    with pytest.raises(PreflightError, match=r"built without CUDA\..*device_map=cpu"):
        place(DeviceMapConfig(), broken, GIB)
    assert place(DeviceMapConfig(strategy=Strategy.cpu), broken, GIB).device is CPU


def test_a_model_that_does_not_fit_is_refused_with_the_figures() -> None:
    with pytest.raises(PreflightError, match=r"14\.00 GiB.*8\.00 GiB free"):
        place(DeviceMapConfig(), gpus(8), 14 * GIB)


def test_a_card_is_chosen_by_number() -> None:
    assert place(DeviceMapConfig(strategy=Strategy.single, device=1), gpus(24, 24), GIB).device.name == "cuda:1"
    with pytest.raises(PreflightError, match=r"device_map\.device=3"):
        place(DeviceMapConfig(strategy=Strategy.single, device=3), gpus(24), GIB)
    with pytest.raises(ConfigError, match=r"device_map=single"):
        DeviceMapConfig(device=1)
    with pytest.raises(ConfigError, match=r"device_map\.device=gpu"):
        DeviceMapConfig(strategy=Strategy.single, device="gpu")


def test_a_model_that_does_not_fit_the_machines_memory_is_refused_before_it_is_loaded() -> None:
    for strategy in (Strategy.cpu, Strategy.replicate):
        with pytest.raises(PreflightError, match=r"30\.00 GiB.*16\.00 GiB"):
            place(DeviceMapConfig(strategy=strategy), Census((CPU,)), 30 * GIB)
