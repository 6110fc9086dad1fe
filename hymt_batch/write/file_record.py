"""The record of a published file, `.hymt/f<id>/file.json`: its input, outputs, shards, counts and environments.

It is written after the file is published; a missing or damaged one is made again from the row records.
"""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import hash_file, stat_or_none, write_atomic
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord, JsonDict
from hymt_batch.records import Input
from hymt_batch.state_layout import StateLayout
from hymt_batch.write.part import decode_shard_record
from hymt_batch.write.shard_table import ShardTable

log = logging.getLogger(__name__)


def save_record(fs: Fs, folder: Path, input: Input, record: JsonDict, layout: StateLayout) -> None:
    """Write the record of a published file. It is durable when its folder is synced, at the latest with the manifest.

    Without it the file is assembled again, to the same bytes.
    """
    write_atomic(fs, record_path(folder, input, layout), manifest.seal_compact(record), sync_folder=False)


def record_path(folder: Path, input: Input, layout: StateLayout) -> Path:
    return layout.file_state(folder, input.file_id) / "file.json"


def read_record(fs: Fs, folder: Path, input: Input, layout: StateLayout) -> JsonDict | None:
    """Return the record of a published file; None if it is missing or damaged (it is made again from the row records).

    Raises:
        PermissionError: This user may not read it.
    """
    return read_record_at(fs, record_path(folder, input, layout), input)


def read_record_at(fs: Fs, path: Path, input: Input) -> JsonDict | None:
    """Do what `read_record` does for a record at this path."""
    try:
        record = manifest.load(fs, path)
        shard_table_of(record)
        if record["rel"] != input.rel:
            raise manifest.StateDamagedError("it belongs to another file")
        return record
    except manifest.StateMissingError:
        return None
    except manifest.StatePermissionError as denied:
        raise PermissionError(errno.EACCES, str(denied), str(path)) from None
    except (manifest.StateDamagedError, KeyError, TypeError, ValueError) as error:
        log.warning("file_record file_id=%s ignored=%r", input.file_id, str(error))
        return None


def output_sha256(record: JsonDict) -> str:
    """Return the sha256 of a published file; "" for a failed file, which has no output."""
    return str(record["output"]["sha256"]) if record["output"] else ""


def is_current(record: JsonDict | None, job: JobRecord, input: Input, identity_sha256: str = "") -> bool:
    """Return whether a file was published by this job, with its output settings and passes.

    `identity_sha256` is that of `job`.
    """
    return (
        record is not None
        and record["identity"] == (identity_sha256 or job.identity_sha256)
        and record["out_rel"] == input.out_rel
        and record.get("settings_sha256", "") == job.settings_sha256
        and has_passes(record, job, input)
    )


def has_passes(record: JsonDict, job: JobRecord, input: Input) -> bool:
    """Return whether a file was assembled with all passes of the job that have rows of it."""
    return [item["number"] for item in record.get("passes", ())] == (job.passes_of(input.file_id) if job.passes else [])


def shard_table_of(record: JsonDict) -> ShardTable:
    """Return the shard table of a file's record; earlier versions stored it as a list of shard records."""
    shards = record["shards"]
    if isinstance(shards, str):
        return ShardTable.unpack(shards)
    records = [decode_shard_record(fields) for fields in shards]
    if any(shard_record.index >= len(records) for shard_record in records):
        raise ValueError("not the shards of one file")
    return ShardTable(records)


def describe_damage(fs: Fs, path: Path, expected: JsonDict | None) -> str:
    """Return how a published file differs from its record, "" if it does not.

    Args:
        fs: The file system.
        path: The published file.
        expected: Its "bytes" and "sha256"; None if the file should not exist.

    Raises:
        PermissionError: This user may not read it.
    """
    stat = stat_or_none(fs, path)
    if expected is None:
        return "" if stat is None else "should not be there"
    if stat is None:
        return "is missing"
    if stat.kind != "file":
        return "is a folder" if stat.kind == "dir" else "is a link or a special file"
    if stat.size != expected["bytes"]:
        return f"has {stat.size} bytes, but its record has {expected['bytes']}"
    try:
        return "" if hash_file(fs, path)[1] == expected["sha256"] else "does not match its checksum"
    except PermissionError:
        raise  # it may be intact
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def is_intact(fs: Fs, folder: Path, record: JsonDict) -> bool:
    """Return whether a published file and the lists beside it are intact; log the damage if not."""
    output = describe_damage(fs, manifest.translated_path(folder, record["out_rel"]), record["output"])
    damages = {record["out_rel"]: output}
    for key, path in manifest.list_paths(folder, record["rel"]).items():
        damages[path.name] = describe_damage(fs, path, record.get(key))
    for name, damage in damages.items():
        if damage:
            log.warning("published file=%r damage=%r", name, damage)
    return not any(damages.values())
