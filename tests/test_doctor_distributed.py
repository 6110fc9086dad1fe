"""What launchers leave in the environment, and how the GPUs of one replica reach each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hymt_batch.doctor import distributed
from hymt_batch.doctor.finding import Finding, Level

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


def wrong(found: list[Finding]) -> list[tuple[str, Level]]:
    for one in found:
        bad = one.level in (Level.WARN, Level.FAIL)
        assert bad == bool(one.id) == bool(one.fix), one
    return [(one.id, one.level) for one in found if one.id]


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
def test_a_launcher_of_one_process_is_well(env: dict[str, str]) -> None:
    assert check(env) == [Finding("processes", Level.OK, "one process")]


@pytest.mark.fault(47)
def test_torchrun_with_a_split_model_is_refused_with_the_number_of_copies() -> None:
    found = check(TORCHRUN, "auto", splits=True)
    assert wrong(found) == [("D1", Level.FAIL)]
    assert "torchrun starts 4 processes" in found[0].seen
    assert "same 2 GPUs: 4 copies would share every GPU" in found[0].seen
    assert "hymt-batch translate" in found[0].fix
    assert "device_map=replicate" in found[0].fix


def test_on_several_machines_only_the_processes_of_this_one_share_its_gpus() -> None:
    (found,) = check({**TORCHRUN, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "2"}, "auto", splits=True)
    assert "starts 8 processes" in found.seen
    assert "2 copies would share" in found.seen


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
def test_several_processes_with_one_command_would_do_the_same_job(env: dict[str, str], launcher: str, num: int) -> None:
    found = check(env)
    # tasks of srun and mpirun may have a name= each; all processes of torchrun have one command line
    assert wrong(found) == [("D1", Level.FAIL if launcher == "torchrun" else Level.WARN)]
    assert f"{launcher} starts {num} processes" in found[0].seen
    assert "end with exit 5" in found[0].seen
    assert str(num - 1) in found[0].seen


def test_a_batch_script_for_several_tasks_is_warned_of_srun() -> None:
    found = check({**BATCH, "SLURM_NTASKS": "4"})
    assert wrong(found) == [("D1", Level.WARN)]
    assert found[0].fix.startswith("srun --ntasks=1 ")


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
    done = subprocess.run([*command, str(program), str(tmp_path)], env=env, capture_output=True, check=False)
    if not (tmp_path / "1").exists():
        pytest.skip(f"torchrun does not run here: {done.stderr.decode()[-200:]}")
    for rank in ("0", "1"):
        found = check(json.loads((tmp_path / rank).read_text()), "balanced", splits=True)
        assert wrong(found) == [("D1", Level.FAIL)]
        assert "starts 2 processes" in found[0].seen


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_PROCID"])
@pytest.mark.parametrize("value", ["", "two", "1.0", "-1", "２"])
def test_a_number_of_a_launcher_that_is_none_is_told(name: str, value: str) -> None:
    found = check({name: value})
    assert wrong(found) == [("D2", Level.WARN)]
    assert found[0].seen.startswith(f"{name}={value!r} is not a number")
    assert found[0].fix == f"unset {name}"


@pytest.mark.parametrize(
    "env",
    [{"RANK": "4", "WORLD_SIZE": "1"}, {"SLURM_PROCID": "1", "SLURM_NTASKS": "1"},
     {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}],
)  # fmt: skip
def test_a_rank_outside_of_its_world_is_told(env: dict[str, str]) -> None:
    assert wrong(check(env)) == [("D2", Level.WARN)]


def test_a_world_without_an_address_was_left_over() -> None:
    found = check({"WORLD_SIZE": "4"})
    assert wrong(found) == [("D2", Level.WARN)]
    assert "MASTER_ADDR" in found[0].seen


@pytest.mark.parametrize("name", ["SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"])
@pytest.mark.parametrize(("value", "id"), [(None, "A13"), ("NoDevFiles", "A13"), ("7", "A13"), ("", "D6")])
def test_gpus_of_a_slurm_job_that_are_not_visible_are_told(name: str, value: str | None, id: str) -> None:
    env = {"SLURM_JOB_ID": "12", name: "2"}
    if value is not None:
        env["CUDA_VISIBLE_DEVICES"] = value
    assert wrong(check(env, num_gpus=0)) == [(id, Level.FAIL)]
    assert wrong(check(env, num_gpus=1)) == []
    assert wrong(check(env, "cpu", num_gpus=0)) == []


def test_where_torch_was_not_asked_no_gpu_is_called_missing() -> None:
    assert wrong(check({"SLURM_JOB_ID": "12", "SLURM_JOB_GPUS": "0"}, num_gpus=None)) == []
    (found,) = check(TORCHRUN, "auto", splits=True, num_gpus=None)
    assert "over the same GPUs: 4 copies" in found.seen


def test_a_slurm_job_without_gpus_is_well() -> None:
    assert wrong(check({"SLURM_JOB_ID": "12", "SLURM_GPUS_ON_NODE": "0"}, num_gpus=0)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("ACCELERATE_USE_DEEPSPEED", "true"), ("ACCELERATE_USE_FSDP", "1"), ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")],
)
def test_settings_of_accelerate_that_contradict_a_device_map_are_told(name: str, value: str) -> None:
    found = check({name: value})
    assert wrong(found) == [("D5", Level.WARN)]
    assert found[0].fix == f"unset {name}"


# between GPUs

H100 = ["NVIDIA H100 80GB HBM3"] * 4
TWO = ["cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize("devices", [[], ["cpu"], ["cuda:1"], ["cuda:0", "cpu", "disk"], ["cuda:0", "cuda:0"]])
def test_one_gpu_needs_no_other(devices: list[str]) -> None:
    (found,) = distributed.check_interconnect(devices, None, ["NVIDIA GeForce RTX 4090"] * 2, {})
    assert found.level is Level.OK
    assert "NCCL and P2P are not needed" in found.seen


def test_gpus_that_reach_each_other_are_well() -> None:
    asked: list[tuple[int, int]] = []

    def peers(one: int, other: int) -> bool:
        asked.append((one, other))
        return True

    (found,) = distributed.check_interconnect(["cuda:0", "cuda:2", "cuda:3"], peers, H100, {})
    assert wrong([found]) == []
    assert asked == [(0, 2), (0, 3), (2, 0), (2, 3), (3, 0), (3, 2)]
    assert "NCCL is not needed" in found.seen


def test_each_direction_without_peer_access_is_named() -> None:
    found = distributed.check_interconnect(TWO, lambda one, other: one == 0, H100, {})
    assert wrong(found) == [("C20", Level.WARN)]
    assert "(P2P) for 1->0:" in found[0].seen


def test_many_directions_without_peer_access_stay_one_line() -> None:
    (found,) = distributed.check_interconnect([f"cuda:{number}" for number in range(4)], lambda *_: False, H100, {})
    assert "and 6 more" in found.seen


def test_a_question_that_torch_refuses_counts_as_no() -> None:
    def refuses(one: int, other: int) -> bool:
        raise AssertionError("Invalid device id")

    assert wrong(distributed.check_interconnect(TWO, refuses, H100, {})) == [("C20", Level.WARN)]


@pytest.mark.parametrize(
    ("name", "consumer"),
    [("NVIDIA GeForce RTX 4090", True), ("NVIDIA GeForce RTX 4070 Ti SUPER", True), ("NVIDIA RTX 4000 Ada", False),
     ("NVIDIA GeForce RTX 3090", False), ("NVIDIA L40S", False)],
)  # fmt: skip
def test_consumer_cards_that_claim_peer_access_are_to_be_compared_with_one(name: str, consumer: bool) -> None:
    found = distributed.check_interconnect(TWO, lambda *_: True, [name] * 2, {})
    assert wrong(found) == ([("C20", Level.WARN)] if consumer else [])
    assert not consumer or "device_map=single" in found[-1].fix


def test_peer_access_that_cannot_be_asked_is_skipped_and_nccl_settings_have_no_effect() -> None:
    (found,) = distributed.check_interconnect(TWO, None, H100, {"NCCL_P2P_DISABLE": "1"})
    assert found.level is Level.SKIP
    assert "NCCL_P2P_DISABLE without effect" in found.seen
