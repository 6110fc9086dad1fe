"""Who owns an output folder (identity), and what a finished output proves.

`job.json` is made once, before the first part; `manifest.json` is written last. Neither is trusted over the parts: both
carry a checksum of themselves, and both may be missing, empty, short, full of zeros or from a newer version with no
more than a clear error. Does not know the stages' settings: an identity is a nested dict of plain values.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hymt_batch.fs import Fs, again, exists, publish, remove, write_atomic, write_new
from hymt_batch.records import Input

VERSION = 1  # of the files in .hymt and of manifest.json; a newer one is refused, never guessed at
PROTOCOL = "parts-1"
MAX_BYTES = 1 << 30  # of a state file: a million and more of inputs
MISSING = "(not set)"
INPUT_FIELDS = ("rel", "format", "compression", "out_rel", "file_id", "dataset")

Plain = dict[str, Any]


class StateDamage(Exception):
    """A state file is not what was written; the text says in what way. Never reaches the user as it is."""


class StateMissing(StateDamage):
    """There is no such file."""


class StateDenied(StateDamage):
    """This user may not read it."""


class StateNewer(StateDamage):
    """A newer version of hymt-batch wrote it."""


def canonical(value: Any) -> bytes:
    """One spelling for each value: sorted keys, no spaces, ASCII. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()


def readable(value: Any) -> bytes:
    """JSON for people, still one spelling for each value; a name that is not UTF-8 is escaped."""
    for ascii_only in (False, True):
        try:
            text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=ascii_only, allow_nan=False)
            return text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:
            continue
    raise AssertionError("unreachable")


def seal(value: Plain) -> bytes:
    return readable({**value, "version": VERSION, "check": digest({**value, "version": VERSION})})


def unseal(data: bytes) -> Plain:
    """What `seal` was given.

    Raises:
        StateDamage: Anything else than that, with the way in which it differs.
    """
    if not data:
        raise StateDamage("it is empty")
    if not data.strip(b"\0"):
        raise StateDamage("it holds only zero bytes, as after a power loss")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise StateDamage("it is not whole JSON") from None
    if not isinstance(value, dict):
        raise StateDamage("it is not a JSON object")
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StateNewer(f"it is of version {version}, and this hymt-batch reads up to {VERSION}")
    check = value.pop("check", None)
    try:
        right = digest(value)
    except (ValueError, RecursionError):
        right = ""
    if check != right or version != VERSION:
        raise StateDamage("its contents do not match its checksum")
    del value["version"]
    return value


def load(fs: Fs, path: Path, most: int = MAX_BYTES) -> Plain:
    """A sealed file of at most so many bytes; StateMissing or StateDamage where there is none to be had."""
    try:
        found = exists(fs, path)
        if found is None:
            raise StateMissing("it is missing")
        if found.kind != "file":
            raise StateDamage("it is a folder" if found.kind == "dir" else "it is a link or no file")
        head = fs.read(path, 0, 4096)
        if found.size > most or (found.size > len(head) and head[:1] != b"{"):
            zeros = "zero bytes, as after a power loss" if not head.strip(b"\0") else "no JSON object"
            raise StateDamage(f"it has {found.size} bytes and begins with {zeros}")
        return unseal(fs.read(path, 0, found.size))
    except FileNotFoundError:
        raise StateMissing("it is missing") from None
    except PermissionError as error:
        raise StateDenied(f"this user may not read it ({error.strerror})") from None
    except OSError as error:
        raise StateDamage(f"it cannot be read ({error.strerror})") from None


def diff(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Every leaf that differs, as (dotted key, old value, new value), in the order of the keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for name in sorted({*old, *new}, key=str):
            inner = f"{key}.{name}" if key else str(name)
            found += diff(old.get(name, MISSING), new.get(name, MISSING), inner)
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [item for i, (a, b) in enumerate(zip(old, new, strict=True)) for item in diff(a, b, f"{key}[{i}]")]
    return [] if type(old) is type(new) and old == new else [(key, old, new)]


def explain(differences: Sequence[tuple[str, Any, Any]], most: int = 20) -> str:
    """One line a difference: `key: was -> now`."""

    def short(value: Any) -> str:
        text = value if value == MISSING else json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= 80 else text[:77] + "..."

    lines = [f"  {key}: {short(old)} -> {short(new)}" for key, old, new in differences[:most]]
    if len(differences) > most:
        lines.append(f"  and {len(differences) - most} more")
    return "\n".join(lines)


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples become lists, keys become strings."""
    return json.loads(canonical(value))


# The layout of an output folder. One place, so that no stage spells a name of its own.


def state(folder: Path) -> Path:
    return folder / ".hymt"


def file_state(folder: Path, file_id: str) -> Path:
    return state(folder) / f"f{file_id}"


def translated(folder: Path, out_rel: str) -> Path:
    return folder / "translated" / out_rel


def errors_file(folder: Path, rel: str) -> Path:
    return folder / "errors" / f"{rel}.errors.jsonl"


@dataclass(frozen=True, slots=True)
class Job:
    """What `job.json` says."""

    identity: Plain
    inputs: tuple[Input, ...]  # without their paths: the same files may lie elsewhere tomorrow
    environment: Plain
    created: str

    @property
    def key(self) -> str:
        return digest(self.identity)


def new_job(identity: Plain, inputs: Sequence[Input], environment: Plain) -> Job:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Job(plain(identity), tuple(inputs), plain(environment), created)


def _job_bytes(job: Job) -> bytes:
    inputs = [{name: getattr(i, name) for name in INPUT_FIELDS} for i in job.inputs]
    return seal(
        {
            "protocol": PROTOCOL,
            "created": job.created,
            "identity": job.identity,
            "inputs": inputs,
            "environment": job.environment,
        }
    )


def read_job(fs: Fs, folder: Path) -> Job:
    """The job a folder belongs to; StateMissing where it belongs to none, StateDamage where that cannot be known."""
    value = load(fs, state(folder) / "job.json")
    if value.get("protocol") != PROTOCOL:
        raise StateNewer(f"it speaks protocol {value.get('protocol')!r}, and this hymt-batch {PROTOCOL!r}")
    try:
        inputs = tuple(Input(**{name: str(i[name]) for name in INPUT_FIELDS}, path="") for i in value["inputs"])
        return Job(dict(value["identity"]), inputs, dict(value["environment"]), str(value["created"]))
    except (KeyError, TypeError, ValueError):
        raise StateDamage("it lacks fields that every job has") from None


def create_job(fs: Fs, folder: Path, job: Job) -> bool:
    """Make `job.json`, unless another process was first: then False, and its file stands."""

    def once() -> bool:
        path = state(folder) / "job.json"
        tmp = path.with_name(f".tmp-job.json-{uuid.uuid4().hex}")
        write_new(fs, tmp, _job_bytes(job))
        mine = publish(fs, tmp, path)
        fs.fsync_dir(path.parent)
        remove(fs, tmp)
        return mine

    return again("job.json", once)


def replace_job(fs: Fs, folder: Path, job: Job) -> None:
    """The one rewrite of `job.json`: another list of inputs, at the user's request and under the lease."""
    write_atomic(fs, state(folder) / "job.json", _job_bytes(job))


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for one in counts:
        sums.update(one)
    return dict(sorted(sums.items()))


def build(job: Job, files: Sequence[Plain]) -> bytes:
    """`manifest.json` from the files' own records, in the order of the inputs; no time in it.

    Args:
        job: Its identity and inputs.
        files: One record a file, as `write/final.py` makes them.
    """
    environments = {canonical(e): e for f in files for e in f["environments"]}
    return seal(
        {
            "protocol": PROTOCOL,
            "identity": job.identity,
            "identity_sha256": job.key,
            "environments": [environments[k] for k in sorted(environments)],
            "inputs": [{"rel": f["rel"], "rows": f["rows"], **f["input"]} for f in files],
            "outputs": [{"path": f"translated/{f['out_rel']}", "format": f["format"], **f["output"]} for f in files],
            "errors": [{"path": f"errors/{f['rel']}.errors.jsonl", **f["errors"]} for f in files if f["errors"]],
            "rows": sum(f["rows"] for f in files),
            "counts": total(f["counts"] for f in files),
            "flags": total(f["flags"] for f in files),
            "tokens": total(f["tokens"] for f in files),
            "degraded": total(f["degraded"] for f in files),
        }
    )


def read(fs: Fs, folder: Path) -> Plain:
    """The manifest of a finished job; StateMissing or StateDamage otherwise."""
    value = load(fs, folder / "manifest.json")
    for field in ("identity", "inputs", "outputs", "errors", "rows", "counts", "flags", "tokens"):
        if field not in value:
            raise StateDamage(f"it lacks the field {field!r}")
    return value
