"""Use the manifest of a finished folder that lost its `.hymt` state, for example after `cp -r outputs/NAME/*`.

The manifest has the identity, and the size and sha256 of every input and output. The digests of rows and shards are
lost. Does not rebuild the job.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hymt_batch import manifest, state_layout
from hymt_batch.fs import has_content, list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict, StateDamagedError
from hymt_batch.records import Input
from hymt_batch.write import file_record, row_record
from hymt_batch.write.input_changes import hash_input, input_changed_error
from hymt_batch.write.summary import Summary

log = logging.getLogger(__name__)

STATE_LOST_NOTE = (
    "the records in .hymt are missing, and only the manifest shows that this job is complete: if an input changes, its "
    "changed rows cannot be identified, and all its rows are translated again"
)


def has_no_state(fs: Fs, folder: Path) -> bool:
    """True if the state of a folder has no record and no part of any file."""
    entries = (entry for path in state_layout.file_states(fs, folder) for entry in state_layout.shard_entries(fs, path))
    return not any(
        entry.name == "file.json" or row_record.RECORD_NAME.fullmatch(entry.name) or list_names(fs, entry)
        for entry in entries
    )


def find_problems(fs: Fs, folder: Path, value: JsonDict) -> list[tuple[str, str]]:
    """Compare the files of a folder with its manifest.

    Args:
        fs: The file system.
        folder: The output folder.
        value: The manifest, as returned by `manifest.read`.

    Returns:
        Path and damage of each file whose size or checksum differs; empty if all match.

    Raises:
        PermissionError: This user may not read one of them.
    """
    problems = []
    for root in ("outputs", "errors", "review"):
        for file in value.get(root, ()):
            name = str(file["path"])
            if name.split("/")[0] != ("translated" if root == "outputs" else root) or ".." in name.split("/"):
                problems.append(("manifest.json", f"names {name!r}"))
            elif damage := file_record.describe_damage(fs, folder / name, file):
                problems.append((name, damage))
    return problems


def job_from_manifest(value: JsonDict) -> JobRecord:
    """Return the job that a manifest describes. Its inputs have their names, but not how they were read."""
    pairs = zip(value["inputs"], value["outputs"], strict=True)
    inputs = [
        Input(input_record["rel"], str(file["path"]).removeprefix("translated/"), "", str(file["format"]))
        for input_record, file in pairs
    ]
    return JobRecord(dict(value["identity"]), tuple(inputs), {}, "", dict(value.get("output_settings", {})))


def read_if_complete(fs: Fs, folder: Path, job: JobRecord, inputs: Sequence[Input], *, redo: bool) -> JsonDict | None:
    """Return the manifest of a folder without state, if it shows that this very job is complete; else None.

    Raises:
        InputChangedError: The job was complete, but an input has changed since, and `redo` is false.
    """
    try:
        value = manifest.read(fs, folder)
    except StateDamagedError:
        return None
    is_same_job = value["identity"] == job.identity and value.get("output_settings", {}) == job.output_settings
    if not is_same_job or not has_no_state(fs, folder):
        return None
    if any(stat_or_none(fs, file_record.record_path(folder, input, job.layout)) is not None for input in inputs):
        return None  # the listing was stale
    if not has_content(fs, folder / "manifest.json", manifest.seal(value)):
        return None  # the same contents in other bytes: rebuild everything, this file too
    requested_paths = [(item.rel, f"translated/{item.out_rel}") for item in inputs]
    if requested_paths != [
        (item["rel"], file["path"]) for item, file in zip(value["inputs"], value["outputs"], strict=False)
    ]:
        return None
    if problems := find_problems(fs, folder, value):
        log.warning(
            "manifest.json does not show that this job is complete: %s",
            "; ".join(f"{name}: {damage}" for name, damage in problems[:20]),
        )
        return None
    for input, recorded in zip(inputs, value["inputs"], strict=True):
        if hash_input(input) != {"bytes": recorded["bytes"], "sha256": recorded["sha256"]}:
            if not redo:
                raise input_changed_error(
                    f"{input.rel} has another sha256 (its rows cannot be compared: the records in .hymt are missing)"
                )
            return None
    return value


def summarize(folder: Path, value: JsonDict, seconds: float) -> Summary:
    """Build the summary of a finished job from its manifest."""
    tokens = value["tokens"]
    return Summary(
        folder=folder,
        files=len(value["outputs"]),
        rows=value["rows"],
        formats=Counter(file["format"] for file in value["outputs"]),
        texts=manifest.count_texts([value]),
        counts=value["counts"],
        flags=value["flags"],
        tries=value.get("tries", {}),
        num_source_tokens=tokens.get("source", 0),
        num_new_tokens=tokens.get("new", 0),
        seconds=seconds,
        num_rows_decoded=0,
        num_rows_kept=manifest.count_texts([value]),
        outputs=tuple(folder / file["path"] for file in value["outputs"]),
        errors=tuple(folder / file["path"] for file in value["errors"]),
        reviews=tuple(folder / file["path"] for file in value.get("review", ())),
    )
