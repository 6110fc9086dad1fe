"""Launchers and clusters: how many processes would do this job, and how the GPUs of one replica reach each other.

Knows the environment alone, and no torch. One job is one process (launch starts its own workers); whatever starts the
same command several times makes several owners of one output folder. Source of the failures: reference/hymt.md 3, C20
and D; srun sets SLURM_STEP_NUM_TASKS for its tasks, and a batch script has SLURM_NTASKS and SLURM_PROCID without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations

from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.nvidia import hides_all_gpus

TORCH_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM_VARIABLES = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
ACCELERATE_VARIABLES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_DEEPSPEED_ZERO_STAGE")
SLURM_GPU_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
SINGLE_PROCESS_FIX = "start it once, without a launcher: hymt-batch translate ..."
CONSUMER_GPU = re.compile(r"\bRTX\s*40[5-9]0\b", re.IGNORECASE)


def check(env: Mapping[str, str], strategy: str, splits: bool, num_gpus: int | None) -> list[Finding]:
    """What launchers left in the environment.

    Args:
        env: The environment.
        strategy: device_map.strategy.
        splits: Whether the placement lays one replica over several GPUs.
        num_gpus: GPUs that torch sees; None where it was not asked.
    """
    found = [
        *_check_variables(env),
        *_check_processes(env, strategy, splits, num_gpus),
        *_check_slurm_gpus(env, strategy, num_gpus),
    ]
    for name in ACCELERATE_VARIABLES:
        value = env.get(name, "")
        if value and value.lower() not in ("0", "false", "no", "off"):
            seen = f"{name}={value}: the placement is a device map of ours, and is incompatible with it"
            found.append(Finding("accelerate", Level.WARN, seen, f"unset {name}", "D5"))
    return found or [Finding("processes", Level.OK, "one process")]


def _check_variables(env: Mapping[str, str]) -> Iterator[Finding]:
    check = "launcher variables"
    for name in (*TORCH_VARIABLES, *SLURM_VARIABLES):
        if name in env and _parse_count(env, name) is None:
            seen = f"{name}={env[name]!r} is not a number of 0 or more; libraries that read it fail"
            yield Finding(check, Level.WARN, seen, f"unset {name}", "D2")
    for rank, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        mine, all = _parse_count(env, rank), _parse_count(env, size)
        if mine is not None and all is not None and mine >= all:
            seen = f"{rank}={mine} is not below {size}={all}"
            yield Finding(check, Level.WARN, seen, f"unset {rank} {size}", "D2")
    world = _parse_count(env, "WORLD_SIZE") or 1
    if world > 1 and not env.get("MASTER_ADDR"):
        seen = f"WORLD_SIZE={world} without MASTER_ADDR: no launcher sets that; it was left over"
        yield Finding(check, Level.WARN, seen, "unset WORLD_SIZE RANK LOCAL_RANK", "D2")


def _check_processes(env: Mapping[str, str], strategy: str, splits: bool, num_gpus: int | None) -> Iterator[Finding]:
    world = _parse_count(env, "WORLD_SIZE") or 1
    step = _parse_count(env, "SLURM_STEP_NUM_TASKS") or 1
    mpi = next((num for name in MPI_VARIABLES if (num := _parse_count(env, name) or 1) > 1), 1)
    tasks = _parse_count(env, "SLURM_NTASKS") or 1
    if world > 1 and ("TORCHELASTIC_RUN_ID" in env or "LOCAL_RANK" in env):
        here = min(world, _parse_count(env, "LOCAL_WORLD_SIZE") or world)
        yield _duplicate_job("torchrun", world, here, strategy, splits, num_gpus)
    elif step > 1:
        yield _duplicate_job("srun", step, step, strategy, splits, num_gpus)
    elif mpi > 1:
        yield _duplicate_job("mpirun", mpi, mpi, strategy, splits, num_gpus)
    elif tasks > 1 and "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" not in env:
        seen = f"SLURM_NTASKS={tasks}: right in a batch script; under srun, {tasks} tasks would run the same job"
        yield Finding("processes", Level.WARN, seen, "srun --ntasks=1 hymt-batch translate ...", "D1")


def _duplicate_job(
    launcher: str, num_processes: int, num_local: int, strategy: str, splits: bool, num_gpus: int | None
) -> Finding:
    """Several processes with one command line, `here` of them on this machine."""
    if splits and num_gpus != 0:
        gpus = f"{num_gpus} GPUs" if num_gpus else "GPUs"
        seen = (
            f"{launcher} starts {num_processes} processes, and device_map={strategy} makes each lay the whole model "
            "over the "
            f"same {gpus}: {num_local} copies would share every GPU"
        )
        return Finding(
            "processes", Level.FAIL, seen, f"{SINGLE_PROCESS_FIX} (or, started once, device_map=replicate)", "D1"
        )
    if launcher != "torchrun":  # each may have a name= and a source.path= of its own; the lease protects the others
        seen = (
            f"{launcher} starts {num_processes} processes: right where each has a name= of its own, else "
            f"{num_processes - 1} of them end "
            "with exit 5"
        )
        return Finding("processes", Level.WARN, seen, SINGLE_PROCESS_FIX, "D1")
    seen = (
        f"{launcher} starts {num_processes} processes of the same job: one gets the lease, {num_processes - 1} end "
        "with exit 5, and "
        f"{launcher} then stops the one that works"
    )
    return Finding("processes", Level.FAIL, seen, SINGLE_PROCESS_FIX, "D1")


def _check_slurm_gpus(env: Mapping[str, str], strategy: str, num_gpus: int | None) -> Iterator[Finding]:
    given = next((name for name in SLURM_GPU_VARIABLES if env.get(name, "") not in ("", "0")), None)
    if "SLURM_JOB_ID" not in env or given is None or num_gpus != 0 or strategy == "cpu":
        return
    value = env.get("CUDA_VISIBLE_DEVICES")
    seen = f"{given}={env[given]}, but no GPU is visible"
    if value is not None and not value.strip():
        seen += ": CUDA_VISIBLE_DEVICES is empty, as in a step that got no GPU"
        yield Finding("GPUs of the job", Level.FAIL, seen, "srun --gres=gpu:1, or set device_map=cpu", "D6")
    else:
        if value is not None:
            seen += f" (CUDA_VISIBLE_DEVICES={value}{', which hides all' if hides_all_gpus(value) else ''})"
        fix = "unset CUDA_VISIBLE_DEVICES, or srun --gres=gpu:1, or set device_map=cpu"
        yield Finding("GPUs of the job", Level.FAIL, seen, fix, "A13")


def _parse_count(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "").strip()
    return int(value) if value.isascii() and value.isdecimal() else None


def check_interconnect(
    placement_devices: Sequence[str],
    peer_access: Callable[[int, int], bool] | None,
    names: Sequence[str],
    env: Mapping[str, str],
) -> list[Finding]:
    """How the GPUs of one replica pass activations to each other.

    Args:
        placement_devices: Devices of one replica, such as "cuda:0"; others than GPUs may be among them.
        peer_access: Whether GPU i can read GPU j's memory, by torch's numbers; None where that cannot be asked.
        names: The hardware's own names, by torch's numbers.
        env: The environment.
    """
    check = "between GPUs"
    numbers = sorted({int(one[5:]) for one in placement_devices if re.fullmatch(r"cuda:[0-9]+", one)})
    if len(numbers) < 2:
        return [Finding(check, Level.OK, "a replica uses one device at most; NCCL and P2P are not needed")]
    canary = "compare with one GPU: device_map=single source.limit=20 name=canary"
    found = []
    of_nccl = [name for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if name in env]
    unused = f" ({', '.join(of_nccl)} without effect)" if of_nccl else ""
    nccl = f"one process passes activations itself; NCCL is not needed{unused}"
    if peer_access is None:
        found.append(Finding(check, Level.SKIP, f"peer access (P2P) cannot be asked; {nccl}"))
    else:
        without = [
            f"{one}->{other}"
            for one, other in permutations(numbers, 2)
            if not _has_peer_access(peer_access, one, other)
        ]
        if without:
            shown = ", ".join(without[:6]) + (f" and {len(without) - 6} more" if len(without) > 6 else "")
            seen = f"no peer access (P2P) for {shown}: activations go through main memory, more slowly; {nccl}"
            found.append(
                Finding(check, Level.WARN, seen, f"device_map=replicate if the model fits; or {canary}", "C20")
            )
        else:
            pairs = len(numbers) * (len(numbers) - 1)
            found.append(Finding(check, Level.OK, f"peer access (P2P) for all {pairs} directions; {nccl}"))
    consumer = sorted({names[one] for one in numbers if one < len(names) and CONSUMER_GPU.search(names[one])})
    if consumer:
        seen = f"{', '.join(consumer)} has no P2P; drivers that claimed it gave wrong text without an error"
        found.append(Finding(check, Level.WARN, seen, canary, "C20"))
    return found


def _has_peer_access(peer_access: Callable[[int, int], bool], source: int, target: int) -> bool:
    try:
        return peer_access(source, target)
    except (RuntimeError, ValueError, AssertionError):  # torch's words for: no such device, no CUDA
        return False
