"""Find and remove the state that a job keeps in its folder: parts, records, leftovers of killed runs.

Call the functions that change files only under the lease. Of a part it uses only the name and the header.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hymt_batch import manifest, state_layout
from hymt_batch.fs import list_names, remove, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import StateDamagedError
from hymt_batch.records import Input
from hymt_batch.state_layout import FLAT, StateLayout
from hymt_batch.write import file_record, passes, row_record, set_aside
from hymt_batch.write import part as parts
from hymt_batch.write.open_files import TMP_PREFIX
from hymt_batch.write.storage import PROBE_PREFIX, DurableFolders

log = logging.getLogger(__name__)


def discard_inputs(
    fs: Fs,
    folder: Path,
    inputs: Sequence[Input],
    layout: StateLayout,
    check_lease: Callable[[], None],
    replaced_paths: Mapping[str, Sequence[str]] = MappingProxyType({}),
    paths_in_use: Collection[str] = (),
    updated: Collection[str] = (),
) -> None:
    """Remove outputs and state of some inputs: first the manifest, then the outputs, durably, then the state.

    The state shows which bytes the job wrote itself; any other output file is kept in set_aside/.

    Args:
        fs: The file system.
        folder: The output folder.
        inputs: The inputs to remove.
        layout: That of their job.
        check_lease: Raises if this process must not write any more; called before each file is removed.
        replaced_paths: File id -> earlier paths of its output; see `manifest.JobRecord`.
        paths_in_use: Output paths of the job's other inputs, which are not removed.
        updated: File ids of inputs that are made anew: what is in use of theirs and their closed generations stay.
    """
    recorded_sha256s = set_aside.recorded_sha256s(fs, folder)
    remove(fs, folder / "manifest.json")
    fs.fsync_dir(folder)
    parents = set[Path]()  # of all outputs, also of those that a killed run removed
    for input in inputs:
        closed_path = layout.closed_state(folder, input.file_id) / "file.json"
        found = (file_record.read_record(fs, folder, input, layout), file_record.read_record_at(fs, closed_path, input))
        records = [record for record in found if record is not None]
        own_sha256s = (recorded_sha256s.get(input.out_rel), *map(file_record.output_sha256, records))
        names = [input.out_rel, *(record["out_rel"] for record in records), *replaced_paths.get(input.file_id, ())]
        names = [
            name
            for name in dict.fromkeys(names)
            if name not in paths_in_use or (name == input.out_rel and input.file_id not in updated)
        ]
        for name in names:
            set_aside.preserve_foreign(fs, folder, name, own_sha256s, DurableFolders(fs, folder).ensure)
        check_lease()
        paths = [manifest.translated_path(folder, name) for name in names]
        for path in (*paths, *manifest.list_paths(folder, input.rel).values()):
            remove(fs, path)
            remove_empty_folders(fs, folder, path.parent)
            parents.add(path.parent)
    # before the job is without these inputs: afterwards, nobody removes an output that a power loss brings back
    for path in sorted({_existing(fs, folder, parent) for parent in parents}):
        fs.fsync_dir(path)
    for input in inputs:
        check_lease()
        remove_file_state(fs, layout.file_state(folder, input.file_id))
        if input.file_id not in updated:
            remove_file_state(fs, layout.closed_state(folder, input.file_id))


def remove_empty_folders(fs: Fs, folder: Path, path: Path) -> None:
    """Remove the folders of an output that are now empty: `verify` would report them as damage."""
    with contextlib.suppress(OSError):
        while path.parent != folder and not list_names(fs, path):
            fs.rmdir(path)
            path = path.parent


def _existing(fs: Fs, folder: Path, path: Path) -> Path:
    """Return a folder below an output folder, or the nearest one above it that exists."""
    while path != folder and stat_or_none(fs, path) is None:
        path = path.parent
    return path


def wipe(fs: Fs, folder: Path, inputs: Sequence[Input], check_lease: Callable[[], None]) -> None:
    """Remove a job from its folder; `job.json` last, so that after a kill the folder still belongs to the old job."""
    job: Any = None
    with contextlib.suppress(StateDamagedError):
        job = manifest.read_job(fs, folder)
    file_states = state_layout.file_states(fs, folder)
    if stat_or_none(fs, folder / "manifest.json") or job is not None or file_states:
        log.warning("overwrite folder=%s", folder.name)
    removed = [*(job.inputs if job else ()), *inputs]
    layout = job.layout if job else state_layout.find(fs, folder, FLAT)
    discard_inputs(fs, folder, removed, layout, check_lease, job.replaced_paths if job else {})
    for file_state in file_states:
        check_lease()
        remove_file_state(fs, file_state)
    state_layout.remove_groups(fs, manifest.state_folder(folder), state_layout.FILE_GROUP)
    passes.discard_all(fs, folder)
    remove(fs, manifest.state_folder(folder) / "job.json")
    fs.fsync_dir(manifest.state_folder(folder))


def remove_file_state(fs: Fs, file_state: Path) -> None:
    """Remove the state folder of a file with all that a job keeps there."""
    remove(fs, file_state / "file.json")
    remove_parts(fs, file_state)
    remove_records(fs, file_state)
    for path in state_layout.shard_entries(fs, file_state):
        if path.name.startswith(".tmp-"):
            remove(fs, path)
    state_layout.remove_groups(fs, file_state, state_layout.SHARD_GROUP)
    with contextlib.suppress(OSError):
        fs.rmdir(file_state)


def shard_folders(fs: Fs, file_state: Path) -> list[Path]:
    """Return the folders of a file's shards that have parts."""
    entries = state_layout.shard_entries(fs, file_state)
    return [path for path in entries if parts.SHARD_NAME.fullmatch(path.name)]


def remove_parts(fs: Fs, file_state: Path) -> None:
    """Remove the parts of a file, and the files that killed runs left beside them; records and `file.json` stay."""
    for shard_folder in shard_folders(fs, file_state):
        try_remove_parts_of_shard(fs, shard_folder, list_names(fs, shard_folder))


def try_remove_parts_of_shard(fs: Fs, shard_folder: Path, names: Sequence[str]) -> None:
    """Remove the parts of a shard and what killed runs left beside them; leftover parts do no harm."""
    for name in names:
        with contextlib.suppress(OSError):
            fs.unlink(shard_folder / name)
    with contextlib.suppress(OSError):
        fs.rmdir(shard_folder)


def try_remove_rows(fs: Fs, file_state: Path, *, keep_records: bool) -> None:
    """Remove the parts of a published file, and its row records unless they are kept; a failure is only logged."""
    try:
        remove_parts(fs, file_state)
        if not keep_records:
            remove_records(fs, file_state)
            state_layout.remove_groups(fs, file_state, state_layout.SHARD_GROUP)
    except OSError as error:
        log.warning("parts of %s were not removed: %s", file_state.name, error.strerror)


def remove_records(fs: Fs, file_state: Path) -> None:
    """Remove the row records of a file."""
    for path in state_layout.shard_entries(fs, file_state):
        if row_record.RECORD_NAME.fullmatch(path.name):
            with contextlib.suppress(OSError):
                fs.unlink(path)


def remove_leftovers(fs: Fs, folder: Path, inputs: Sequence[Input]) -> None:
    """Remove temporary files of killed processes. Call it under the lease; a process without a lease writes again."""
    root = manifest.state_folder(folder)
    wanted = frozenset(f"f{input.file_id}" for input in inputs)
    leftovers: list[tuple[Path, tuple[str, ...]]] = [(folder, (".tmp-",)), (root / "lease", ("stale-", ".tmp-"))]
    # one listing instead of one for each of many inputs without state
    for path in state_layout.list_grouped(fs, root, state_layout.FILE_GROUP):
        if path.name in wanted:
            folders = [*state_layout.shard_parents(fs, path), *shard_folders(fs, path)]
            leftovers += [(parent, (".tmp-",)) for parent in folders]
        elif path.name.startswith((".tmp-", PROBE_PREFIX)):
            with contextlib.suppress(OSError):
                fs.unlink(path)
    leftovers += [(parent, (TMP_PREFIX,)) for parent in sorted(manifest.published_folders(folder, inputs))]
    for parent, prefixes in leftovers:
        for name in list_names(fs, parent):
            if name.startswith(prefixes):
                with contextlib.suppress(OSError):
                    fs.unlink(parent / name)
