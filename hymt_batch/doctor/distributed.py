"""Checks of launchers (how many processes would run this job) and of the links between the GPUs of one replica.

Reads environment variables only; does not import torch. A job is one process, which starts its own workers. A launcher
that starts the same command several times makes several processes compete for one output folder. The failures are C20
and group D of catalogue.toml. srun sets SLURM_STEP_NUM_TASKS for its tasks; a batch script has SLURM_NTASKS and
SLURM_PROCID without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations

from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.launch.task_index import parse_count, torch_processes
from hymt_batch.model.nvidia import hides_all_gpus

TORCH_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM_VARIABLES = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
ACCELERATE_VARIABLES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_DEEPSPEED_ZERO_STAGE")
SLURM_GPU_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")
SINGLE_PROCESS_FIX = (
    "start it once, without a launcher: hymt-batch translate ...; or divide it among the tasks of a SLURM array or a "
    "Kubernetes Indexed Job, with shard.index=auto"
)
CONSUMER_GPU = re.compile(r"\bRTX\s*40[5-9]0\b", re.IGNORECASE)


def check(env: Mapping[str, str], strategy: str, splits: bool, num_gpus: int | None) -> list[Finding]:
    """Check the variables that launchers set.

    Args:
        env: The environment variables.
        strategy: device_map.strategy.
        splits: True if the placement splits one replica over several GPUs.
        num_gpus: Number of GPUs that torch sees; None if unknown.
    """
    findings = [
        *_check_variables(env),
        *_check_processes(env, strategy, splits, num_gpus),
        *_check_slurm_gpus(env, strategy, num_gpus),
    ]
    for name in ACCELERATE_VARIABLES:
        value = env.get(name, "")
        if value and value.lower() not in ("0", "false", "no", "off"):
            seen = f"{name}={value} is incompatible with the device map that hymt-batch applies"
            findings.append(Finding("accelerate", Level.WARN, seen, f"unset {name}", "D5"))
    return findings or [Finding("processes", Level.OK, "one process")]


def _check_variables(env: Mapping[str, str]) -> Iterator[Finding]:
    check = "launcher variables"
    for name in (*TORCH_VARIABLES, *SLURM_VARIABLES):
        if name in env and parse_count(env, name) is None:
            seen = f"{name}={env[name]!r} is not a number of 0 or more; libraries that read it will fail"
            yield Finding(check, Level.WARN, seen, f"unset {name}", "D2")
    for rank, size in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        rank_value, size_value = parse_count(env, rank), parse_count(env, size)
        if rank_value is not None and size_value is not None and rank_value >= size_value:
            seen = f"{rank}={rank_value} is not below {size}={size_value}"
            yield Finding(check, Level.WARN, seen, f"unset {rank} {size}", "D2")
    world = parse_count(env, "WORLD_SIZE") or 1
    if world > 1 and not env.get("MASTER_ADDR"):
        seen = f"WORLD_SIZE={world} without MASTER_ADDR: launchers set both, so it was left over"
        yield Finding(check, Level.WARN, seen, "unset WORLD_SIZE RANK LOCAL_RANK", "D2")


def _check_processes(env: Mapping[str, str], strategy: str, splits: bool, num_gpus: int | None) -> Iterator[Finding]:
    world = torch_processes(env)
    step = parse_count(env, "SLURM_STEP_NUM_TASKS") or 1
    mpi = next((num for name in MPI_VARIABLES if (num := parse_count(env, name) or 1) > 1), 1)
    tasks = parse_count(env, "SLURM_NTASKS") or 1
    if world:
        here = min(world, parse_count(env, "LOCAL_WORLD_SIZE") or world)
        yield _duplicate_job("torchrun", world, here, strategy, splits, num_gpus)
    elif step > 1:
        yield _duplicate_job("srun", step, step, strategy, splits, num_gpus)
    elif mpi > 1:
        yield _duplicate_job("mpirun", mpi, mpi, strategy, splits, num_gpus)
    elif tasks > 1 and "SLURM_PROCID" in env and "SLURM_STEP_NUM_TASKS" not in env:
        seen = f"SLURM_NTASKS={tasks} is fine in a batch script, but under srun {tasks} tasks would run the same job"
        yield Finding("processes", Level.WARN, seen, "srun --ntasks=1 hymt-batch translate ...", "D1")


def _duplicate_job(
    launcher: str, num_processes: int, num_local: int, strategy: str, splits: bool, num_gpus: int | None
) -> Finding:
    """Report several processes with the same command line, `num_local` of them on this machine."""
    if splits and num_gpus != 0:
        gpus = f"{num_gpus} GPUs" if num_gpus else "GPUs"
        seen = (
            f"{launcher} starts {num_processes} processes, and device_map={strategy} makes each of them split the "
            f"model over the same {gpus}: {num_local} copies would share every GPU"
        )
        return Finding(
            "processes", Level.FAIL, seen, f"{SINGLE_PROCESS_FIX} (optionally with device_map=replicate)", "D1"
        )
    if launcher != "torchrun":  # each may have its own name= and source.path=; if not, the lease protects the folder
        seen = (
            f"{launcher} starts {num_processes} processes: correct if each has its own name=; otherwise "
            f"{num_processes - 1} of them end with exit 5"
        )
        return Finding("processes", Level.WARN, seen, SINGLE_PROCESS_FIX, "D1")
    seen = (
        f"{launcher} starts {num_processes} processes of the same job: one gets the lease, {num_processes - 1} end "
        f"with exit 5, and {launcher} then stops the running one"
    )
    return Finding("processes", Level.FAIL, seen, SINGLE_PROCESS_FIX, "D1")


def _check_slurm_gpus(env: Mapping[str, str], strategy: str, num_gpus: int | None) -> Iterator[Finding]:
    variable = next((name for name in SLURM_GPU_VARIABLES if env.get(name, "") not in ("", "0")), None)
    if "SLURM_JOB_ID" not in env or variable is None or num_gpus != 0 or strategy == "cpu":
        return
    value = env.get("CUDA_VISIBLE_DEVICES")
    seen = f"{variable}={env[variable]}, but no GPU is visible"
    if value is not None and not value.strip():
        seen += ": CUDA_VISIBLE_DEVICES is empty, as in a job step without a GPU"
        yield Finding("GPUs of the job", Level.FAIL, seen, "srun --gres=gpu:1, or set device_map=cpu", "D6")
    else:
        if value is not None:
            seen += f" (CUDA_VISIBLE_DEVICES={value}{', which hides all' if hides_all_gpus(value) else ''})"
        fix = "unset CUDA_VISIBLE_DEVICES, or srun --gres=gpu:1, or set device_map=cpu"
        yield Finding("GPUs of the job", Level.FAIL, seen, fix, "A13")


def check_interconnect(
    placement_devices: Sequence[str],
    peer_access: Callable[[int, int], bool] | None,
    names: Sequence[str],
    env: Mapping[str, str],
) -> list[Finding]:
    """Check how the GPUs of one replica pass activations to each other.

    Args:
        placement_devices: Devices of one replica, such as "cuda:0"; may include the CPU and disk.
        peer_access: Returns True if GPU i can access the memory of GPU j (torch's indices); None if unknown.
        names: Hardware names of the GPUs, by torch's index.
        env: The environment variables.
    """
    check = "between GPUs"
    gpu_indices = sorted({int(device[5:]) for device in placement_devices if re.fullmatch(r"cuda:[0-9]+", device)})
    if len(gpu_indices) < 2:
        return [Finding(check, Level.OK, "each replica uses at most one GPU; NCCL and P2P are not needed")]
    canary = "compare with a run on one GPU: device_map=single source.limit=20 name=canary"
    findings = []
    nccl_settings = [name for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if name in env]
    unused = f" ({', '.join(nccl_settings)} without effect)" if nccl_settings else ""
    nccl = f"a single process passes the activations; NCCL is not needed{unused}"
    if peer_access is None:
        findings.append(Finding(check, Level.SKIP, f"peer access (P2P) is unknown; {nccl}"))
    else:
        unreachable = [
            f"{device}->{peer}"
            for device, peer in permutations(gpu_indices, 2)
            if not _has_peer_access(peer_access, device, peer)
        ]
        if unreachable:
            shown = ", ".join(unreachable[:6]) + (f" and {len(unreachable) - 6} more" if len(unreachable) > 6 else "")
            seen = f"no peer access (P2P) for {shown}: activations take the slower way through main memory; {nccl}"
            findings.append(
                Finding(check, Level.WARN, seen, f"device_map=replicate if the model fits; or {canary}", "C20")
            )
        else:
            pairs = len(gpu_indices) * (len(gpu_indices) - 1)
            findings.append(Finding(check, Level.OK, f"peer access (P2P) in all {pairs} directions; {nccl}"))
    consumer_names = sorted(
        {names[device] for device in gpu_indices if device < len(names) and CONSUMER_GPU.search(names[device])}
    )
    if consumer_names:
        seen = (
            f"{', '.join(consumer_names)} does not support P2P; drivers that reported support gave silently wrong text"
        )
        findings.append(Finding(check, Level.WARN, seen, canary, "C20"))
    return findings


def _has_peer_access(peer_access: Callable[[int, int], bool], source: int, target: int) -> bool:
    try:
        return peer_access(source, target)
    except (RuntimeError, ValueError, AssertionError):  # torch raises these if the device or CUDA is missing
        return False
