"""The checks of launcher variables and of the links between the GPUs of one replica."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch.doctor import distributed
from hymt_batch.doctor.finding import Finding, Level
from tests.findings import wrong_levels

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "4",
    "RANK": "1",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
BATCH = {"SLURM_JOB_ID": "12", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_GPUS": "0,1"}


def check(
    env: dict[str, str], strategy: str = "replicate", splits: bool = False, num_gpus: int | None = 2
) -> list[Finding]:
    return distributed.check(env, strategy, splits, num_gpus)


def test_without_a_launcher_there_is_one_process() -> None:
    assert check({"PATH": "/bin"}) == [Finding("processes", Level.OK, "one process")]


@pytest.mark.parametrize(
    "env",
    [
        {**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        BATCH,
        {**BATCH, "SLURM_STEP_NUM_TASKS": "1"},
        {"ACCELERATE_USE_DEEPSPEED": "false", "ACCELERATE_USE_FSDP": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
    ids=["torchrun", "sbatch", "srun", "accelerate", "mpirun"],
)
def test_a_launcher_with_one_process_is_ok(env: dict[str, str]) -> None:
    assert check(env) == [Finding("processes", Level.OK, "one process")]


@pytest.mark.fault(47)
def test_torchrun_with_a_split_model_fails_with_the_number_of_copies() -> None:
    findings = check(TORCHRUN, "auto", splits=True)
    assert wrong_levels(findings) == [("D1", Level.FAIL)]
    assert "torchrun starts 4 processes" in findings[0].seen
    assert "same 2 GPUs: 4 copies would share every GPU" in findings[0].seen
    assert "hymt-batch translate" in findings[0].fix
    assert "device_map=replicate" in findings[0].fix


def test_on_several_machines_only_the_processes_of_this_one_share_its_gpus() -> None:
    (finding,) = check({**TORCHRUN, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}, "auto", splits=True)
    assert "starts 8 processes" in finding.seen
    assert "2 copies would share" in finding.seen


@pytest.mark.parametrize(
    ("env", "launcher", "num"),
    [
        (TORCHRUN, "torchrun", 4),
        ({name: value for name, value in TORCHRUN.items() if name != "TORCHELASTIC_RUN_ID"}, "torchrun", 4),
        ({**BATCH, "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}, "srun", 3),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun", 2),
        ({"PMI_SIZE": "2"}, "mpirun", 2),
    ],
)
@pytest.mark.fault(47)
def test_several_processes_with_one_command_are_reported(env: dict[str, str], launcher: str, num: int) -> None:
    findings = check(env)
    # tasks of srun and mpirun may each have their own name=; all processes of torchrun share one command line
    assert wrong_levels(findings) == [("D1", Level.FAIL if launcher == "torchrun" else Level.WARN)]
    assert f"{launcher} starts {num} processes" in findings[0].seen
    assert "end with exit 5" in findings[0].seen
    assert str(num - 1) in findings[0].seen


def test_a_batch_script_with_several_tasks_gets_a_warning_about_srun() -> None:
    findings = check({**BATCH, "SLURM_NTASKS": "4"})
    assert wrong_levels(findings) == [("D1", Level.WARN)]
    assert findings[0].fix.startswith("srun --ntasks=1 ")


def test_a_real_torchrun_is_recognised(tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(
        "import json, os, pathlib, sys\n"
        "names = ('WORLD', 'RANK', 'LOCAL', 'MASTER', 'TORCHELASTIC')\n"
        "env = {name: value for name, value in os.environ.items() if name.startswith(names)}\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(json.dumps(env))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {name: value for name, value in os.environ.items() if name not in TORCHRUN}
    process = subprocess.run([*command, str(program), str(tmp_path)], env=env, capture_output=True, check=False)
    if not (tmp_path / "1").exists():
        pytest.skip(f"torchrun does not work here: {process.stderr.decode()[-200:]}")
    for rank in ("0", "1"):
        findings = check(json.loads((tmp_path / rank).read_text()), "balanced", splits=True)
        assert wrong_levels(findings) == [("D1", Level.FAIL)]
        assert "starts 2 processes" in findings[0].seen


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID"])
@pytest.mark.parametrize("value", ["", "two", "1.0", "-1", "２"])
def test_a_launcher_variable_that_is_not_a_number_is_reported(name: str, value: str) -> None:
    findings = check({name: value})
    assert wrong_levels(findings) == [("D2", Level.WARN)]
    assert findings[0].seen.startswith(f"{name}={value!r} is not a number")
    assert findings[0].fix == f"unset {name}"


@pytest.mark.parametrize(
    "env",
    [{"RANK": "4", "WORLD_SIZE": "1"}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "1"},
     {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}],
)  # fmt: skip
def test_a_rank_outside_its_world_is_reported(env: dict[str, str]) -> None:
    assert wrong_levels(check(env)) == [("D2", Level.WARN)]


def test_a_world_size_without_an_address_is_reported_as_left_over() -> None:
    findings = check({"WORLD_SIZE": "4"})
    assert wrong_levels(findings) == [("D2", Level.WARN)]
    assert "MASTER_ADDR" in findings[0].seen


@pytest.mark.parametrize("name", ["SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"])
@pytest.mark.parametrize(("value", "id"), [(None, "A13"), ("NoDevFiles", "A13"), ("7", "A13"), ("", "D6")])
def test_invisible_gpus_of_a_slurm_job_are_reported(name: str, value: str | None, id: str) -> None:
    env = {"SLURM_JOB_ID": "12", name: "2"}
    if value is not None:
        env["CUDA_VISIBLE_DEVICES"] = value
    assert wrong_levels(check(env, num_gpus=0)) == [(id, Level.FAIL)]
    assert wrong_levels(check(env, num_gpus=1)) == []
    assert wrong_levels(check(env, "cpu", num_gpus=0)) == []


def test_an_unknown_number_of_gpus_is_not_reported_as_missing() -> None:
    assert wrong_levels(check({"SLURM_JOB_ID": "12", "SLURM_JOB_GPUS": "0"}, num_gpus=None)) == []
    (finding,) = check(TORCHRUN, "auto", splits=True, num_gpus=None)
    assert "over the same GPUs: 4 copies" in finding.seen


def test_a_slurm_job_without_gpus_is_ok() -> None:
    assert wrong_levels(check({"SLURM_JOB_ID": "12", "SLURM_GPUS_ON_NODE": "0"}, num_gpus=0)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("ACCELERATE_USE_DEEPSPEED", "true"), ("ACCELERATE_USE_FSDP", "1"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")],
)
def test_accelerate_settings_that_contradict_a_device_map_are_reported(name: str, value: str) -> None:
    findings = check({name: value})
    assert wrong_levels(findings) == [("D5", Level.WARN)]
    assert findings[0].fix == f"unset {name}"


# between GPUs

H100 = ["NVIDIA H100 80GB HBM3"] * 4
TWO = ["cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize("devices", [[], ["cpu"], ["cuda:1"], ["cuda:0", "cpu", "disk"], ["cuda:0", "cuda:0"]])
def test_one_gpu_does_not_need_peer_access(devices: list[str]) -> None:
    (finding,) = distributed.check_interconnect(devices, None, ["NVIDIA GeForce RTX 4090"] * 2, {})
    assert finding.level is Level.OK
    assert "NCCL and P2P are not needed" in finding.seen


def test_gpus_with_peer_access_are_ok() -> None:
    queried: list[tuple[int, int]] = []

    def peers(source: int, target: int) -> bool:
        queried.append((source, target))
        return True

    (finding,) = distributed.check_interconnect(["cuda:0", "cuda:2", "cuda:3"], peers, H100, {})
    assert wrong_levels([finding]) == []
    assert queried == [(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)]
    assert "NCCL is not needed" in finding.seen


def test_each_direction_without_peer_access_is_named() -> None:
    findings = distributed.check_interconnect(TWO, lambda source, target: source == 0, H100, {})
    assert wrong_levels(findings) == [("C20", Level.WARN)]
    assert "(P2P) for 1->0:" in findings[0].seen


def test_many_directions_without_peer_access_are_shortened() -> None:
    (finding,) = distributed.check_interconnect([f"cuda:{index}" for index in range(4)], lambda *_: False, H100, {})
    assert "and 6 more" in finding.seen


def test_an_error_in_torch_counts_as_no_peer_access() -> None:
    def refuses(source: int, target: int) -> bool:
        raise AssertionError("Invalid device id")

    assert wrong_levels(distributed.check_interconnect(TWO, refuses, H100, {})) == [("C20", Level.WARN)]


@pytest.mark.parametrize(
    ("name", "consumer"),
    [("NVIDIA GeForce RTX 4090", True), ("NVIDIA GeForce RTX 4070 Ti SUPER", True), ("NVIDIA RTX 4000 Ada", False),
     ("NVIDIA GeForce RTX 3090", False), ("NVIDIA L40S", False)],
)  # fmt: skip
def test_consumer_gpus_that_report_peer_access_get_a_warning(name: str, consumer: bool) -> None:
    findings = distributed.check_interconnect(TWO, lambda *_: True, [name] * 2, {})
    assert wrong_levels(findings) == ([("C20", Level.WARN)] if consumer else [])
    assert not consumer or "device_map=single" in findings[-1].fix


def test_unknown_peer_access_is_skipped_and_nccl_settings_have_no_effect() -> None:
    (finding,) = distributed.check_interconnect(TWO, None, H100, {"NCCL_P2P_DISABLE": "1"})
    assert finding.level is Level.SKIP
    assert "NCCL_P2P_DISABLE without effect" in finding.seen
