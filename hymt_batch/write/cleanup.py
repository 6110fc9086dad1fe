"""Find and remove the state that a job keeps in its folder: parts, records, leftovers of killed runs.

Call the functions that change files only under the lease. Of a part it uses only the name and the header.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymt_batch import manifest
from hymt_batch.fs import Fs, list_names, remove, stat_or_none
from hymt_batch.manifest import StateDamagedError
from hymt_batch.records import Input
from hymt_batch.write import part as parts
from hymt_batch.write import published_file, set_aside
from hymt_batch.write.published_file import TMP_PREFIX
from hymt_batch.write.storage import PROBE_PREFIX, DurableFolders

log = logging.getLogger(__name__)


def read_part_header(fs: Fs, path: Path) -> parts.PartHeader:
    """Read the header of a part without its payload.

    Raises:
        OSError: The file cannot be read.
        PartDamagedError: It has no valid header.
    """
    data = fs.read(path, 0, 4096)
    if b"\n" not in data:
        data = fs.read(path, 0, parts.MAX_HEADER_BYTES)
    return parts.decode_header(data.partition(b"\n")[0])


def file_state_folders(fs: Fs, folder: Path) -> list[Path]:
    root = manifest.state_folder(folder)
    return [root / name for name in list_names(fs, root) if name.startswith("f") and len(name) > 1]


def discard_inputs(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove outputs and state of some inputs: first the manifest, then the outputs, then the state.

    The state shows which bytes the job wrote itself; any other output file is kept in set_aside/.
    """
    recorded_sha256s = set_aside.recorded_sha256s(fs, folder)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    for input in inputs:
        record = published_file.read_record(fs, folder, input)
        own_sha256s = (recorded_sha256s.get(input.out_rel), record["output"]["sha256"] if record else None)
        set_aside.preserve_foreign(fs, folder, input.out_rel, own_sha256s, DurableFolders(fs, folder).ensure)
        for path in (manifest.translated_path(folder, input.out_rel), manifest.errors_path(folder, input.rel)):
            remove(fs, path)
            _remove_empty_folders(fs, folder, path.parent)
    for input in inputs:
        _remove_file_state(fs, manifest.file_state_folder(folder, input.file_id))


def _remove_empty_folders(fs: Fs, folder: Path, path: Path) -> None:
    """Remove the folders of an output that are now empty: `verify` would report them as damage."""
    with contextlib.suppress(OSError):
        while path.parent != folder and not list_names(fs, path):
            fs.rmdir(path)
            path = path.parent


def wipe(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove a job from its folder; `job.json` last, so that after a kill the folder still belongs to the old job."""
    job: Any = None
    with contextlib.suppress(StateDamagedError):
        job = manifest.read_job(fs, folder)
    if stat_or_none(fs, folder / "manifest.json") or job is not None or file_state_folders(fs, folder):
        log.warning("overwrite folder=%s", folder.name)
    discard_inputs(fs, folder, [*(job.inputs if job else ()), *inputs])
    for file_state in file_state_folders(fs, folder):
        _remove_file_state(fs, file_state)
    remove(fs, manifest.state_folder(folder) / "job.json")
    fs.fsync_dir(manifest.state_folder(folder))


def _remove_file_state(fs: Fs, file_state: Path) -> None:
    remove(fs, file_state / "file.json")
    remove_parts(fs, file_state)
    for name in list_names(fs, file_state):
        if name.startswith(".tmp-"):
            remove(fs, file_state / name)
    with contextlib.suppress(OSError):
        fs.rmdir(file_state)


def remove_parts(fs: Fs, file_state: Path) -> None:
    """Remove the parts of a file, and the files that killed runs left beside them; its `file.json` stays."""
    for shard in list_names(fs, file_state):
        if parts.SHARD_NAME.fullmatch(shard):
            for name in list_names(fs, file_state / shard):
                with contextlib.suppress(OSError):
                    fs.unlink(file_state / shard / name)
            with contextlib.suppress(OSError):
                fs.rmdir(file_state / shard)


def try_remove_parts(fs: Fs, file_state: Path) -> None:
    """Do what `remove_parts` does for a published file; a failure is only logged, since leftover parts do no harm."""
    try:
        remove_parts(fs, file_state)
    except OSError as error:
        log.warning("parts of %s were not removed: %s", file_state.name, error.strerror)


def remove_leftovers(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove temporary files of killed processes. Call it under the lease; a process without a lease writes again."""
    root = manifest.state_folder(folder)
    leftovers = [
        (folder, ".tmp-"),
        (root, ".tmp-"),
        (root, PROBE_PREFIX),
        (root / "lease", "stale-"),
        (root / "lease", ".tmp-"),
    ]
    for input in inputs:
        leftovers += [(path.parent, TMP_PREFIX) for path in (manifest.translated_path(folder, input.out_rel),)]
        leftovers += [(manifest.errors_path(folder, input.rel).parent, TMP_PREFIX)]
        file_state = manifest.file_state_folder(folder, input.file_id)
        leftovers += [
            (file_state, ".tmp-"),
            *((file_state / shard, ".tmp-") for shard in list_names(fs, file_state) if shard.startswith("s")),
        ]
    for parent, prefix in dict.fromkeys(leftovers):
        for name in list_names(fs, parent):
            if name.startswith(prefix):
                with contextlib.suppress(OSError):
                    fs.unlink(parent / name)
