"""The two records of a job: `job.json` (which job owns the output folder), `manifest.json` (what a finished job wrote).

`job.json` is created before the first part, `manifest.json` is written last. Parts take precedence over both. Both
carry their own checksum; if one is missing, empty, cut short, full of zeros or from a newer version, the result is a
clear error. Independent of the stages' settings: an identity is a nested dict of plain values.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hymt_batch import pretty_json
from hymt_batch.fs import create, stat_or_none, write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.records import Input, SkippedFile
from hymt_batch.state_layout import FLAT, MAX_FILE_DIGITS, StateLayout

VERSION = 1  # version of the files in .hymt and of manifest.json; newer files are rejected
PROTOCOL = "parts-1"
PROTOCOL_FEATURES = ("groups", "passes")
"""What `job.json` adds to its protocol where a job has it, as in "parts-1+passes": an earlier version, which would not
find what lies in groups, or would lose the rows of passes, refuses the folder."""

MAX_BYTES = 1 << 30  # limit for a state file; enough for over a million inputs
MISSING = "(not set)"
INPUT_FIELDS = ("rel", "format", "compression", "out_rel", "file_id", "dataset")

JsonDict = dict[str, Any]


class StateDamagedError(Exception):
    """A state file is damaged; the message is the reason. Callers turn it into an error for the user."""


class StateMissingError(StateDamagedError):
    """The state file does not exist."""


class StateUnreadableError(StateDamagedError):
    """The file system refused or failed to read the state file, which may be intact."""

    def __init__(self, reason: str, cause: OSError) -> None:
        super().__init__(reason)
        self.cause = cause


class StatePermissionError(StateUnreadableError):
    """This user may not read it."""


class StateVersionError(StateDamagedError):
    """A newer version of hymt-batch wrote it."""


_encode_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(value: Any) -> bytes:
    """Encode a value as canonical JSON: sorted keys, no spaces, ASCII. Raises ValueError for NaN and infinity."""
    return _encode_canonical(value).encode("ascii")


def digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def with_check(value: JsonDict) -> bytes:
    """Return an object as canonical JSON that holds its own digest in the field "check"."""
    text = canonical_json(value)
    check = hashlib.sha256(text).hexdigest()
    if value and min(value) > "check":  # the first field: spares encoding the value again
        return b'{"check":"%b",%b' % (check.encode("ascii"), text[1:])
    return canonical_json({**value, "check": check})


def seal_compact(value: JsonDict) -> bytes:
    """Return the bytes of a state file that nobody reads, with its version and checksum."""
    return with_check({**value, "version": VERSION})


def seal(value: JsonDict) -> bytes:
    """Return the bytes of a state file, with its version and checksum; a file name that is not UTF-8 is escaped.

    The value may have long lists as `pretty_json.Items`.
    """
    value = {**value, "version": VERSION}
    value["check"] = _digest_of_items(value)
    for ascii_only in (False, True):
        data = io.BytesIO()
        with contextlib.suppress(UnicodeEncodeError):
            for piece in pretty_json.encode(value, ascii_only=ascii_only):
                data.write(piece.encode("utf-8"))
            data.write(b"\n")
            return data.getvalue()
    raise AssertionError("unreachable")


def _digest_of_items(value: JsonDict) -> str:
    """Return the digest of an object whose values may be `pretty_json.Items`."""
    sha, separator = hashlib.sha256(), b"{"
    for name in sorted(value):
        sha.update(separator + canonical_json(name) + b":")
        separator, item = b",", value[name]
        if not isinstance(item, pretty_json.Items):
            sha.update(canonical_json(item))
            continue
        start, end = b"[", b"[]"
        for element in item:
            sha.update(start + canonical_json(element))
            start, end = b",", b"]"
        sha.update(end)
    sha.update(b"}")
    return sha.hexdigest()


def unseal(data: bytes) -> JsonDict:
    """Inverse of `seal`.

    Raises:
        StateDamagedError: The data does not come from `seal`; the message is the reason.
    """
    if not data:
        raise StateDamagedError("it is empty")
    if not data.strip(b"\0"):
        raise StateDamagedError("it holds only zero bytes, as after a power loss")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise StateDamagedError("it is not complete JSON") from None
    if not isinstance(value, dict):
        raise StateDamagedError("it is not a JSON object")
    version = value.get("version")
    if isinstance(version, int) and version > VERSION:
        raise StateVersionError(f"it has version {version}, and this hymt-batch reads versions up to {VERSION}")
    check = value.pop("check", None)
    try:
        expected = digest(value)
    except (ValueError, RecursionError):
        expected = ""
    if check != expected or version != VERSION:
        raise StateDamagedError("its contents do not match its checksum")
    del value["version"]
    return value


def load(fs: Fs, path: Path, max_bytes: int = MAX_BYTES) -> JsonDict:
    """Read a sealed file of at most `max_bytes` bytes.

    Raises:
        StateMissingError: There is no such file.
        StatePermissionError: This user may not read it.
        StateDamagedError: It is not a valid sealed file; the message is the reason.
    """
    with contextlib.suppress(OSError):  # a small file, as most are, takes one call; what is wrong is found out below
        start = fs.read(path, 0, 4096)
        if 0 < len(start) < 4096:
            return unseal(start)
    try:
        stat = stat_or_none(fs, path)
        if stat is None:
            raise StateMissingError("it is missing")
        if stat.kind != "file":
            raise StateDamagedError("it is a folder" if stat.kind == "dir" else "it is a link or a special file")
        start = fs.read(path, 0, 4096)
        if stat.size > max_bytes or (stat.size > len(start) and start[:1] != b"{"):
            zeros = (
                "zero bytes, as after a power loss" if not start.strip(b"\0") else "something other than a JSON object"
            )
            raise StateDamagedError(f"it has {stat.size} bytes and begins with {zeros}")
        return unseal(fs.read(path, 0, stat.size))
    except FileNotFoundError:
        raise StateMissingError("it is missing") from None
    except PermissionError as error:
        raise StatePermissionError(f"you have no permission to read it ({error.strerror})", error) from None
    except OSError as error:
        raise StateUnreadableError(f"it cannot be read ({error.strerror})", error) from None


def diff(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """List every leaf that differs, as (dotted key, old value, new value), in the order of the keys."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        differences = []
        for name in sorted({*old, *new}, key=str):
            inner_key = f"{key}.{name}" if key else str(name)
            differences += diff(old.get(name, MISSING), new.get(name, MISSING), inner_key)
        return differences
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [item for i, (a, b) in enumerate(zip(old, new, strict=True)) for item in diff(a, b, f"{key}[{i}]")]
    return [] if type(old) is type(new) and old == new else [(key, old, new)]


def format_diff(differences: Sequence[tuple[str, Any, Any]], max_lines: int = 20) -> str:
    """Format differences, one per line, as `key: old -> new`."""

    def shorten(value: Any) -> str:
        text = value if value == MISSING else json.dumps(value, ensure_ascii=False, default=str)
        return text if len(text) <= 80 else text[:77] + "..."

    lines = [f"  {key}: {shorten(old)} -> {shorten(new)}" for key, old, new in differences[:max_lines]]
    if len(differences) > max_lines:
        lines.append(f"  and {len(differences) - max_lines} more")
    return "\n".join(lines)


def json_roundtrip(value: Any) -> Any:
    """Encode and decode a value as JSON: tuples become lists, keys become strings."""
    return json.loads(canonical_json(value))


# The layout of an output folder. All its paths are built here, but those of files and shards: see `state_layout`.


@functools.lru_cache(maxsize=64)  # the same few folders are needed again and again
def state_folder(folder: Path) -> Path:
    return folder / ".hymt"


@functools.lru_cache(maxsize=64)
def translated_path(folder: Path, out_rel: str) -> Path:
    return folder.joinpath("translated", out_rel)


@functools.lru_cache(maxsize=64)
def errors_path(folder: Path, rel: str) -> Path:
    return folder.joinpath("errors", f"{rel}.errors.jsonl")


@functools.lru_cache(maxsize=64)
def review_path(folder: Path, rel: str) -> Path:
    return folder.joinpath("review", f"{rel}.review.jsonl")


def list_paths(folder: Path, rel: str) -> dict[str, Path]:
    """Return the lists of rows that an output can have beside it, by their keys in its record."""
    return {"errors": errors_path(folder, rel), "review": review_path(folder, rel)}


def published_folders(folder: Path, inputs: Iterable[Input]) -> set[Path]:
    """Return the folders that hold the outputs of some inputs, or would hold the lists beside them."""
    inputs = list(inputs)
    below_translated = {input.out_rel.rpartition("/")[0] for input in inputs}
    below_lists = {input.rel.rpartition("/")[0] for input in inputs}
    lists = {folder.joinpath(name, below) for name in ("errors", "review") for below in below_lists}
    return lists | {folder.joinpath("translated", below) for below in below_translated}


@dataclass(frozen=True, slots=True)
class FileChanges:
    """What the last update of a job changed, by `Input.rel`; see `write/update.py`."""

    after: str = ""  # sha256 of the manifest that the update found; "" if the job was not finished
    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()  # files that are no inputs any more


@dataclass(frozen=True, slots=True)
class JobPass:
    """A finished pass of a job: rows that were decoded again, see `write/passes.py`. Its rows are in its own folder."""

    number: int  # from 1
    identity: JsonDict  # with which its rows were decoded
    statuses: tuple[str, ...]  # by which its rows were selected
    flags: tuple[str, ...]
    files: Mapping[str, int]  # file id -> its rows in the pass
    environments: tuple[JsonDict, ...]  # in which they were decoded
    shards: tuple[int, ...]  # number within the pass of the first row of each of its shards


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The contents of `job.json`."""

    identity: JsonDict
    inputs: tuple[Input, ...]  # paths left out: the same files may be elsewhere next time
    environment: JsonDict
    created: str
    output_settings: JsonDict = field(default_factory=dict)  # dotted key -> value; {} if the identity has them
    replaced_settings: tuple[JsonDict, ...] = ()  # earlier output settings, with which some files may still be written
    replaced_paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # file id -> earlier `out_rel`s
    formats: tuple[str, ...] = ()  # formats that were looked for without source.format; () if none were recorded
    units: tuple[str, ...] = ()  # first file (`Input.rel`) of each unit; () if each file is decoded by itself
    changes: FileChanges | None = None  # of the last update; None if there was none
    earlier: tuple[JsonDict, ...] = ()  # identities that the job had before it took other settings (on_mismatch=keep)
    passes: tuple[JobPass, ...] = ()  # finished ones, in order
    layout: StateLayout = FLAT  # where its state lies; fixed when the job is created

    def passes_of(self, file_id: str) -> list[int]:
        """Return the numbers of the passes that have rows of a file."""
        return [job_pass.number for job_pass in self.passes if file_id in job_pass.files]

    @property
    def identity_sha256(self) -> str:
        return digest(self.identity)

    @property
    def settings_sha256(self) -> str:
        """Digest of the output settings; "" if the identity has them."""
        return digest(self.output_settings) if self.output_settings else ""


def new_job(
    identity: JsonDict,
    inputs: Sequence[Input],
    environment: JsonDict,
    output_settings: JsonDict | None = None,
    formats: Sequence[str] = (),
    units: Sequence[str] = (),
    layout: StateLayout = FLAT,
) -> JobRecord:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return JobRecord(
        json_roundtrip(identity),
        tuple(inputs),
        json_roundtrip(environment),
        created,
        json_roundtrip(output_settings or {}),
        formats=tuple(formats),
        units=tuple(units),
        layout=layout,
    )


def _encode_job(job: JobRecord) -> bytes:
    features = dict(zip(PROTOCOL_FEATURES, (job.layout != FLAT, bool(job.passes)), strict=True))
    value: JsonDict = {
        "protocol": "+".join([PROTOCOL, *(name for name, has_it in features.items() if has_it)]),
        "created": job.created,
        "identity": job.identity,
        "inputs": pretty_json.Items(lambda: map(_encode_input, job.inputs)),
        "environment": job.environment,
    }
    if job.formats:
        value["formats"] = list(job.formats)
    if job.units:
        value["units"] = list(job.units)
    if job.output_settings:
        value["output_settings"] = job.output_settings
    if job.replaced_settings:
        value["replaced"] = {"output_settings": list(job.replaced_settings), "paths": dict(job.replaced_paths)}
    if job.changes is not None:
        value["changes"] = asdict(job.changes)
    if job.earlier:
        value["earlier"] = list(job.earlier)
    if job.passes:
        value["passes"] = [_encode_pass(job_pass) for job_pass in job.passes]
    if job.layout != FLAT:
        value["layout"] = asdict(job.layout)
    return seal(value)


def _encode_pass(job_pass: JobPass) -> JsonDict:
    return {
        "number": job_pass.number,
        "identity": job_pass.identity,
        "statuses": list(job_pass.statuses),
        "flags": list(job_pass.flags),
        "files": dict(job_pass.files),
        "environments": list(job_pass.environments),
        "shards": list(job_pass.shards),
    }


def _read_pass(value: JsonDict) -> JobPass:
    return JobPass(
        int(value["number"]),
        dict(value["identity"]),
        tuple(map(str, value["statuses"])),
        tuple(map(str, value["flags"])),
        {str(file_id): int(num_rows) for file_id, num_rows in value["files"].items()},
        tuple(dict(environment) for environment in value["environments"]),
        tuple(map(int, value["shards"])),
    )


def read_job(fs: Fs, folder: Path) -> JobRecord:
    """Read `job.json`.

    Raises:
        StateMissingError: The folder has none.
        StateDamagedError: It is damaged, may not be read, or was written by a newer version.
    """
    value = load(fs, state_folder(folder) / "job.json")
    protocol, *features = str(value.get("protocol")).split("+")
    if protocol != PROTOCOL or not set(features) <= set(PROTOCOL_FEATURES):
        known = "+".join([PROTOCOL, *PROTOCOL_FEATURES])
        raise StateVersionError(f"it has protocol {value.get('protocol')!r}, and this hymt-batch uses {known!r}")
    try:
        replaced = value.get("replaced", {"output_settings": [], "paths": {}})
        return JobRecord(
            dict(value["identity"]),
            tuple(map(_read_input, value["inputs"])),
            dict(value["environment"]),
            str(value["created"]),
            dict(value.get("output_settings", {})),
            tuple(dict(settings) for settings in replaced["output_settings"]),
            {str(file_id): tuple(map(str, names)) for file_id, names in replaced["paths"].items()},
            tuple(map(str, value.get("formats", ()))),
            tuple(map(str, value.get("units", ()))),
            changes=_read_changes(value["changes"]) if "changes" in value else None,
            earlier=tuple(dict(identity) for identity in value.get("earlier", ())),
            passes=tuple(map(_read_pass, value.get("passes", ()))),
            layout=read_layout(value),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise StateDamagedError("it lacks fields that every job has") from None


def read_layout(value: JsonDict) -> StateLayout:
    """Return the layout that a sealed file has; folders of earlier versions have none. Raises TypeError, ValueError."""
    layout = StateLayout(**value.get("layout", {}))
    if not 0 <= layout.file_digits <= MAX_FILE_DIGITS or layout.group_size < 0:
        raise ValueError(layout)
    return layout


def _read_changes(value: JsonDict) -> FileChanges:
    names = {name: tuple(map(str, value[name])) for name in ("new", "changed", "retired")}
    return FileChanges(str(value["after"]), **names)


def _encode_input(input: Input) -> JsonDict:
    return {name: getattr(input, name) for name in INPUT_FIELDS}


def _read_input(value: JsonDict) -> Input:
    fields: dict[str, Any] = {name: str(value[name]) for name in INPUT_FIELDS}
    return Input(**fields, path="")


def create_job(fs: Fs, folder: Path, job: JobRecord) -> bool:
    """Create `job.json`; False if another process created it first."""
    return create(fs, state_folder(folder) / "job.json", _encode_job(job))


def replace_job(fs: Fs, folder: Path, job: JobRecord) -> None:
    """Rewrite `job.json` with other inputs, output settings or passes: only at the user's request, under the lease."""
    write_atomic(fs, state_folder(folder) / "job.json", _encode_job(job))


def sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for item_counts in counts:
        sums.update(item_counts)
    return dict(sorted(sums.items()))


def count_texts(records: Iterable[JsonDict]) -> int:
    """Return the texts of all rows, which the counts by status and by flag count: one a row, or several fields."""
    return sum(int(record["texts" if "texts" in record else "rows"]) for record in records)


def failed_files(file_records: Iterable[JsonDict]) -> list[JsonDict]:
    """Return name and reason of each file that is not of its format, and so has no output."""
    return [{"rel": record["rel"], "why": record["failed"]} for record in file_records if record.get("failed")]


def read_skipped(fs: Fs, folder: Path) -> tuple[SkippedFile, ...] | None:
    """Return the skipped files that a manifest lists; None if there is no valid manifest."""
    try:
        return skipped_in(read(fs, folder))
    except StateDamagedError:
        return None


def skipped_in(value: JsonDict) -> tuple[SkippedFile, ...]:
    """Return the skipped files that a manifest, or the locations of inputs, list; () if they list none."""
    try:
        return tuple(SkippedFile(str(file["rel"]), str(file["why"])) for file in value.get("skipped", ()))
    except (KeyError, TypeError):
        return ()


def read(fs: Fs, folder: Path) -> JsonDict:
    """Read the manifest of a finished job.

    Raises:
        StateMissingError: There is none.
        StateDamagedError: It is damaged, or may not be read.
    """
    value = load(fs, folder / "manifest.json")
    for name in ("identity", "inputs", "outputs", "errors", "rows", "counts", "flags", "tokens"):
        if name not in value:
            raise StateDamagedError(f"it lacks the field {name!r}")
    return value
