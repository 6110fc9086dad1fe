"""Whether torch can use the cards of the machine. Knows no torch: what it sees comes in as plain values.

Source of the failures: reference/hymt.md 3, A and D. A torch runs on every driver of its own major version of CUDA or a
newer one (CUDA's minor version compatibility), so that an older minor version is no failure while torch sees the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hymt_batch.doctor.finding import Finding, Level
from hymt_batch.model.nvidia import Gpu, NvidiaInfo, hides_all_gpus, visible_gpus

BFLOAT16_CAPABILITY, FLOAT16_CAPABILITY = (
    (8, 0),
    (7, 0),
)  # first compute capabilities with native arithmetic at full speed


def check(
    nvidia: NvidiaInfo | None,
    torch_cuda: str | None,
    torch_gpus: int,
    env: Mapping[str, str],
    dtype: str,
    has_device_files: bool,
    wants_gpu: bool = True,
) -> list[Finding]:
    """Whether torch can use the cards that the machine has.

    Args:
        nvidia: What nvidia-smi says; None where there is none.
        torch_cuda: torch.version.cuda; None for a torch built without CUDA.
        torch_gpus: GPUs that torch sees; 0 where CUDA is not available.
        env: The environment.
        dtype: model.dtype.
        gpu_files: Whether the machine has device files of a card, such as /dev/nvidia0.
        wants_gpu: False for device_map=cpu.
    """
    if not wants_gpu:
        return [Finding("GPU", Level.SKIP, "device_map=cpu asks for the CPU"), _check_cpu_dtype(dtype)]
    value = env.get("CUDA_VISIBLE_DEVICES")
    gpus = nvidia.gpus if nvidia else ()
    if not gpus and not has_device_files and not torch_gpus:
        seen = "none in this machine: the CPU is used, many times slower"
        return [Finding("GPU", Level.WARN, seen, "device_map=cpu", "A6"), _check_cpu_dtype(dtype)]
    left, odd = visible_gpus(gpus, value)
    hidden = not torch_gpus and (not left if gpus else hides_all_gpus(value))
    variable = _check_visible_devices(gpus, left, odd, hidden, env)
    works = _check_driver(nvidia, torch_cuda, torch_gpus, hidden, left)
    if torch_gpus:
        return [variable, works, _check_gpu_dtype(dtype, left)]
    return [variable, works, Finding("dtype", Level.SKIP, "no GPU that torch can use")]


def _check_visible_devices(
    gpus: Sequence[Gpu], usable: Sequence[Gpu], problem: str, hidden: bool, env: Mapping[str, str]
) -> Finding:
    check, value = "CUDA_VISIBLE_DEVICES", env.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return Finding(check, Level.OK, f"not set: all {len(gpus)} GPUs" if gpus else "not set: all GPUs")
    if hidden:
        fix = "unset CUDA_VISIBLE_DEVICES, or set device_map=cpu"
        if "SLURM_JOB_ID" in env:
            fix = "ask for a GPU (sbatch --gres=gpu:1), or set device_map=cpu"
        why = problem or "it hides every GPU"
        return Finding(check, Level.FAIL, f"{value!r}: {why}", fix, "A13" if value.strip() else "D6")
    if not gpus:
        return Finding(check, Level.OK, f"{value!r}; without nvidia-smi its GPUs are not known")
    if problem:
        fix = f"CUDA_VISIBLE_DEVICES={','.join(str(gpu.index) for gpu in usable or gpus)}"
        return Finding(check, Level.WARN, f"{value!r}: {problem}", fix, "A13")
    names = ", ".join(f"cuda:{number} = {gpu.name}" for number, gpu in enumerate(usable))
    mixed = len({gpu.name for gpu in gpus}) > 1 and len(usable) < len(gpus)
    if mixed and value.strip()[0].isdecimal() and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        seen = f"{value!r} counts the fastest GPU first, not as nvidia-smi does, and the GPUs differ"
        return Finding(check, Level.WARN, seen, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "A13")
    return Finding(check, Level.OK, f"{value!r}: {names}")


def _check_driver(
    nvidia: NvidiaInfo | None, torch_cuda: str | None, torch_gpus: int, hidden: bool, usable: Sequence[Gpu]
) -> Finding:
    check = "torch and driver"
    driver = f"driver {nvidia.driver} (CUDA {nvidia.cuda or 'not told'})" if nvidia else "driver not told"
    build = f"torch built for CUDA {torch_cuda}" if torch_cuda else "torch built without CUDA"
    if torch_gpus and torch_gpus < len(usable):
        fix = "run nvidia-smi, and mend what it reports of the others"
        return Finding(check, Level.WARN, f"torch sees {torch_gpus} of {len(usable)} GPUs; {driver}", fix, "A13")
    if torch_gpus:
        return Finding(check, Level.OK, f"{build}, {driver}: {torch_gpus} GPUs")
    newest = nvidia.cuda if nvidia and nvidia.cuda else ""
    other = f"install a torch built for CUDA {newest} or older" if newest else "install a torch built for CUDA"
    if torch_cuda is None:
        seen = f"{build}, but nvidia-smi sees {len(nvidia.gpus)} GPUs" if nvidia and nvidia.gpus else ""
        seen = seen or f"{build}, but the machine has a GPU (/dev/nvidia0)"
        return Finding(
            check, Level.FAIL, seen, f"{other}, or set device_map=cpu", "A16" if nvidia and nvidia.gpus else "A4"
        )
    if newest and _version_tuple(torch_cuda)[:1] > _version_tuple(newest)[:1]:
        fix = f"{other}, or update the driver, or set device_map=cpu"
        return Finding(check, Level.FAIL, f"{build}, but {driver} is older", fix, "A3")
    if hidden:
        return Finding(check, Level.SKIP, "CUDA_VISIBLE_DEVICES hides every GPU")
    older = " is older" if newest and _version_tuple(torch_cuda) > _version_tuple(newest) else ": torch sees no GPU"
    fix = f"{other}, or update the driver" if newest else "run nvidia-smi, and mend what it reports"
    cause = "python -c 'import torch; torch.cuda.init()' tells the cause"
    return Finding(check, Level.FAIL, f"{build}, but {driver}{older}", f"{fix} ({cause}), or set device_map=cpu", "A3")


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _check_gpu_dtype(dtype: str, gpus: Sequence[Gpu]) -> Finding:
    known = [gpu for gpu in gpus if gpu.capability]
    floor, id = (BFLOAT16_CAPABILITY, "A12") if dtype == "bfloat16" else (FLOAT16_CAPABILITY, "C28")
    old = [gpu for gpu in known if (gpu.capability or floor) < floor]
    if dtype in ("bfloat16", "float16") and old:
        has = ".".join(map(str, old[0].capability or ()))
        seen = f"{dtype} has no native arithmetic on {old[0].name} (capability {has}): it works, but slowly"
        return Finding("dtype", Level.WARN, seen, "model.dtype=auto", id)
    if not known:
        return Finding("dtype", Level.OK, f"{dtype}; the GPU's capability is not known")
    if dtype == "auto":
        dtype = "bfloat16" if all((gpu.capability or (0, 0)) >= BFLOAT16_CAPABILITY for gpu in known) else "float32"
        return Finding("dtype", Level.OK, f"auto is {dtype} here")
    return Finding("dtype", Level.OK, f"{dtype} is native on {known[0].name}")


def _check_cpu_dtype(dtype: str) -> Finding:
    if dtype in ("bfloat16", "float16"):
        seen = f"{dtype} on the CPU takes half the memory of float32, but most CPUs compute it more slowly"
        return Finding("dtype", Level.WARN, seen, "model.dtype=float32", "C28")
    return Finding("dtype", Level.OK, "float32 on the CPU")
