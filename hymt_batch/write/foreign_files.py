"""Find what is in translated/, errors/ and review/ but does not belong to the job: files, links, pipes and folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import list_names, stat_or_none
from hymt_batch.fs_protocol import Fs
from hymt_batch.manifest import JobRecord
from hymt_batch.storage_error import describe_type
from hymt_batch.write.open_files import TMP_PREFIX


def find(fs: Fs, folder: Path, job: JobRecord, *, include_leftovers: bool) -> Iterator[tuple[Path, str]]:
    """Yield path and "does not belong to this job" of each foreign entry; nothing inside a foreign folder is listed.

    Args:
        fs: The file system.
        folder: The output folder.
        job: The job of the folder.
        include_leftovers: Also list temporary files of killed runs.

    Raises:
        PermissionError: This user may not list a folder.
    """
    names = [input.out_rel for input in job.inputs]
    names += [name for old_names in job.replaced_paths.values() for name in old_names]  # until assembled again
    job_files = {manifest.translated_path(folder, name) for name in names}
    job_files |= {path for input in job.inputs for path in manifest.list_paths(folder, input.rel).values()}
    job_folders = {parent for path in job_files for parent in path.parents}
    pending = [folder / "errors", folder / "review", folder / "translated"]
    while pending:
        path = pending.pop()
        stat = stat_or_none(fs, path)
        if stat is None or (
            stat.kind == "file" and (path in job_files or (path.name.startswith(TMP_PREFIX) and not include_leftovers))
        ):
            continue
        if stat.kind == "dir" and (path in job_folders or path.parent == folder):
            pending += [path / name for name in reversed(list_names(fs, path))]
        else:
            type_note = "" if stat.kind == "file" else f" ({describe_type(path) or 'not a file'})"
            yield path, f"does not belong to this job{type_note}"
