"""A finished folder that lost all of its state, as `cp -r outputs/NAME/*` leaves one: what its manifest proves.

The manifest holds the identity, and size and sha256 of every input and output. What is gone are the digests of rows and
shards. Does not know how a job is made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, has_content, list_names
from hymt_batch.manifest import JobRecord, JsonDict, StateDamagedError
from hymt_batch.records import Input
from hymt_batch.write.input_changes import hash_input, input_changed_error
from hymt_batch.write.published_file import describe_damage
from hymt_batch.write.summary import Summary

log = logging.getLogger(__name__)

STATE_LOST_NOTE = (
    "the records in .hymt are gone, and the manifest alone proves this job complete: a changed input is found by its "
    "file's hash, its rows cannot be named, and all of them would be translated again"
)


def has_no_state(fs: Fs, folder: Path) -> bool:
    """Whether the state of a folder holds nothing of any file: no record, no part."""
    state = manifest.state_folder(folder)
    homes = [state / name for name in list_names(fs, state) if name.startswith("f") and len(name) > 1]
    inside = ((home, name) for home in homes for name in list_names(fs, home))
    return not any(name == "file.json" or list_names(fs, home / name) for home, name in inside)


def find_problems(fs: Fs, folder: Path, value: JsonDict) -> list[str]:
    """How the files of a folder differ from its manifest; nothing where every size and checksum holds.

    Args:
        fs: The store.
        folder: The output folder.
        value: What `manifest.read` gave.

    Raises:
        PermissionError: This user may not read one of them.
    """
    problems = []
    for root in ("outputs", "errors"):
        for file in value[root]:
            name = str(file["path"])
            if name.split("/")[0] != ("translated" if root == "outputs" else root) or ".." in name.split("/"):
                problems.append(f"manifest.json: names {name!r}")
            elif what := describe_damage(fs, folder / name, file):
                problems.append(f"{name}: {what}")
    return problems


def job_from_manifest(value: JsonDict) -> JobRecord:
    """The job that a manifest tells of. Of its inputs the names are known, not how they were read."""
    pairs = zip(value["inputs"], value["outputs"], strict=True)
    inputs = [
        Input(one["rel"], str(file["path"]).removeprefix("translated/"), "", str(file["format"])) for one, file in pairs
    ]
    return JobRecord(dict(value["identity"]), tuple(inputs), {}, "")


def read_if_complete(
    fs: Fs, folder: Path, identity: JsonDict, inputs: Sequence[Input], *, redo: bool
) -> JsonDict | None:
    """The manifest of a folder without state, where it proves the job of this identity and these inputs complete.

    Raises:
        InputChangedError: It does, for other bytes of an input, and that is not to be redone.
    """
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return None
    if value["identity"] != identity or not has_no_state(fs, folder):
        return None
    if not has_content(fs, folder / "manifest.json", manifest.seal(value)):
        return None  # it says what it said, in other bytes: it is made again with the rest
    wanted = [(one.rel, f"translated/{one.out_rel}") for one in inputs]
    if wanted != [(one["rel"], file["path"]) for one, file in zip(value["inputs"], value["outputs"], strict=False)]:
        return None
    if problems := find_problems(fs, folder, value):
        log.warning("manifest.json does not prove this job complete: %s", "; ".join(problems[:20]))
        return None
    for input, was in zip(inputs, value["inputs"], strict=True):
        if hash_input(input) != {"bytes": was["bytes"], "sha256": was["sha256"]}:
            if not redo:
                raise input_changed_error(
                    f"{input.rel} has another sha256 (its rows cannot be compared: .hymt is gone)"
                )
            return None
    return value


def summarize(folder: Path, value: JsonDict, seconds: float) -> Summary:
    """What a manifest tells of a finished job."""
    tokens = value["tokens"]
    return Summary(
        folder=folder,
        files=len(value["outputs"]),
        rows=value["rows"],
        counts=value["counts"],
        flags=value["flags"],
        num_source_tokens=tokens.get("source", 0),
        num_new_tokens=tokens.get("new", 0),
        seconds=seconds,
        num_rows_decoded=0,
        num_rows_kept=value["rows"],
        outputs=tuple(folder / file["path"] for file in value["outputs"]),
        errors=tuple(folder / file["path"] for file in value["errors"]),
    )
