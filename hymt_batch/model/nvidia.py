"""The GPUs that `nvidia-smi` reports, and which of them CUDA_VISIBLE_DEVICES leaves visible. Standard library only.

Does not know which GPUs torch can use; see `detect_devices.py`.

Source: CUDA's programming guide (environment variables) and the way torch.cuda parses CUDA_VISIBLE_DEVICES: the list
ends at its first invalid entry; a device that is named twice hides all devices; a UUID may be shortened to a unique
prefix.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

FIELDS = ("index", "uuid", "name", "memory.total", "memory.free", "compute_cap", "driver_version")
OPTIONAL_FIELD = "compute_cap"  # older drivers reject a query that contains it


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; a number that the driver does not report is 0 or None."""

    index: int  # in PCI bus order, which may differ from CUDA's order
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None
    mig_uuids: tuple[str, ...] = ()  # UUIDs of its MIG devices


@dataclass(frozen=True, slots=True)
class NvidiaInfo:
    """The NVIDIA driver and its GPUs."""

    driver: str
    cuda: str  # newest CUDA version that the driver supports, such as "12.4"; "" if not reported
    gpus: tuple[Gpu, ...]


def query(timeout_s: float = 10) -> NvidiaInfo | None:
    """Query `nvidia-smi`; return None if it is not installed, fails or does not answer in time.

    Args:
        timeout_s: Time limit in seconds for all calls together, so that a hung driver does not block this process.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    deadline = time.monotonic() + timeout_s
    fields = list(FIELDS)
    code, rows = _run(program, [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], deadline)
    if code and OPTIONAL_FIELD in rows:
        fields.remove(OPTIONAL_FIELD)
        code, rows = _run(program, [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], deadline)
    if code != 0:
        return None
    _, summary = _run(program, [], deadline)
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*([0-9]+\.[0-9]+)", summary)
    mig_uuids = _parse_mig_uuids(_run(program, ["-L"], deadline)[1]) if "MIG devices" in summary else {}
    gpus, driver = [], ""
    for line in rows.splitlines():
        values = _parse_row(line, fields)
        if values is None:
            continue
        driver = driver or values["driver_version"]
        gpus.append(
            Gpu(
                index=int(values["index"]),
                uuid=values["uuid"],
                name=values["name"],
                total_bytes=_mib_to_bytes(values["memory.total"]),
                free_bytes=_mib_to_bytes(values["memory.free"]),
                capability=_parse_capability(values.get(OPTIONAL_FIELD, "")),
                mig_uuids=mig_uuids.get(values["uuid"], ()),
            )
        )
    return NvidiaInfo(driver, cuda[1] if cuda else "", tuple(gpus))


def visible_gpus(gpus: Sequence[Gpu], value: str | None) -> tuple[list[Gpu], str]:
    """Return the GPUs that a value of CUDA_VISIBLE_DEVICES leaves visible, in its order.

    Args:
        gpus: All GPUs, as returned by `query`.
        value: The variable's value; None if it is not set.

    Returns:
        The visible GPUs, and what is wrong with the value; "" if nothing is wrong.
    """
    if value is None:
        return list(gpus), ""
    if not value.strip():
        return [], "it is empty, which hides every GPU"
    visible, seen = list[Gpu](), set[str]()
    remark, kind = "", _entry_kind(value.strip())
    for text in value.split(","):
        entry = text.strip()
        if kind == "MIG-" and visible:
            return visible, "CUDA uses only one MIG slice per process, so only the first entry is used"
        gpu, key, problem = _find_gpu(gpus, entry, kind)
        if gpu is None:
            consequence = "no GPU is left" if not visible else "it and the entries after it are ignored"
            return visible, f"{entry!r} {problem}: {consequence}"
        if key in seen:
            return [], f"{entry!r} names a GPU a second time, and CUDA then hides all GPUs"
        remark = remark or problem
        seen.add(key)
        visible.append(gpu)
    return visible, remark


def hides_all_gpus(value: str | None) -> bool:
    """Return whether a value of CUDA_VISIBLE_DEVICES hides every GPU on any machine."""
    return value is not None and not re.match(r"\s*(\+?[0-9]|GPU-|MIG-)", value)


def visible_variables(devices: Sequence[str]) -> dict[str, str]:
    """Return the environment variables with which a child process sees only some of the GPUs, in their order.

    Args:
        devices: Names of GPUs as this process numbers them, such as cuda:1.
    """
    entries = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    indices = [int(name.removeprefix("cuda:")) for name in devices]
    return {"CUDA_VISIBLE_DEVICES": ",".join(entries[index] if entries else str(index) for index in indices)}


def _entry_kind(value: str) -> str:
    """Return the kind of all entries, which the first entry decides: "GPU-", "MIG-" or "number"."""
    return next((kind for kind in ("GPU-", "MIG-") if value.startswith(kind)), "number")


def _find_gpu(gpus: Sequence[Gpu], entry: str, kind: str) -> tuple[Gpu | None, str, str]:
    """Return the GPU that an entry names, a key to detect duplicates, and what is wrong or unusual about the entry."""
    if kind == "number":
        match = re.match(r"[+-]?[0-9]+", entry)
        if entry == "NoDevFiles":
            return None, "", "is what SLURM sets for a job without a GPU"
        if match is None:
            return None, "", "is not a GPU number" if entry else "is an empty entry"
        if int(match[0]) < 0:
            return None, "", "ends the list"
        gpu = next((gpu for gpu in gpus if gpu.index == int(match[0])), None)
        remark = "" if match[0] == entry else f"{entry!r} is read as {int(match[0])}"
        return gpu, str(int(match[0])), remark if gpu else f"is not a GPU of this machine, which has {len(gpus)}"
    if not entry.startswith(kind):
        return None, "", f"does not start with {kind} like the first entry"
    if kind == "GPU-":
        matching = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        if len(matching) > 1:
            return None, "", f"is a prefix of the UUIDs of {len(matching)} GPUs"
        return (matching[0], matching[0].uuid, "") if matching else (None, "", "matches no GPU UUID of this machine")
    parent = entry.removeprefix("MIG-").partition("/")[0]  # older drivers: MIG-GPU-<uuid>/<instance>/<instance>
    owners = [gpu for gpu in gpus if gpu.uuid == parent or any(uuid.startswith(entry) for uuid in gpu.mig_uuids)]
    return (owners[0], entry, "") if owners else (None, "", "is not a MIG slice of this machine")


def _run(program: str, arguments: Sequence[str], deadline: float) -> tuple[int | None, str]:
    """Return the exit code (None: it did not start or did not end in time) and the output of a program.

    Does not wait for a process that cannot be killed.
    """
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return None, ""
    try:
        output, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        return process.returncode, output.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        if process.stdout:
            process.stdout.close()
        return None, ""


def _parse_row(line: str, fields: Sequence[str]) -> dict[str, str] | None:
    """Return the values of one line by field; None if the line does not describe a GPU. A name may contain commas."""
    values = [value.strip() for value in line.split(",")]
    extra = len(values) - len(fields)
    name_index = fields.index("name")
    if extra < 0 or not values[0].isdecimal():
        return None
    values[name_index : name_index + extra + 1] = [", ".join(values[name_index : name_index + extra + 1])]
    return dict(zip(fields, values, strict=True))


def _mib_to_bytes(value: str) -> int:
    return int(value) << 20 if value.isdecimal() else 0


def _parse_capability(value: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"([0-9]+)\.([0-9]+)", value)
    return (int(match[1]), int(match[2])) if match else None


def _parse_mig_uuids(listing: str) -> dict[str, tuple[str, ...]]:
    """Return UUID of a GPU -> UUIDs of its MIG devices, from the output of `nvidia-smi -L`."""
    mig_uuids: dict[str, tuple[str, ...]] = {}
    gpu_uuid = ""
    for uuid in re.findall(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", listing):
        if uuid.startswith("GPU-"):
            gpu_uuid = uuid
        else:
            mig_uuids[gpu_uuid] = (*mig_uuids.get(gpu_uuid, ()), uuid)
    return mig_uuids
