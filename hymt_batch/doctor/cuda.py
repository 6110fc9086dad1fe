"""Checks that torch can use the GPUs of this machine. Does not import torch: callers pass in what torch sees.

The failures are groups A and D of catalogue.toml. A torch build runs on any driver for its own or a newer major
version of CUDA (CUDA's minor version compatibility). A driver for an older minor version is therefore not a failure as
long as torch sees the GPU.
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
    """Check that torch can use the GPUs of this machine.

    Args:
        nvidia: The result of nvidia-smi; None if it is not available.
        torch_cuda: torch.version.cuda; None if torch was built without CUDA.
        torch_gpus: Number of GPUs that torch sees; 0 if CUDA is not available.
        env: The environment variables.
        dtype: model.dtype.
        has_device_files: True if the machine has device files of a GPU, such as /dev/nvidia0.
        wants_gpu: False for device_map=cpu.
    """
    if not wants_gpu:
        return [Finding("GPU", Level.SKIP, "not needed: device_map=cpu uses the CPU"), _check_cpu_dtype(dtype)]
    value = env.get("CUDA_VISIBLE_DEVICES")
    gpus = nvidia.gpus if nvidia else ()
    if not gpus and not has_device_files and not torch_gpus:
        seen = "this machine has no GPU; the CPU is used, which is many times slower"
        return [Finding("GPU", Level.WARN, seen, "device_map=cpu", "A6"), _check_cpu_dtype(dtype)]
    usable, problem = visible_gpus(gpus, value)
    all_hidden = not torch_gpus and (not usable if gpus else hides_all_gpus(value))
    visible_finding = _check_visible_devices(gpus, usable, problem, all_hidden, env)
    driver_finding = _check_driver(nvidia, torch_cuda, torch_gpus, all_hidden, usable)
    if torch_gpus:
        return [visible_finding, driver_finding, _check_gpu_dtype(dtype, usable)]
    return [visible_finding, driver_finding, Finding("dtype", Level.SKIP, "no GPU that torch can use")]


def _check_visible_devices(
    gpus: Sequence[Gpu], usable: Sequence[Gpu], problem: str, all_hidden: bool, env: Mapping[str, str]
) -> Finding:
    check, value = "CUDA_VISIBLE_DEVICES", env.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return Finding(check, Level.OK, f"not set: all {len(gpus)} GPUs" if gpus else "not set: all GPUs")
    if all_hidden:
        fix = "unset CUDA_VISIBLE_DEVICES, or set device_map=cpu"
        if "SLURM_JOB_ID" in env:
            fix = "request a GPU (sbatch --gres=gpu:1), or set device_map=cpu"
        why = problem or "it hides every GPU"
        return Finding(check, Level.FAIL, f"{value!r}: {why}", fix, "A13" if value.strip() else "D6")
    if not gpus:
        return Finding(check, Level.OK, f"{value!r}; its GPUs are unknown without nvidia-smi")
    if problem:
        fix = f"CUDA_VISIBLE_DEVICES={','.join(str(gpu.index) for gpu in usable or gpus)}"
        return Finding(check, Level.WARN, f"{value!r}: {problem}", fix, "A13")
    names = ", ".join(f"cuda:{index} = {gpu.name}" for index, gpu in enumerate(usable))
    mixed = len({gpu.name for gpu in gpus}) > 1 and len(usable) < len(gpus)
    if mixed and value.strip()[0].isdecimal() and env.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        seen = f"{value!r}: CUDA numbers the fastest GPU first, unlike nvidia-smi, and the GPUs differ"
        return Finding(check, Level.WARN, seen, "CUDA_DEVICE_ORDER=PCI_BUS_ID", "A13")
    return Finding(check, Level.OK, f"{value!r}: {names}")


def _check_driver(
    nvidia: NvidiaInfo | None, torch_cuda: str | None, torch_gpus: int, all_hidden: bool, usable: Sequence[Gpu]
) -> Finding:
    check = "torch and driver"
    driver = f"driver {nvidia.driver} (CUDA {nvidia.cuda or 'not known'})" if nvidia else "driver not known"
    build = f"torch built for CUDA {torch_cuda}" if torch_cuda else "torch built without CUDA"
    if torch_gpus and torch_gpus < len(usable):
        fix = "run nvidia-smi and fix what it reports about the other GPUs"
        return Finding(check, Level.WARN, f"torch sees {torch_gpus} of {len(usable)} GPUs; {driver}", fix, "A13")
    if torch_gpus:
        return Finding(check, Level.OK, f"{build}, {driver}: {torch_gpus} GPUs")
    newest = nvidia.cuda if nvidia and nvidia.cuda else ""
    reinstall = f"install a torch built for CUDA {newest} or older" if newest else "install a torch built for CUDA"
    if torch_cuda is None:
        seen = f"{build}, but nvidia-smi sees {len(nvidia.gpus)} GPUs" if nvidia and nvidia.gpus else ""
        seen = seen or f"{build}, but the machine has a GPU (/dev/nvidia0)"
        return Finding(
            check, Level.FAIL, seen, f"{reinstall}, or set device_map=cpu", "A16" if nvidia and nvidia.gpus else "A4"
        )
    if newest and _version_tuple(torch_cuda)[:1] > _version_tuple(newest)[:1]:
        fix = f"{reinstall}, or update the driver, or set device_map=cpu"
        return Finding(check, Level.FAIL, f"{build}, but {driver} is older", fix, "A3")
    if all_hidden:
        return Finding(check, Level.SKIP, "CUDA_VISIBLE_DEVICES hides every GPU")
    older = " is older" if newest and _version_tuple(torch_cuda) > _version_tuple(newest) else ": torch sees no GPU"
    fix = f"{reinstall}, or update the driver" if newest else "run nvidia-smi and fix what it reports"
    cause = "python -c 'import torch; torch.cuda.init()' prints the cause"
    return Finding(check, Level.FAIL, f"{build}, but {driver}{older}", f"{fix} ({cause}), or set device_map=cpu", "A3")


def _version_tuple(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _check_gpu_dtype(dtype: str, gpus: Sequence[Gpu]) -> Finding:
    known = [gpu for gpu in gpus if gpu.capability]
    minimum, id = (BFLOAT16_CAPABILITY, "A12") if dtype == "bfloat16" else (FLOAT16_CAPABILITY, "C28")
    too_old = [gpu for gpu in known if (gpu.capability or minimum) < minimum]
    if dtype in ("bfloat16", "float16") and too_old:
        capability = ".".join(map(str, too_old[0].capability or ()))
        seen = f"{too_old[0].name} (capability {capability}) has no native {dtype} arithmetic: it works, but slowly"
        return Finding("dtype", Level.WARN, seen, "model.dtype=auto", id)
    if not known:
        return Finding("dtype", Level.OK, f"{dtype}; the compute capability of the GPU is unknown")
    if dtype == "auto":
        dtype = "bfloat16" if all((gpu.capability or (0, 0)) >= BFLOAT16_CAPABILITY for gpu in known) else "float32"
        return Finding("dtype", Level.OK, f"auto selects {dtype}")
    return Finding("dtype", Level.OK, f"{dtype} is native on {known[0].name}")


def _check_cpu_dtype(dtype: str) -> Finding:
    if dtype in ("bfloat16", "float16"):
        seen = f"{dtype} needs half the memory of float32, but most CPUs compute it more slowly"
        return Finding("dtype", Level.WARN, seen, "model.dtype=float32", "C28")
    return Finding("dtype", Level.OK, "float32 on the CPU")
