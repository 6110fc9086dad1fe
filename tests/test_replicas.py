"""A replica runs on every GPU that holds one, in a worker of its own; idle GPUs are told. The GPUs are simulated."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from hymt_batch import config
from hymt_batch.device_map import replicas
from hymt_batch.device_map.placement import DeviceUsage, Placement
from hymt_batch.device_map.settings import Device, DeviceInventory, DeviceMapConfig, Strategy
from hymt_batch.errors import ConfigError, ExitCode, PreflightError
from hymt_batch.model import detect_devices, prepare
from hymt_batch.run import executor
from hymt_batch.run.worker_process import WorkerProcess
from jobs import translate
from tests.fakes import engine as fake_engine
from tests.fakes import job as fake_job
from tests.fakes import model as fake_model
from tests.fakes import worker as fake_worker
from tests.test_device_map import GIB, LARGE, SMALL, first_candidate, gpus
from tests.test_device_map import config as device_map
from tests.test_workers import corpus, expected, overrides, texts


def placed(strategy: str, *free: float, network: Any = SMALL, **fields: Any) -> Placement:
    return first_candidate(device_map(strategy, **fields), gpus(*free), network, 2)


@pytest.mark.parametrize(
    ("placement", "devices"),
    [
        (placed("replicate", 24, 24, 24), ["cuda:0", "cuda:1", "cuda:2"]),
        (placed("replicate", 24, 2, 24), ["cuda:0", "cuda:2"]),
        (placed("replicate", 24), ["cuda:0"]),
        (placed("fallback", 24, 24), ["cuda:0", "cuda:1"]),
        (placed("single", 24, 24), ["cuda:0"]),
        (placed("single", 24, 24, device=1), ["cuda:1"]),
        (placed("auto", 12, 12, network=LARGE), ["cuda:0", "cuda:1"]),
        (placed("sequential", 24, 24), ["cuda:0"]),
        (placed("cpu", 24, 24), ["cpu"]),
        (placed("replicate"), ["cpu"]),
    ],
)
def test_auto_is_a_replica_on_each_gpu_that_holds_one_and_else_one(placement: Placement, devices: list[str]) -> None:
    choice = replicas.choose("auto", placement, num_cpus=64)
    assert [device for group in choice.devices for device in group] == devices
    assert choice.uses_workers == (len(choice.devices) > 1)
    assert choice.warnings == ()


def test_fewer_workers_than_replicas_leave_gpus_idle_and_one_line_names_the_override() -> None:
    choice = replicas.choose(2, placed("replicate", 24, 24, 24, 24), num_cpus=64)
    assert choice.devices == (("cuda:0",), ("cuda:1",))
    (warning,) = choice.warnings
    assert (warning.fix, warning.id) == ("launch.workers=auto", "C29")
    assert warning.what.startswith("cuda:2, cuda:3 stay idle: each could hold a replica")
    assert replicas.choose(1, placed("replicate", 24, 24), num_cpus=64).uses_workers is False


def test_more_workers_than_replicas_fit_the_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"launch\.workers=3, but only 2 replicas of the model fit the GPUs"):
        replicas.choose(3, placed("replicate", 24, 24), num_cpus=64)
    with pytest.raises(ConfigError, match=r"only 1 replica of the model fits the GPUs with device_map=auto"):
        replicas.choose(2, placed("auto", 12, 12, network=LARGE), num_cpus=64)


def test_workers_on_the_cpu_share_its_cores_and_its_memory() -> None:
    placement = placed("cpu")  # 3.34 GiB of weights, 16 GiB free
    assert len(replicas.choose(3, placement, num_cpus=8).devices) == 3
    in_memory = replicas.choose(8, placement, num_cpus=8)
    assert len(in_memory.devices) == 4
    assert in_memory.warnings[0].what == (
        "launch.workers=8, but a replica takes 3.34 GiB of the 16.00 GiB of free memory: at most 4 workers at a time"
    )
    assert in_memory.warnings[0].fix == "launch.workers=4"
    one = replicas.choose(2, placement, num_cpus=1)
    assert (len(one.devices), one.uses_workers) == (1, True)


@pytest.mark.parametrize(
    ("placement", "idle", "fix"),
    [
        (
            placed("replicate", 24, 3),
            "cuda:1 stays idle: a replica of the model lacks 1.59 GiB on cuda:1",
            "nvidia-smi",
        ),
        (placed("single", 24, 24), "cuda:1 stays idle", "device_map=replicate"),
        (placed("sequential", 24, 24, 24), "cuda:1, cuda:2 stay idle", "device_map=replicate"),
        (placed("offload", 24, 24), "", ""),
    ],
)
def test_gpus_that_the_placement_leaves_idle_are_told(placement: Placement, idle: str, fix: str) -> None:
    told = [warning for warning in placement.warnings if warning.id == "C29"]
    assert len(told) == bool(idle)
    if idle:
        assert told[0].message.startswith(idle)
        assert fix in told[0].fix


@pytest.mark.parametrize(
    "placement",
    [
        placed("single", 24, 24, device=1),
        placed("manual", 24, 24, map={"*": 1}),
        placed("cpu", 24, 24),
        placed("replicate", 24, 24, max_memory={1: "20GiB"}),
        placed("auto", 24, 24, max_memory={1: "20GiB"}),
        placed("replicate", 24, 0),  # detect_devices warns why it cannot be used
    ],
)
def test_gpus_that_the_user_left_out_are_not_told(placement: Placement) -> None:
    assert [warning for warning in placement.warnings if warning.id == "C29"] == []


def simulate(monkeypatch: pytest.MonkeyPatch, *devices: Device) -> None:
    cpu = Device("cpu", "a CPU", 64 * GIB, bfloat16=False)
    monkeypatch.setattr(prepare, "torch_devices", lambda: DeviceInventory((*devices, cpu)))


A100, T4 = Device("cuda:0", "A100", 40 * GIB, bfloat16=True), Device("cuda:1", "T4", 16 * GIB, bfloat16=False)
ACCELERATE = "distributed_type: MULTI_GPU\ngpu_ids: 0,1\nmixed_precision: fp16\n"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["device_map.max_memory={0: 9GiB, 1: 8GiB, cpu: 1GiB}"],
        ["device_map=fallback"],
        ["device_map.accelerate_config=accelerate.yaml"],
    ],
)
def test_a_worker_that_sees_one_gpu_prepares_the_model_of_the_job(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-7")
    (tmp_path / "accelerate.yaml").write_text(ACCELERATE, encoding="utf-8")
    job = config.load("translate", ["model=demo", "source.path=in.txt", "tgt_lang=fr", *words])
    simulate(monkeypatch, A100, T4)
    model = prepare.prepare_model(job.model, job.device_map)
    choice = replicas.choose("auto", model.placement, num_cpus=2)
    specs = executor.worker_specs(job, model, choice)
    assert [(spec.device, spec.variables["CUDA_VISIBLE_DEVICES"]) for spec in specs] == [
        ("cuda:0", "5"),
        ("cuda:1", "GPU-7"),
    ]
    for spec, gpu in zip(specs, (A100, T4), strict=True):
        simulate(monkeypatch, Device("cuda:0", gpu.label, gpu.free_bytes, gpu.bfloat16))
        of_worker = prepare.prepare_model(spec.job.model, spec.job.device_map)
        assert of_worker.identity == model.identity
        assert (of_worker.placement.devices, of_worker.placement.strategy) == (("cuda:0",), Strategy.replicate)
        assert len(of_worker.placements) == 1, "what follows in device_map.order is for all GPUs"
    if words and "max_memory" in words[0]:
        sizes = [spec.job.device_map.max_memory for spec in specs]
        assert sizes == [{"cuda:0": 9 * GIB, "cpu": GIB}, {"cuda:0": 8 * GIB, "cpu": GIB}]


def gpu_placement(num: int) -> Placement:
    return Placement(
        strategy=Strategy.replicate,
        map={"": "cuda:0"},
        device=Device("cuda:0", "a card", GIB, bfloat16=True),
        usage=(DeviceUsage("cuda:0", 1000, 1, "a card"),),
        replicas=tuple((f"cuda:{index}",) for index in range(num)),
        reasons=(),
    )


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Return the indices of the workers that are started; they write their GPUs to `pids`."""
    indices: list[int] = []
    start = WorkerProcess.start
    monkeypatch.setattr(WorkerProcess, "start", lambda index, spec: indices.append(index) or start(index, spec))  # type: ignore[func-returns-value]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("STUB_PIDS", str(tmp_path / "pids"))
    return indices


def run_on_gpus(num: int, folder: Path, *more: str, decode: Any = fake_engine.upper) -> int:
    """Run the job with the stub model on a machine with this many GPUs, each of which holds a replica."""
    job = config.load("translate", overrides(folder, *more))
    placements = (gpu_placement(num), *([fake_model.ON_CPU] if job.device_map.strategy is Strategy.fallback else []))
    model = fake_model.Model(on_gpu=True, placements=placements)
    with fake_job.installed(decode, fake_worker.COMMAND), mock.patch.object(prepare, "prepare_model", lambda *_: model):
        return int(translate.run(job))


def gpus_of_workers(folder: Path) -> set[str]:
    return {line.split()[2] for line in (folder / "pids").read_text(encoding="ascii").splitlines()}


def files(folder: Path) -> list[Any]:
    manifest = json.loads((folder / "job" / "manifest.json").read_text(encoding="utf-8"))
    return [texts(folder), manifest["identity"], manifest["outputs"] if "outputs" in manifest else manifest["files"]]


def test_by_default_each_gpu_has_a_worker_and_the_outputs_are_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    for name in ("one", "three"):
        (tmp_path / name).mkdir()
        corpus(tmp_path / name)
    assert run_on_gpus(1, tmp_path / "one") == ExitCode.COMPLETE
    assert started == []
    monkeypatch.setenv("STUB_PAUSE_S", "0.5")  # so that no worker is done before the others have started
    assert run_on_gpus(3, tmp_path / "three") == ExitCode.COMPLETE
    assert sorted(started) == [0, 1, 2]
    assert gpus_of_workers(tmp_path) == {"0", "1", "2"}
    assert files(tmp_path / "one") == files(tmp_path / "three")


def test_eight_gpus_share_the_parts_although_one_dies_one_is_slow_and_one_has_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    source = corpus(tmp_path)
    monkeypatch.setenv("STUB_GPUS", json.dumps({"1": str(tmp_path / "died"), "3": "slow", "5": "small"}))
    monkeypatch.setenv("STUB_PAUSE_S", "0.4")  # so that no worker is done before the others have started
    assert run_on_gpus(8, tmp_path, "batch.part_rows=2", "check.max_error_rate=0") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source)
    assert set(started) == set(range(8))
    assert started.count(1) == 2, "the worker that died was started again"
    assert len(started) == 9
    lines = [line.split() for line in (tmp_path / "pids").read_text(encoding="ascii").splitlines()]
    batches = Counter(gpu for _, _, gpu in lines)
    assert set(batches) == {str(index) for index in range(8)}
    assert batches["3"] <= min(batches[gpu] for gpu in "02467"), "a part waits for no slow worker"
    manifest = json.loads((tmp_path / "job" / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest["degraded"]) == {"oom_split"}
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


def test_there_are_never_more_workers_than_parts_that_wait(tmp_path: Path, started: list[int]) -> None:
    (tmp_path / "small").mkdir()
    corpus(tmp_path / "small")
    assert run_on_gpus(4, tmp_path / "small", "source.limit=6") == ExitCode.COMPLETE
    assert started == [0]
    source, calls = corpus(tmp_path), [0]

    def fail_in_the_last_part(requests: Sequence[Any], check_stop: Any) -> Any:
        calls[0] += 1
        if calls[0] == 12:
            raise fake_job.Interrupted
        return fake_engine.upper(requests, check_stop)

    with pytest.raises(fake_job.Interrupted):
        run_on_gpus(1, tmp_path, decode=fail_in_the_last_part)
    started.clear()
    assert run_on_gpus(4, tmp_path) == ExitCode.COMPLETE
    assert started == [0], "one part was left"
    assert texts(tmp_path) == expected(source)


@pytest.mark.parametrize(("strict", "code"), [("false", ExitCode.COMPLETE), ("true", ExitCode.WARNINGS)])
def test_a_replica_that_cannot_load_is_told_in_a_line_and_the_others_go_on(
    strict: str,
    code: ExitCode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = corpus(tmp_path)
    monkeypatch.setenv("STUB_BROKEN_GPUS", "1")
    monkeypatch.setenv("STUB_PAUSE_S", "0.5")  # the others are not done before this one is refused
    assert run_on_gpus(3, tmp_path, f"strict={strict}") == code
    assert texts(tmp_path) == expected(source)
    assert started.count(1) == 1, "it is not started again"
    assert "1" not in gpus_of_workers(tmp_path)
    # with strict=true, the last line repeats the first warning as the reason of the exit code
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "hymt-batch: worker=1 on cuda:1 cannot be used" in line
    ]
    assert len(lines) == 1
    assert "worker=1 on cuda:1 cannot be used, 2 other workers go on: GPU 1 is full. Free its memory. [C21" in lines[0]


def test_the_only_part_goes_to_another_gpu_if_the_first_one_cannot_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    corpus(tmp_path)
    monkeypatch.setenv("STUB_BROKEN_GPUS", "0")
    assert run_on_gpus(2, tmp_path, "source.limit=6") == ExitCode.COMPLETE
    assert started == [0, 1]


def test_a_job_of_which_no_replica_can_load_is_refused_with_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    corpus(tmp_path)
    monkeypatch.setenv("STUB_BROKEN_GPUS", "0 1")
    with pytest.raises(PreflightError, match=r"GPU [01] is full") as raised:
        run_on_gpus(2, tmp_path)
    assert raised.value.id == "C21"
    assert sorted(started) == [0, 1]
    assert not list((tmp_path / "job" / ".hymt").glob("attempts/*"))


def test_a_fallback_goes_on_with_the_rest_of_its_order_on_all_gpus_once_no_replica_can_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[int]
) -> None:
    source = corpus(tmp_path)
    monkeypatch.setenv("STUB_BROKEN_GPUS", "0 1")
    assert run_on_gpus(2, tmp_path, "device_map=fallback") == ExitCode.COMPLETE
    assert texts(tmp_path) == expected(source)
    assert sorted(started) == [0, 1, 2]
    assert gpus_of_workers(tmp_path) == {"all"}


def test_a_replica_on_another_gpu_has_the_same_modules_there() -> None:
    placement = placed("replicate", 24, 12)
    second = replicas.place_replica(placement, ("cuda:1",), gpus(24, 12))
    assert (second.map, second.devices, second.device.free_bytes) == ({"": "cuda:1"}, ("cuda:1",), 12 * GIB)
    assert [use.weight_bytes for use in second.usage] == [SMALL.num_bytes(2)]
    assert replicas.place_replica(placement, ("cuda:0",), gpus(24, 12)) == placement


def test_settings_without_limits_stay_as_they_are_in_a_worker() -> None:
    placement = placed("replicate", 24, 24)
    assert replicas.settings_for_worker(DeviceMapConfig(), placement, "cuda:1") == DeviceMapConfig()
    assert detect_devices.simulated_devices(["2x24GiB"]).gpus[1].name == "cuda:1"
