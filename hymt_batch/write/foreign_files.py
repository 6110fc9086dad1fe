"""What lies in translated/ and errors/ and is not of the job: files, links, pipes, and folders, empty ones too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, list_names, stat_or_none
from hymt_batch.records import Input
from hymt_batch.storage_error import describe_type
from hymt_batch.write.published_file import TMP_PREFIX


def find(fs: Fs, folder: Path, inputs: Sequence[Input], *, include_leftovers: bool) -> Iterator[str]:
    """A line for each of them, and none for what is in it; `half_made` counts what a killed run left.

    Raises:
        PermissionError: This user may not look.
    """
    wanted = {manifest.translated_path(folder, input.out_rel) for input in inputs}
    wanted |= {manifest.errors_path(folder, input.rel) for input in inputs}
    ways = {above for path in wanted for above in path.parents}
    todo = [folder / "errors", folder / "translated"]
    while todo:
        path = todo.pop()
        found = stat_or_none(fs, path)
        if found is None or (
            found.kind == "file" and (path in wanted or (path.name.startswith(TMP_PREFIX) and not include_leftovers))
        ):
            continue
        if found.kind == "dir" and (path in ways or path.parent == folder):
            todo += [path / name for name in reversed(list_names(fs, path))]
        else:
            what = "" if found.kind == "file" else f" ({describe_type(path) or 'no file'})"
            yield f"{path.relative_to(folder)}: is not of this job{what}"
