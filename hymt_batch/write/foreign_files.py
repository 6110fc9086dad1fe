"""Find what is in translated/ and errors/ but does not belong to the job: files, links, pipes and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, list_names, stat_or_none
from hymt_batch.records import Input
from hymt_batch.storage_error import describe_type
from hymt_batch.write.published_file import TMP_PREFIX


def find(fs: Fs, folder: Path, inputs: Sequence[Input], *, include_leftovers: bool) -> Iterator[str]:
    """Yield one line per foreign entry; nothing inside a foreign folder is listed.

    Args:
        fs: The file system.
        folder: The output folder.
        inputs: The inputs of the job.
        include_leftovers: Also list temporary files of killed runs.

    Raises:
        PermissionError: This user may not list a folder.
    """
    job_files = {manifest.translated_path(folder, input.out_rel) for input in inputs}
    job_files |= {manifest.errors_path(folder, input.rel) for input in inputs}
    job_folders = {parent for path in job_files for parent in path.parents}
    pending = [folder / "errors", folder / "translated"]
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
            yield f"{path.relative_to(folder)}: does not belong to this job{type_note}"
