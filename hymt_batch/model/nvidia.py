"""What `nvidia-smi` says of this machine, and what CUDA_VISIBLE_DEVICES leaves of it. Neither torch nor a library.

Knows nothing of what torch can use: that is the census. Source: CUDA's programming guide (environment variables) and
torch.cuda's own reading of CUDA_VISIBLE_DEVICES: the list ends at its first invalid entry; a device named twice leaves
none; a UUID may be cut off as long as it names one device.
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
OPTIONAL_FIELD = "compute_cap"  # older drivers refuse the whole query for it


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. A number that the driver does not tell is 0 or None."""

    index: int  # in the order of the bus, which need not be CUDA's
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int] | None
    mig_uuids: tuple[str, ...] = ()  # UUIDs of its MIG devices


@dataclass(frozen=True, slots=True)
class NvidiaInfo:
    """The driver and its cards."""

    driver: str
    cuda: str  # newest CUDA that the driver runs, such as "12.4"; "" where it is not told
    gpus: tuple[Gpu, ...]


def query(timeout_s: float = 10) -> NvidiaInfo | None:
    """Ask `nvidia-smi`; None where there is none, or where it fails or does not answer.

    Args:
        timeout_s: For all questions together, in seconds: a hanging driver must not hang us.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    until = time.monotonic() + timeout_s
    fields = list(FIELDS)
    code, rows = _run(program, [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], until)
    if code and OPTIONAL_FIELD in rows:
        fields.remove(OPTIONAL_FIELD)
        code, rows = _run(program, [f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"], until)
    if code != 0:
        return None
    _, page = _run(program, [], until)
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*([0-9]+\.[0-9]+)", page)
    slices = _parse_mig_uuids(_run(program, ["-L"], until)[1]) if "MIG devices" in page else {}
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
                mig_uuids=slices.get(values["uuid"], ()),
            )
        )
    return NvidiaInfo(driver, cuda[1] if cuda else "", tuple(gpus))


def visible_gpus(gpus: Sequence[Gpu], value: str | None) -> tuple[list[Gpu], str]:
    """The GPUs that a CUDA_VISIBLE_DEVICES leaves, in its order.

    Args:
        gpus: All GPUs, as `query` gives them.
        value: The variable's value, None where it is not set.

    Returns:
        What is left, and what is wrong with the value; "" where nothing is.
    """
    if value is None:
        return list(gpus), ""
    if not value.strip():
        return [], "it is empty, which hides every GPU"
    found, seen = list[Gpu](), set[str]()
    odd, form = "", _entry_kind(value.strip())
    for text in value.split(","):
        entry = text.strip()
        if form == "MIG-" and found:
            return found, "CUDA uses one MIG slice a process: only the first counts"
        gpu, key, wrong = _find_gpu(gpus, entry, form)
        if gpu is None:
            rest = "no GPU is left" if not found else "it and what follows is ignored"
            return found, f"{entry!r} {wrong}: {rest}"
        if key in seen:
            return [], f"{entry!r} names a GPU a second time, and CUDA then shows none"
        odd = odd or wrong
        seen.add(key)
        found.append(gpu)
    return found, odd


def hides_all_gpus(value: str | None) -> bool:
    """Whether a value hides every GPU by its form alone, whatever the machine has."""
    return value is not None and not re.match(r"\s*(\+?[0-9]|GPU-|MIG-)", value)


def _entry_kind(value: str) -> str:
    """The first entry decides how all are read."""
    return next((form for form in ("GPU-", "MIG-") if value.startswith(form)), "number")


def _find_gpu(gpus: Sequence[Gpu], entry: str, kind: str) -> tuple[Gpu | None, str, str]:
    """The GPU that an entry names, the key by which a second mention is known, and what is wrong or odd."""
    if kind == "number":
        number = re.match(r"[+-]?[0-9]+", entry)
        if entry == "NoDevFiles":
            return None, "", "is what SLURM sets for a job without a GPU"
        if number is None:
            return None, "", "is no number of a GPU" if entry else "is an empty entry"
        if int(number[0]) < 0:
            return None, "", "ends the list"
        gpu = next((gpu for gpu in gpus if gpu.index == int(number[0])), None)
        odd = "" if number[0] == entry else f"{entry!r} is read as {int(number[0])}"
        return gpu, str(int(number[0])), odd if gpu else f"is no GPU of this machine, which has {len(gpus)}"
    if not entry.startswith(kind):
        return None, "", f"does not begin with {kind} as the first entry does"
    if kind == "GPU-":
        named = [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
        if len(named) > 1:
            return None, "", f"begins the UUIDs of {len(named)} GPUs"
        return (named[0], named[0].uuid, "") if named else (None, "", "begins no UUID of a GPU of this machine")
    parent = entry.removeprefix("MIG-").partition("/")[0]  # MIG-GPU-<uuid>/<instance>/<instance>, of older drivers
    owners = [gpu for gpu in gpus if gpu.uuid == parent or any(one.startswith(entry) for one in gpu.mig_uuids)]
    return (owners[0], entry, "") if owners else (None, "", "is no MIG slice of this machine")


def _run(program: str, arguments: Sequence[str], deadline: float) -> tuple[int | None, str]:
    """Exit code (None: no answer in time) and what was said. A process that cannot be killed is not waited for."""
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
        said, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        return process.returncode, said.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        if process.stdout:
            process.stdout.close()
        return None, ""


def _parse_row(line: str, fields: Sequence[str]) -> dict[str, str] | None:
    """The values of one line by field; None for a line that describes no card. A name may hold commas."""
    values = [value.strip() for value in line.split(",")]
    extra = len(values) - len(fields)
    at = fields.index("name")
    if extra < 0 or not values[0].isdecimal():
        return None
    values[at : at + extra + 1] = [", ".join(values[at : at + extra + 1])]
    return dict(zip(fields, values, strict=True))


def _mib_to_bytes(value: str) -> int:
    return int(value) << 20 if value.isdecimal() else 0


def _parse_capability(value: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"([0-9]+)\.([0-9]+)", value)
    return (int(found[1]), int(found[2])) if found else None


def _parse_mig_uuids(listing: str) -> dict[str, tuple[str, ...]]:
    """UUID of a card -> UUIDs of its MIG devices, from `nvidia-smi -L`."""
    found: dict[str, tuple[str, ...]] = {}
    card = ""
    for uuid in re.findall(r"\(UUID: ((?:GPU|MIG)-[^)\s]+)\)", listing):
        if uuid.startswith("GPU-"):
            card = uuid
        else:
            found[card] = (*found.get(card, ()), uuid)
    return found
