"""What lies in translated/ and errors/ and is not of the job: files, links, pipes, and folders, empty ones too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hymt_batch import manifest
from hymt_batch.fs import Fs, exists, names
from hymt_batch.records import Input
from hymt_batch.store_error import kind
from hymt_batch.write.final import TMP


def find(fs: Fs, folder: Path, inputs: Sequence[Input], *, half_made: bool) -> Iterator[str]:
    """A line for each of them, and none for what is in it; `half_made` counts what a killed run left.

    Raises:
        PermissionError: This user may not look.
    """
    wanted = {manifest.translated(folder, input.out_rel) for input in inputs}
    wanted |= {manifest.errors_file(folder, input.rel) for input in inputs}
    ways = {above for path in wanted for above in path.parents}
    todo = [folder / "errors", folder / "translated"]
    while todo:
        path = todo.pop()
        found = exists(fs, path)
        if found is None or (
            found.kind == "file" and (path in wanted or (path.name.startswith(TMP) and not half_made))
        ):
            continue
        if found.kind == "dir" and (path in ways or path.parent == folder):
            todo += [path / name for name in reversed(names(fs, path))]
        else:
            what = "" if found.kind == "file" else f" ({kind(path) or 'no file'})"
            yield f"{path.relative_to(folder)}: is not of this job{what}"
